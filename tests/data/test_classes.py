"""A source judged by the classes that a model was trained on: the same by name, whatever its own order and numbers."""

import json
from itertools import permutations

import numpy as np
import pytest
from detection import voc_xml, write_coco, write_image
from masks import PATTERN, write_masks
from PIL import Image

from morphism.data import sources
from morphism.data.derived import Subset, with_classes
from morphism.data.fingerprint import changed, fingerprint
from morphism.errors import UserError
from morphism.experiments.base import get_base

TRAINED = ("bus", "cat", "dog")


def opened(spec, split="train"):
    data = get_base().data
    data.update(source=str(spec))
    return sources.load(data, split)


def coco(root, categories, kinds=("cat", "dog", "dog"), split="val"):
    """A box of each of `kinds` on one image of three; `categories` is id -> name."""
    number = {name: each for each, name in categories.items()}
    boxes = [
        {"id": k + 1, "image_id": 42, "category_id": number[kind], "bbox": [1 + k, 1, 5 + k, 9]}
        for k, kind in enumerate(kinds)
    ]
    images = [{"id": each, "file_name": f"{name}.jpg"} for each, name in ((42, "x"), (7, "y"), (8, "z"))]
    named = [{"id": each, "name": name} for each, name in categories.items()]
    write_coco(root, json.dumps({"images": images, "annotations": boxes, "categories": named}), split)
    return root


def kinds_of(source, index=0):
    return [source.classes[k] for k in source[index]["annotations"].classes]


@pytest.mark.parametrize(
    "categories",
    [dict(zip((1, 2, 3), order, strict=True)) for order in permutations(TRAINED)]
    + [{1: "cat", 2: "dog"}, {2: "cat", 3: "dog"}, {90: "dog", 7: "cat"}, {1: "dog", 2: "cat", 3: "zebra"}],
)
def test_boxes_keep_their_class_by_name_and_its_own_id(tmp_path, categories):
    """Also where the file lists a class that was not trained on, as long as no box is of it."""
    own = opened(f"coco:{coco(tmp_path, categories)}", "val")
    source = with_classes(own, TRAINED, "val")
    assert tuple(source.classes) == TRAINED
    assert kinds_of(source) == kinds_of(own) == ["cat", "dog", "dog"]
    assert source.annotations(0).classes.tolist() == source.store[0].classes.tolist() == [1, 2, 2]
    assert source.annotations(0).boxes.tolist() == own.annotations(0).boxes.tolist()
    known = {name: each for each, name in categories.items()}
    assert list(source.category_ids) == [known.get(name) for name in TRAINED]
    assert source.image_ids.tolist() == [42, 7, 8] and source.sizes.tolist() == own.sizes.tolist()
    assert len(source) == 3 and source.box_counts[:, 0].tolist() == [3, 0, 0]


def test_the_same_classes_need_no_mapping(tmp_path):
    own = opened(f"coco:{coco(tmp_path, {4: 'bus', 5: 'cat', 6: 'dog'})}", "val")
    assert with_classes(own, list(TRAINED), "val") is own


@pytest.mark.parametrize("kind", ["coco", "coco_by_id"])
def test_a_box_of_a_class_that_was_not_trained_on_is_refused(tmp_path, kind):
    own = opened(f"{kind}:{coco(tmp_path, {1: 'bus', 2: 'cat', 3: 'dgo'}, ('cat', 'dgo'))}", "val")
    with pytest.raises(UserError, match=r"^my val: dgo is not among .*\(bus, cat, dog\); .* of it.*; did you mean dog"):
        with_classes(own, TRAINED, "my val")


def test_where_ids_are_the_classes_ids_and_names_must_agree(tmp_path):
    some = opened(f"coco_by_id:{coco(tmp_path / 'some', {2: 'cat', 3: 'dog'})}", "val")
    source = with_classes(some, TRAINED, "val")
    assert some.classes == ("N/A", "cat", "dog")
    assert kinds_of(source) == ["cat", "dog", "dog"] and list(source.category_ids) == [None, 2, 3]
    for number, categories in enumerate(({1: "cat", 2: "dog"}, {1: "dog", 2: "cat", 3: "bus"})):
        other = opened(f"coco_by_id:{coco(tmp_path / str(number), categories)}", "val")
        with pytest.raises(UserError, match="under the same category id; coco: goes by names alone"):
            with_classes(other, TRAINED, "val")


