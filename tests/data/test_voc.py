import pytest
from detection import voc_xml, write_voc

from data.sources import voc
from errors import UserError


@pytest.fixture
def root(tmp_path):
    return write_voc(tmp_path)


def test_boxes_are_detectron2s_continuous_ones(root):
    source = voc.load(str(root), "train", "")
    assert source.image_ids.tolist() == ["b", "a"] and source.sizes.tolist() == [[40, 50], [40, 50]]
    assert len(source.annotations(0)) == 0
    found = source.annotations(1)
    assert found.boxes.tolist() == [[0, 0, 50, 40], [10, 5, 20, 15]]
    assert found.area.tolist() == [2000, 100] and found.difficult.tolist() == [False, True]
    assert not found.crowd.any() and source.oddities == ""
    assert voc.load(str(root), "val", "").annotations(0).boxes.tolist() == [[1.5, 2, 9, 9.5]]


def test_a_record_is_its_file(root):
    record = voc.load(str(root), "train", "")[1]
    assert record["image"] == (root / "JPEGImages" / "a.jpg").read_bytes()
    assert record["name"] == str(root / "JPEGImages" / "a.jpg")
    assert record["annotations"].boxes.shape == (2, 4)


def test_vocs_own_classes_keep_its_order(root):
    source = voc.load(str(root), "train", "")
    assert len(source.classes) == 20 and list(source.category_ids) == list(range(1, 21))
    assert [source.classes[k] for k in source.annotations(1).classes] == ["dog", "cat"]


def test_other_classes_are_sorted_over_all_splits(root):
    (root / "Annotations" / "c.xml").write_text(voc_xml([("bee", (1, 1, 2, 2), 0)]))
    for split in ("train", "val"):
        assert voc.load(str(root), split, "").classes == ("bee", "cat", "dog")


def test_data_that_counts_from_zero_is_clipped_and_told(root):
    (root / "Annotations" / "a.xml").write_text(voc_xml([("dog", (0, 0, 50, 40), 0)]))
    source = voc.load(str(root), "train", "")
    assert source.annotations(1).boxes.tolist() == [[0, 0, 50, 40]]
    assert source.oddities == f"odd boxes: 1 partly outside the picture (clipped), first in {root}/Annotations/a.xml"


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_the_annotation_lacks_is_the_pictures(root, size):
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<size><width>50</width><height>40</height><depth>3</depth></size>", size))
    assert voc.load(str(root), "train", "").sizes.tolist() == [[40, 50], [40, 50]]


def test_parts_of_an_object_are_left_out(root):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("</object>", f"{part}</object>"))
    assert len(voc.load(str(root), "train", "").annotations(1)) == 2


def test_the_splits_are_the_lists(root):
    assert voc.splits(str(root), "") == ("train", "val")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "JPEGImages/a.jpg").unlink(), "Annotations/a.xml: no picture .*JPEGImages/a.jpg; add it"),
        (lambda r: (r / "Annotations/a.xml").unlink(), "Annotations/a.xml: cannot be read .No such file"),
        (lambda r: (r / "Annotations/a.xml").write_text("<annotation>"), "Annotations/a.xml: not XML"),
        (lambda r: _swap(r, "<name>dog</name>", ""), "a.xml: an <object> lacks <name>; add it"),
        (lambda r: _swap(r, "<xmin>1</xmin>", ""), "a.xml: an <object> lacks <bndbox><xmin>; add it"),
        (
            lambda r: _swap(r, "<xmin>1</xmin>", "<xmin>left</xmin>"),
            "a.xml: <bndbox><xmin> is 'left', no finite number",
        ),
        (lambda r: _swap(r, "<xmin>1</xmin>", "<xmin>nan</xmin>"), "a.xml: <bndbox><xmin> is 'nan', no finite number"),
        (lambda r: _swap(r, "<width>50</width>", "<width>wide</width>"), "a.xml: <size><width> is 'wide', no finite"),
        (lambda r: (r / "ImageSets/Main/train.txt").write_text("a\nb\na\n"), "train.txt: a occurs twice; remove one"),
        (lambda r: (r / "ImageSets/Main/train.txt").write_text("\n"), "train.txt: names no image"),
        (lambda r: (r / "ImageSets/Main/train.txt").write_text("b\n"), "train.txt: not one box in its 1 pictures"),
        (lambda r: [p.unlink() for p in r.glob("ImageSets/*/*")], "Main: no list of pictures; expected one of train"),
    ],
)
def test_spoilt_data_is_named(root, spoil, message):
    spoil(root)
    with pytest.raises(UserError, match=message):
        voc.splits(str(root), "")
        voc.load(str(root), "train", "")


def _swap(root, old, new):
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace(old, new))


def test_a_path_that_is_missing_is_asked_for():
    with pytest.raises(UserError, match="config.data.source is 'voc:' without a path; write voc:/path"):
        voc.splits("", "")
