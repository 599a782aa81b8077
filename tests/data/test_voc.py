import pytest
from detection import voc_xml, write_voc

from morphism.data.annotations import ALL_IGNORED
from morphism.data.sources import voc
from morphism.errors import UserError


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


def test_data_that_counts_from_zero_is_clipped_and_reported(root):
    (root / "Annotations" / "a.xml").write_text(voc_xml([("dog", (0, 0, 50, 40), 0)]))
    source = voc.load(str(root), "train", "")
    assert source.annotations(1).boxes.tolist() == [[0, 0, 50, 40]]
    assert source.oddities == f"odd boxes: 1 partly outside the image (clipped), first in {root}/Annotations/a.xml"


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size><width>0</width><height>0</height></size>",
        "<size><width>1e30</width><height>40</height></size>",
        "<size><width>-50</width><height>-40</height></size>",
    ],
)
def test_a_size_that_the_annotation_lacks_is_the_images(root, size):
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<size><width>50</width><height>40</height><depth>3</depth></size>", size))
    assert voc.load(str(root), "train", "").sizes.tolist() == [[40, 50], [40, 50]]


def test_parts_of_an_object_are_left_out(root):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("</object>", f"{part}</object>"))
    assert len(voc.load(str(root), "train", "").annotations(1)) == 2


OBJECT = (
    "<object><name>dog</name>{}<bndbox><xmin>6</xmin><ymin>6</ymin><xmax>20</xmax><ymax>15</ymax></bndbox></object>"
)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        *(("", 0), ("<difficult/>", 0), ("<difficult> \n</difficult>", 0), ("<difficult>0</difficult>", 0)),
        *(("<difficult>1</difficult>", 1), ("<difficult> 1 </difficult>", 1), ("<difficult>2</difficult>", 1)),
    ],
)
def test_difficult_is_0_where_it_is_missing_or_empty(root, form, expected):
    plain = OBJECT.format("")
    (root / "Annotations" / "a.xml").write_text(f"<annotation>{OBJECT.format(form)}{plain}</annotation>")
    assert voc.load(str(root), "train", "").annotations(1).difficult.tolist() == [bool(expected), False]


@pytest.mark.parametrize("value", ["-1", "0.5", "Unspecified", "nan", "inf"])
def test_difficult_that_is_no_mark_is_refused(root, value):
    text = OBJECT.format(f"<difficult>{value}</difficult>")
    (root / "Annotations" / "a.xml").write_text(f"<annotation>{text}</annotation>")
    with pytest.raises(
        UserError, match=f"a.xml: <difficult> is '{value}', (neither 0 nor 1|no finite number); mend it"
    ):
        voc.load(str(root), "train", "")


BODY = OBJECT.format("<difficult>0</difficult>")
SPACE = 'xmlns="http://example.org/voc"'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"<annotations>{BODY}</annotations>", "its outermost element is <annotations>, not <annotation>"),
        (f"<Annotation>{BODY}</Annotation>", "its outermost element is <Annotation>, not <annotation>"),
        (f"<annotation {SPACE}>{BODY}</annotation>", "its outermost element is <{http://example.org/voc}annotation>"),
        (f"<annotations><annotation>{BODY}</annotation></annotations>", "its outermost element is <annotations>"),
        (
            f"<annotation><annotation>{BODY}</annotation></annotation>",
            "<object> is not where Pascal VOC has its <object>",
        ),
        (f"<annotation><objects>{BODY}</objects></annotation>", "<object> is not where Pascal VOC has its <object>"),
        (f"<annotation>{BODY}</annotation>".replace("object>", "Object>"), "<Object> is not where"),
        (f"<annotation>{BODY}</annotation>".replace("object>", "obj>"), "is not where Pascal VOC has its"),
        (f"<annotation>{BODY}</annotation>".replace("bndbox>", "BndBox>"), "<BndBox> is not where"),
        (f"<annotation>{BODY}</annotation>".replace("difficult>", "Difficult>"), "<Difficult> is not where"),
        (
            f"<annotation>{BODY}</annotation>".replace("<object>", f"<object {SPACE}>"),
            "<{http://example.org/voc}object>",
        ),
        (f"<annotation>{BODY}</annotation>".replace("bndbox>", "box>"), "an <object> lacks <bndbox>; add it"),
        (f"<annotation>{BODY}</annotation>".replace("name>", "Name>"), "an <object> lacks <name>; add it"),
        ('<!DOCTYPE a [<!ENTITY b "dog">]><annotation/>', "declares entities, which annotations do not need; remove"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not XML .unknown encoding"),
        ('<?xml version="1.0" encoding="gbk"?><annotation/>', "not XML .multi-byte encodings"),
        ("<annotation>" + "<a>" * 200_000, "not XML"),
        ("", "not XML .no element found"),
    ],
)
def test_objects_that_are_not_where_the_format_has_them_are_refused_rather_than_lost(root, text, named):
    (root / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(UserError) as caught:
        voc.load(str(root), "train", "")
    assert f"{root}/Annotations/a.xml: " in str(caught.value) and "\n" not in str(caught.value)
    assert named.replace(" .", " (") in str(caught.value)


def test_entities_are_refused_in_utf_16_too(root):
    bomb = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "dog"><!ENTITY c "&b;&b;&b;">]><annotation/>'
    (root / "Annotations" / "a.xml").write_bytes(bomb.encode("utf-16"))
    with pytest.raises(UserError, match="a.xml: declares entities"):
        voc.load(str(root), "train", "")


