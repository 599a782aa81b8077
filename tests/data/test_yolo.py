import numpy as np
import pytest
import yaml
from detection import write_image, write_yolo

from morphism.data.sources import yolo
from morphism.errors import UserError


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


def test_an_image_without_labels_has_no_objects(root):
    assert len(yolo.load(str(root), "train", "").annotations(1)) == 0
    (root / "labels" / "train" / "b.txt").write_text("")
    assert len(yolo.load(str(root), "train", "").annotations(1)) == 0


def test_val_has_its_own_images_and_the_same_classes(root):
    assert yolo.splits(str(root), "") == ("train", "val")
    assert yolo.load(str(root), "val", "").annotations(0).boxes.tolist() == [[20, 5, 60, 15]]


def test_a_folder_for_each_split_is_the_same_data(root):
    alike = {split: yolo.load(str(root), split, "") for split in ("train", "val")}
    for split, name in (("train", "train"), ("val", "valid")):
        (root / name).mkdir()
        (root / "images" / split).rename(root / name / "images")
        (root / "labels" / split).rename(root / name / "labels")
    assert yolo.splits(str(root), "") == ("train", "valid")
    for split, name in (("train", "train"), ("val", "valid")):
        source = yolo.load(str(root), name, "")
        assert source.image_ids.tolist() == alike[split].image_ids.tolist()
        for index in range(len(source)):
            np.testing.assert_array_equal(source.annotations(index).boxes, alike[split].annotations(index).boxes)
            assert source[index]["name"].startswith(str(root / name / "images"))


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


@pytest.mark.parametrize(
    "text",
    [
        "names:\n- cat\n# - dog, later\n- 犬\n",
        "names: [cat, 犬,]",
        "names: [\n  cat,\n  犬,\n]",
        '{"names": ["cat", "犬"], "nc": 2}',
        "names:\n  1: 犬\n  0: cat\n",
        "names: ['x']\nnames: ['cat', '犬']",
    ],
)
def test_names_are_what_yaml_says(root, text):
    (root / "classes.txt").rename(root / "data.yaml").write_text(text)
    names = yaml.safe_load(text)["names"]
    expected = [names[key] for key in sorted(names)] if isinstance(names, dict) else names
    assert list(yolo.classes(str(root), "")) == expected == ["cat", "犬"]


