import pytest
from detection import picture, write_yolo

from data.sources import yolo
from errors import UserError


@pytest.fixture
def root(tmp_path):
    return write_yolo(tmp_path)


def test_shares_become_pixels(root):
    source = yolo.load(str(root), "train", "")
    assert source.classes == ("cat", "犬") and list(source.category_ids) == [1, 2]
    assert source.image_ids.tolist() == ["a", "b"] and source.sizes.tolist() == [[40, 50], [40, 50]]
    found = source.annotations(0)
    assert found.boxes.tolist() == [[0, 0, 50, 40], [10, 8, 20, 12]] and found.classes.tolist() == [1, 0]
    assert source[0]["image"] == (root / "images" / "train" / "a.jpg").read_bytes()


def test_a_picture_without_labels_has_no_objects(root):
    assert len(yolo.load(str(root), "train", "").annotations(1)) == 0
    (root / "labels" / "train" / "b.txt").write_text("")
    assert len(yolo.load(str(root), "train", "").annotations(1)) == 0


def test_val_has_its_own_pictures_and_the_same_classes(root):
    assert yolo.splits(str(root), "") == ("train", "val")
    assert yolo.load(str(root), "val", "").annotations(0).boxes.tolist() == [[20, 5, 60, 15]]


@pytest.mark.parametrize(
    "text",
    [
        "path: .\nnc: 2\nnames: ['cat', '犬']  # two\n",
        "names: [cat, 犬]",
        "names: {0: 'cat', 1: '犬'}",
        "names:\n  - cat\n  - '犬'\nnc: 2",
        "names:\n- cat\n- 犬\n",
        'names:\n  0: cat\n  1: "犬"\n\ntrain: images/train',
    ],
)
def test_names_are_read_from_data_yaml(root, text):
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text(text)
    assert yolo.classes(str(root), "") == ("cat", "犬")


@pytest.mark.parametrize("text", ["nc: 2", "names: &x", "names: {a: b}", "names:\n  1: cat\n"])
def test_a_data_yaml_that_is_not_understood_is_refused(root, text):
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text(text)
    with pytest.raises(
        UserError, match="data.yaml: no names of classes found; write them into .*classes.txt, one a line"
    ):
        yolo.classes(str(root), "")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels/train/a.txt", "0 .5 .5 .5", "a.txt:1: '0 .5 .5 .5' is not 'class cx cy w h'; mend"),
        ("labels/train/a.txt", "\n0 .5 .5 .5 x", "a.txt:2: '0 .5 .5 .5 x' is not"),
        ("labels/train/a.txt", "2 .5 .5 .5 .5", "a.txt:1: class 2 is none of the 2 classes, 0 to 1; mend it"),
        ("labels/train/a.txt", "0.5 .5 .5 .5 .5", "a.txt:1: class 0.5 is none of the 2 classes"),
        ("labels/train/a.txt", "0 25 20 50 40", "a.txt:1: cx, cy, w, h must be shares of the picture"),
        ("labels/train/a.txt", "0 .5 nan .5 .5", "a.txt: box .*nan.* is not finite"),
        ("labels/train/a.txt", "", "labels/train: not one box in its 2 pictures"),
        ("labels/train/x.txt", "0 .5 .5 .5 .5", "x.txt: no picture .*images/train/x.jpg; add it, or remove this file"),
        ("classes.txt", "", "classes.txt: no names of classes found"),
        ("classes.txt", "cat\ncat", "classes.txt: 'cat' names two classes; rename one"),
        ("images/train/b.png", "text", "b.png: cannot be decoded"),
    ],
)
def test_spoilt_data_is_named(root, file, text, message):
    (root / file).write_text(text)
    with pytest.raises(UserError, match=f"^{root}.*{message}"):
        yolo.load(str(root), "train", "")


def test_missing_names_and_pictures_are_asked_for(root):
    (root / "classes.txt").unlink()
    with pytest.raises(UserError, match="neither classes.txt nor data.yaml; write classes.txt"):
        yolo.load(str(root), "train", "")
    write_names = root / "classes.txt"
    write_names.write_text("cat\n")
    (root / "images" / "val" / "c.jpg").unlink()
    with pytest.raises(UserError, match="images/val: no pictures; put them there"):
        yolo.load(str(root), "val", "")
    picture(root / "images" / "val" / "c.jpg", 20, 80)
    assert len(yolo.load(str(root), "val", "")) == 1


def test_a_folder_without_splits_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="images: no folder of a split; expected .*images/train"):
        yolo.splits(str(tmp_path), "")
