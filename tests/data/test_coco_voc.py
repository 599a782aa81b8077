import json

import numpy as np
import pytest
from detection import write_image
from ml_collections import ConfigDict
from pycocotools import mask as reference

from morphism.data import sources
from morphism.data.fingerprint import fingerprint
from morphism.errors import UserError


def square(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def annotation(number, image, category, outline, area=2000, **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [0, 0, 5, 5],
        "area": area,
        "segmentation": outline,
        **more,
    }


@pytest.fixture
def root(tmp_path):
    crowd = np.zeros((40, 50), np.uint8)
    crowd[30:38, 5:45] = 1
    counts = reference.encode(np.asfortranarray(crowd))
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, crowd.ravel(order="F"), 2]))).tolist()
    assert counts["size"] == [40, 50]
    annotations = [
        annotation(1, 7, 1, square(2, 2, 20, 20)),  # person
        annotation(2, 7, 17, square(10, 10, 30, 30)),  # cat, over the person
        annotation(3, 7, 2, {"size": [40, 50], "counts": runs}, iscrowd=1),  # bicycles
        annotation(4, 7, 90, square(0, 0, 50, 40)),  # a toothbrush, which VOC has not
        annotation(5, 8, 1, square(0, 0, 5, 5), area=25),
        annotation(6, 9, 90, square(0, 0, 5, 5)),
    ]
    for split in ("train", "val"):
        images = [{"id": k, "file_name": f"{k}.jpg", "height": 40, "width": 50} for k in (7, 8, 9)]
        for each in images:
            write_image(tmp_path / f"{split}2017" / each["file_name"], 40, 50)
        names = {1: "person", 2: "bicycle", 17: "cat", 90: "toothbrush"}
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": k, "name": v} for k, v in names.items()],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return tmp_path


def load(root, split):
    data = ConfigDict({"source": f"coco_voc:{root}", "data_dir": "", "val_fraction": 0.0, "split_seed": 0})
    return sources.load(data, split)


def test_pixels_have_vocs_classes_and_where_objects_overlap_none(root):
    source = load(root, "val")
    assert len(source) == 3 and len(source.classes) == 21 and source.sizes.tolist() == [[40, 50]] * 3
    expected = np.zeros((40, 50), np.uint8)
    expected[2:20, 2:20] = source.classes.index("person")
    expected[10:30, 10:30] = source.classes.index("cat")
    expected[10:20, 10:20] = 255
    expected[30:38, 5:45] = source.classes.index("bicycle")
    np.testing.assert_array_equal(source[0]["segmentation"], expected)
    assert set(np.unique(source[1]["segmentation"])) == {0, 15} and not source[2]["segmentation"].any()


def test_a_fingerprint_needs_no_legend(root):
    assert fingerprint(load(root, "val"))["records"] == 3


def test_images_with_little_to_see_are_left_out_of_train(root):
    assert load(root, "train").image_ids.tolist() == [7]


def change(root, split, **columns):
    """Writes over the annotations of `split`: column=[value for the first, the second, ...], ... deletes the field."""
    path = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    for column, values in columns.items():
        for each, value in zip(content["annotations"], values, strict=False):
            each.pop(column, None)
            each.update({} if value is ... else {column: value})
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("outline", ["none", [[1, 2, 3, "x"]], {"size": [50, 40], "counts": [2000]}, {"counts": "abc"}])
def test_an_outline_that_cannot_be_read_is_named(root, outline):
    change(root, "val", segmentation=[[], outline])
    with pytest.raises(UserError, match="val2017.json: annotation 2 has a segmentation that cannot be read: .*; mend"):
        load(root, "val")


def test_compressed_run_lengths_are_the_same_outline(root):
    expected = load(root, "val")[0]["segmentation"]
    crowd = np.zeros((40, 50), np.uint8)
    crowd[30:38, 5:45] = 1
    counts = reference.encode(np.asfortranarray(crowd))["counts"].decode()
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][2]["segmentation"]["counts"] = counts
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(load(root, "val")[0]["segmentation"], expected)


@pytest.mark.parametrize("outline", [..., None, [], [[]], [[5, 5]], [[5, 5, 25, 15]], [[5, 5, 25, 15, 9]]])
def test_the_box_of_an_object_without_an_outline_is_ignored_and_reported(root, outline):
    change(root, "val", segmentation=[outline], bbox=[[2, 3, 6, 4]])
    source = load(root, "val")
    found = source[0]["segmentation"]
    assert (found[3:7, 2:8] == 255).all() and not (found[:10, :30] == 15).any()
    assert "1 objects without an outline (their boxes are ignored), first annotation 1" in source.oddities
    assert ("polygons of fewer than 3 points" in source.oddities) == (outline not in (..., None, []))
    change(root, "val", bbox=[...])  # nor a box: nothing is known of where it is
    assert not (load(root, "val")[0]["segmentation"][:10, :10] > 0).any()


def test_polygons_of_too_few_points_are_left_out_next_to_a_right_one(root):
    change(root, "val", segmentation=[[[5, 5, 25, 15], *square(2, 2, 8, 8)]])
    source = load(root, "val")
    assert (source[0]["segmentation"] == 15).sum() == 36
    assert source.oddities.endswith("odd number of coordinates (these are left out), first annotation 1")


@pytest.mark.parametrize("area", [..., None, "2000", 0, -5, float("inf"), float("nan")])
def test_an_area_that_cannot_be_is_the_outlines(root, area):
    change(root, "train", area=[area, area, area, 2000, 25])
    source = load(root, "train")  # 324 + 400 + 320 pixels
    assert source.image_ids.tolist() == [7]
    assert source.oddities.endswith("3 without a usable area (it is the outline's, or the box's), first annotation 1")
    change(root, "train", area=[area, area, 1])
    with pytest.raises(UserError, match="no outline of an object of VOC's classes in an image where they cover more"):
        load(root, "train")


def test_categories_are_known_by_name_whatever_their_ids(root):
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    names = ["Couch", "tvmonitor", "airplane", "zebra"]  # of ids that COCO gives to others
    for each, name in zip(content["categories"], names, strict=True):
        each["name"] = name
    path.write_text(json.dumps(content))
    source = load(root, "val")
    present = [source.classes[k] for k in np.unique(source[0]["segmentation"]) if k != 255]
    assert present == ["background", "aeroplane", "sofa", "tvmonitor"]
    for each in content["categories"]:
        each["name"] = f"kind {each['id']}"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="none of its categories is one of aeroplane, .*airplane.*; rename them"):
        load(root, "val")


def test_every_name_of_cocos_is_a_class_of_vocs():
    from morphism.data.sources.coco_voc import CLASSES, COCO_NAMES, _class

    assert [_class(name) for name in CLASSES] == list(range(21))
    assert {CLASSES[_class(name)] for name in COCO_NAMES} == set(COCO_NAMES.values())
    assert _class("zebra") == 0


def test_crowds_alone_are_something_to_learn_of_pixels(root):
    change(root, "train", iscrowd=[1] * 6)
    assert load(root, "train").image_ids.tolist() == [7]


def test_a_split_without_an_outline_is_refused(root):
    change(root, "val", segmentation=[...] * 6)
    with pytest.raises(UserError, match="val2017.json: no outline of an object of VOC's classes; look at"):
        load(root, "val")
