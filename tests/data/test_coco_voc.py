import json

import numpy as np
import pytest
from detection import picture
from ml_collections import ConfigDict
from pycocotools import mask as reference

from data import sources
from errors import UserError


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
            picture(tmp_path / f"{split}2017" / each["file_name"], 40, 50)
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


def test_pictures_with_little_to_see_are_left_out_of_train(root):
    assert load(root, "train").image_ids.tolist() == [7]


def test_an_outline_that_cannot_be_read_is_named(root):
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["segmentation"] = "none"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="instances_val2017.json: annotation 2 has no outline that can be read"):
        load(root, "val")