def test_vocs_twenty_are_no_hindrance_where_only_own_classes_occur(tmp_path):
    """Names that are all VOC's make a folder list VOC's twenty classes."""
    write_image(tmp_path / "JPEGImages" / "a.jpg", 40, 50)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(voc_xml([("person", (1, 1, 50, 40), 0)]))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    source = with_classes(opened(f"voc:{tmp_path}", "test"), ("helmet", "person"), "test")
    assert kinds_of(source) == ["person"] and list(source.category_ids) == [None, 15]


def test_labels_of_a_folder_with_some_of_the_classes(tmp_path):
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    own = opened(f"folder:{tmp_path}")
    source = with_classes(own, TRAINED, "test")
    assert source.labels.tolist() == [source[k]["label"] for k in range(2)] == [1, 2]
    assert with_classes(Subset(own, np.array([1])), TRAINED, "test")[0]["label"] == 2
    with pytest.raises(UserError, match="test: cat is not among"):
        with_classes(own, ("dog", "cow"), "test")


def test_pixels_of_masks_keep_their_class_by_name(tmp_path):
    own = opened(f"masks:{write_masks(tmp_path)}")
    source = with_classes(own, ("sky", "ground", "grass", "road"), "train")
    assert source[0]["segmentation"].dtype == np.uint8
    expected = np.array([1, 3, 0, *[255] * 253], np.uint8)[PATTERN]
    assert source[0]["segmentation"].tolist() == expected.tolist()
    with pytest.raises(UserError, match="train: sky is not among"):
        with_classes(own, ("ground", "road"), "train")


def test_a_fingerprint_changes_with_names_classes_labels_and_boxes(tmp_path):
    def of(kinds=("cat", "dog", "dog"), names=TRAINED):
        coco(tmp_path, dict(enumerate(names, 1)), kinds)
        return opened(f"coco:{tmp_path}", "val")

    first = fingerprint(of())
    assert first == fingerprint(of()) and changed(first, fingerprint(of())) == ""
    others = "its records have other names, classes or annotations"
    assert changed(first, fingerprint(of(("cat", "dog", "cat")))) == others
    assert changed(first, fingerprint(of(names=("cow", "cat", "dog")))) == others
    part = fingerprint(Subset(of(), np.array([0, 1])))
    assert changed(first, part) == "it had 3 records and has 2"
    again = fingerprint(Subset(of(("cat", "dog", "dog")), np.array([0, 1])))
    assert changed(part, again) == ""


def test_a_fingerprint_of_a_part_tells_what_was_added_to_the_other(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(3):
            (tmp_path / name / f"{index}.png").write_bytes(b"x")
    before = fingerprint(Subset(opened(f"folder:{tmp_path}"), np.array([0, 1])))
    (tmp_path / "dog" / "9.png").write_bytes(b"x")
    now = fingerprint(Subset(opened(f"folder:{tmp_path}"), np.array([0, 1])))
    assert changed(before, now) == "in what it is cut from, it had 6 records and has 7"


def test_a_fingerprint_changes_with_a_mask_and_with_what_its_numbers_mean(tmp_path):
    before = fingerprint(opened(f"masks:{write_masks(tmp_path)}"))
    legend = (tmp_path / "classes.txt").read_text()
    (tmp_path / "classes.txt").write_text(legend + "ignore 7\n")
    for source in (opened(f"masks:{tmp_path}"), Subset(opened(f"masks:{tmp_path}"), np.arange(2))):
        assert changed(before, fingerprint(source)) == "its records have other names, classes or annotations"
    (tmp_path / "classes.txt").write_text(legend)
    Image.fromarray(np.zeros_like(PATTERN)).save(tmp_path / "masks" / "train" / "a.png")
    assert changed(before, fingerprint(opened(f"masks:{tmp_path}")))