def test_names_are_as_they_are_written(root):
    (root / "classes.txt").rename(root / "data.yml").write_text("names: [no, 1e3, 2020-01-01, 'it''s', \"a, b #1\"]\n")
    assert yolo.classes(str(root), "") == ("no", "1e3", "2020-01-01", "it's", "a, b #1")
    (root / "data.yml").write_text("nc: 2\n")
    assert yolo.classes(str(root), "") == ("class_0", "class_1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nc: two", "data.yaml: nc is 'two', not the number of classes; mend it"),
        ("nc: 3\nnames: [cat, dog]", "data.yaml: nc is 3, but there are 2 names; mend one of them"),
        ("train: images", "data.yaml: no names of classes found; write them as names: "),
        ("names: cat", "data.yaml: no names of classes found"),
        ("names: [[cat], dog]", "data.yaml: no names of classes found"),
        ("names: {a: b}", "data.yaml: its 1 names are not numbered 0 to 0; mend them"),
        ("names: {0: cat, 2: dog}", "data.yaml: its 2 names are not numbered 0 to 1; mend them"),
        ("names:\n  - cat\n  -\n  - cow\n", "data.yaml: class 1 has no name; write one"),
        ("nc: 2\nnames: [cat\n", "data.yaml:3: not YAML .expected ',' or"),
        ("a: \x07", "data.yaml: not YAML .unacceptable character"),
        ("[" * 1_000, "data.yaml: nested too deeply; mend it"),
    ],
)
def test_a_data_yaml_that_is_not_understood_is_refused_in_one_line(root, text, message):
    (root / "classes.txt").rename(root / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        yolo.classes(str(root), "")
    assert len(str(caught.value).splitlines()) == 1


def test_two_lists_of_classes_must_agree(root):
    (root / "data.yaml").write_text("names: [cat, 犬]")
    assert yolo.classes(str(root), "") == ("cat", "犬")
    (root / "data.yaml").write_text("names: [犬, cat]")
    with pytest.raises(UserError, match="classes.txt names 2 classes, .*data.yaml 2 others; remove one of them"):
        yolo.classes(str(root), "")


def test_folders_within_a_split_and_suffixes_in_any_case_are_read(root):
    write_image(root / "images" / "train" / "day2" / "a.JPG", 40, 50)
    (root / "labels" / "train" / "day2").mkdir()
    (root / "labels" / "train" / "day2" / "a.TXT").write_text("0 .5 .5 .2 .2\n")
    (root / "labels" / "train" / "classes.txt").write_text("cat\n犬\n")
    (root / "labels" / "train" / "a.json").touch()
    source = yolo.load(str(root), "train", "")
    assert source.image_ids.tolist() == ["a", "b", "day2/a"]
    assert [len(source.annotations(index)) for index in range(3)] == [2, 0, 1]
    assert source.oddities == f"odd files: 2 that are no labels (passed over), first {root}/labels/train/a.json"


def test_a_line_that_repeats_another_is_dropped_and_reported(root):
    text = "1 .5 .5 .2 .2\n0 .5 .5 .2 .2\n1 0.50 .5 .2 .2\n1 .5 .5 .2 .3\n0 .5 .5 .2 .2\n"
    (root / "labels" / "train" / "b.txt").write_text(text)
    source = yolo.load(str(root), "train", "")
    assert source.annotations(1).classes.tolist() == [1, 0, 1] and len(source.annotations(0)) == 2
    assert source.oddities == (
        f"odd labels: 2 lines that repeat one above (dropped), first in {root}/labels/train/b.txt"
    )


def test_labels_without_an_image_are_passed_over_and_reported(root):
    for name in ("x.txt", "y.TXT", "a.csv"):
        (root / "labels" / "train" / name).write_text("0 .5 .5 .5 .5\n")
    source = yolo.load(str(root), "train", "")
    assert source.image_ids.tolist() == ["a", "b"] and source.box_counts[:, 0].tolist() == [2, 0]
    assert source.oddities == (
        f"odd files: 1 that are no labels (passed over), first {root}/labels/train/a.csv; "
        f"odd labels: 2 without an image (passed over), first {root}/labels/train/x.txt"
    )


LIST = "./pics/tr/images/a.jpg\r\npics\\tr\\images\\b.png\r\n"  # as Windows writes it


@pytest.mark.parametrize(
    ("images", "labels", "description"),  # where those of train are, and what of data.yaml tells so
    [
        ("images/train", "labels/train", ""),
        ("images/train", "labels/train", "train: /content/data/images/train\nval:\n"),  # of another machine
        ("train/images", "train/labels", ""),
        ("train/images", "train/labels", "train: ../train/images\nval: ../valid/images\n"),  # as Roboflow exports it
        ("images/tr", "labels/tr", "train: images/tr\n"),
        ("pics/tr", "pics/tr", "path: pics\ntrain: tr\n"),
        ("pics/images", "pics/labels", "path: ./pics\ntrain: [images]\n"),
        ("pics/tr/images", "pics/tr/labels", "path: /nowhere\ntrain: pics/tr\n"),
        ("pics/tr/images", "pics/tr/labels", "train: list.txt\n"),
        ("pics/tr/images", "pics/tr/labels", "train: [list.txt, pics/tr/images]\n"),
        ("pics/images/images", "pics/images/labels", "train: pics/images/images"),
    ],
)
def test_images_are_where_the_layout_or_data_yaml_says(tmp_path, images, labels, description):
    made, root = write_yolo(tmp_path / "made"), tmp_path / "root"
    (root / images).parent.mkdir(parents=True)
    (made / "images" / "train").rename(root / images)
    (root / labels).parent.mkdir(parents=True, exist_ok=True)
    (root / labels).mkdir(exist_ok=True)
    (made / "labels" / "train" / "a.txt").rename(root / labels / "a.txt")
    (root / "list.txt").write_text(LIST)
    (root / "data.yaml").write_text(f"names: [cat, dog]\n{description}")
    assert yolo.splits(str(root), "") == ("train",)
    source = yolo.load(str(root), "train", "")
    assert [name.split("/")[-1] for name in source.image_ids.tolist()] == ["a", "b"] and source.oddities == ""
    assert source.annotations(0).boxes.tolist() == [[0, 0, 50, 40], [10, 8, 20, 12]] and len(source.annotations(1)) == 0
    assert source[0]["image"] == (root / images / "a.jpg").read_bytes()


def test_a_split_that_data_yaml_names_is_there_once(root):
    (root / "images" / "val").rename(root / "images" / "valid")
    (root / "classes.txt").rename(root / "data.yaml").write_text("names: [cat, dog]\nval: images/valid\ntest: \n")
    assert yolo.splits(str(root), "") == ("train", "val")


def test_a_list_names_images_that_are_there(root):
    (root / "classes.txt").rename(root / "data.yaml").write_text("names: [cat, dog]\ntrain: train.txt\n")
    (root / "train.txt").write_text("images/train/a.jpg\nimages/train/x.jpg\n")
    with pytest.raises(UserError, match="train.txt: no image .*images/train/x.jpg; add it, or remove its line"):
        yolo.load(str(root), "train", "")


def test_of_lines_with_keypoints_the_box_is_read(root):
    (root / "classes.txt").rename(root / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: [2, 3]\n")
    (root / "labels" / "train" / "a.txt").write_text("1 .5 .5 .2 .5 .1 .1 2 .9 .9 0\n0 .2 .1 .6 .5 .4 .9\n")
    found = yolo.load(str(root), "train", "").annotations(0)
    np.testing.assert_allclose(found.boxes, [[20, 10, 30, 30], [10, 4, 30, 36]], rtol=1e-6)


def test_an_outline_becomes_the_box_around_it(root):
    (root / "labels" / "train" / "a.txt").write_text("1 .2 .1 .6 .5 .4 .9\n")
    np.testing.assert_allclose(yolo.load(str(root), "train", "").annotations(0).boxes, [[10, 4, 30, 36]], rtol=1e-6)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels/train/a.txt", "0 .5 .5 .5", "a.txt:1: '0 .5 .5 .5' is not 'class cx cy w h'; mend"),
        ("labels/train/a.txt", "\n0 .5 .5 .5 x", "a.txt:2: '0 .5 .5 .5 x' is not"),
        ("labels/train/a.txt", "2 .5 .5 .5 .5", "a.txt:1: class 2 is none of the 2 classes, 0 to 1; mend it"),
        ("labels/train/a.txt", "0.5 .5 .5 .5 .5", "a.txt:1: class 0.5 is none of the 2 classes"),
        ("labels/train/a.txt", "0 25 20 50 40", "a.txt:1: cx, cy, w, h must be shares of the image"),
        ("labels/train/a.txt", "0 .5 nan .5 .5", "a.txt: box .*nan.* is not finite"),
        ("labels/train/a.txt", "", "labels/train: not one box in its 2 images"),
        ("classes.txt", "", "classes.txt: no names of classes found"),
        ("classes.txt", "cat\n\ndog", "classes.txt: class 1 has no name; write one"),
        ("labels/train/a.txt", "1 .1 .1 .2 .2 .3", "a.txt:1: '1 .1 .1 .2 .2 .3' is not 'class cx cy w h'; mend"),
        ("classes.txt", "cat\ncat", "classes.txt: 'cat' names two classes; rename one"),
        ("images/train/b.png", "text", "b.png: cannot be decoded"),
    ],
)
def test_spoilt_data_is_named(root, file, text, message):
    (root / file).write_text(text)
    with pytest.raises(UserError, match=f"^{root}.*{message}"):
        yolo.load(str(root), "train", "")


def test_missing_names_and_images_are_asked_for(root):
    (root / "classes.txt").unlink()
    with pytest.raises(UserError, match="neither classes.txt nor data.yaml; write classes.txt"):
        yolo.load(str(root), "train", "")
    write_names = root / "classes.txt"
    write_names.write_text("cat\n")
    (root / "images" / "val" / "c.jpg").unlink()
    with pytest.raises(UserError, match="images/val: no images; put them there"):
        yolo.load(str(root), "val", "")
    write_image(root / "images" / "val" / "c.jpg", 20, 80)
    assert len(yolo.load(str(root), "val", "")) == 1


def test_a_folder_without_splits_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="images: no folder of a split; expected .*images/train"):
        yolo.splits(str(tmp_path), "")