def test_deep_nesting_and_a_doctype_do_no_harm(root):
    deep = "<a>" * 100_000 + "</a>" * 100_000
    (root / "Annotations" / "a.xml").write_text(f"<!DOCTYPE annotation><annotation>{deep}{BODY}</annotation>")
    assert len(voc.load(str(root), "train", "").annotations(1)) == 1


def test_each_box_of_an_object_is_an_object_and_reported(root):
    second = "<bndbox><xmin>30</xmin><ymin>6</ymin><xmax>40</xmax><ymax>15</ymax></bndbox></object>"
    text = OBJECT.format("<difficult>1</difficult>").replace("</object>", second) + BODY
    (root / "Annotations" / "a.xml").write_text(f"<annotation>{text}</annotation>")
    source = voc.load(str(root), "train", "")
    found = source.annotations(1)
    assert found.boxes.tolist() == [[5, 5, 20, 15], [29, 5, 40, 15], [5, 5, 20, 15]]
    assert found.difficult.tolist() == [True, True, False] and len(set(found.classes.tolist())) == 1
    assert source.oddities == (
        f"odd boxes: 1 beyond the first of their <object> (taken as objects), first in {root}/Annotations/a.xml"
    )


def test_a_split_of_difficult_objects_is_reported(root):
    for name in "ac":
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml([("dog", (1, 1, 50, 40), 1)]))
    assert voc.load(str(root), "train", "").oddities == f"odd boxes: {ALL_IGNORED}"


def test_the_splits_are_the_lists(root):
    assert voc.splits(str(root), "") == ("train", "val")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "JPEGImages/a.jpg").unlink(), "Annotations/a.xml: no image .*JPEGImages/a.jpg; add it"),
        (lambda r: (r / "Annotations/a.xml").unlink(), "Annotations/a.xml: cannot be read .No such file"),
        (lambda r: (r / "Annotations/a.xml").write_text("<annotation>"), "Annotations/a.xml: not XML"),
        (lambda r: _swap(r, "<name>dog</name>", ""), "a.xml: an <object> lacks <name>; add it"),
        (lambda r: _swap(r, "<xmin>1</xmin>", ""), "a.xml: a <bndbox> lacks <xmin>; add it"),
        (lambda r: _swap(r, "<xmin>1</xmin>", "<xmin>left</xmin>"), "a.xml: <xmin> is 'left', no finite number"),
        (lambda r: _swap(r, "<xmin>1</xmin>", "<xmin>nan</xmin>"), "a.xml: <xmin> is 'nan', no finite number"),
        (lambda r: _swap(r, "<xmin>1</xmin>", "<xmin>1e999</xmin>"), "a.xml: <xmin> is '1e999', no finite number"),
        (lambda r: _swap(r, "<width>50</width>", "<width>wide</width>"), "a.xml: <size><width> is 'wide', no finite"),
        (lambda r: (r / "ImageSets/Main/train.txt").write_text("a\nb\na\n"), "train.txt: a occurs twice; remove one"),
        (lambda r: (r / "ImageSets/Main/train.txt").write_text("\n"), "train.txt: names no image"),
        (lambda r: (r / "ImageSets/Main/train.txt").write_text("b\n"), "train.txt: not one box in its 1 images"),
        (
            lambda r: [p.unlink() for p in (*r.glob("ImageSets/*/*"), *r.glob("*/*.xml"))],
            "Main: no list of images; expected one of train",
        ),
    ],
)
def test_spoilt_data_is_named(root, spoil, message):
    spoil(root)
    with pytest.raises(UserError, match=message):
        voc.splits(str(root), "")
        voc.load(str(root), "train", "")


def test_other_splits_may_lack_annotations_or_names(root):
    before = voc.load(str(root), "train", "")
    (root / "ImageSets" / "Main" / "test.txt").write_text("x\nc\n")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    source = voc.load(str(root), "train", "")
    assert source.classes == before.classes and source.image_ids.tolist() == before.image_ids.tolist()
    with pytest.raises(UserError, match="Annotations/x.xml: cannot be read .No such file"):
        voc.load(str(root), "test", "")
    with pytest.raises(UserError, match="trainval.txt: names no image"):
        voc.load(str(root), "trainval", "")


def _swap(root, old, new):
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace(old, new))


def test_a_path_that_is_missing_is_asked_for():
    with pytest.raises(UserError, match="config.data.source is 'voc:' without a path; write voc:/path"):
        voc.splits("", "")
