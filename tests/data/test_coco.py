import json

import numpy as np
import pytest
from detection import coco, write_coco

from data.sources import coco as coco_source
from data.sources import coco_by_id
from errors import UserError


def load(root, split="train"):
    return coco_source.load(str(root), split, "")


def test_boxes_areas_and_crowds_are_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    root = write_coco(tmp_path)
    source, api = load(root), COCO(root / "annotations" / "instances_train2017.json")
    for index, image_id in enumerate(source.image_ids):
        found, expected = source.annotations(index), api.imgToAnns[int(image_id)]
        assert len(found) == len(expected)
        for k, annotation in enumerate(expected):
            x, y, w, h = annotation["bbox"]
            assert found.boxes[k].tolist() == [x, y, x + w, y + h]
            assert found.area[k] == annotation.get("area", w * h)
            assert found.crowd[k] == annotation.get("iscrowd", 0)
            assert source.category_ids[found.classes[k]] == annotation["category_id"]
            assert source.classes[found.classes[k]] == api.cats[annotation["category_id"]]["name"]


def test_pictures_without_boxes_are_kept_and_sizes_read_where_missing(tmp_path):
    source = load(write_coco(tmp_path))
    assert len(source) == 3 and source.image_ids.tolist() == [42, 7, 8]
    assert source.sizes.tolist() == [[40, 50], [30, 20], [12, 34]]
    assert len(source.annotations(2)) == 0
    assert source[2]["image"] == (tmp_path / "train2017" / "z.jpg").read_bytes()


def test_classes_are_in_the_order_of_their_ids(tmp_path):
    source = load(write_coco(tmp_path))
    assert source.classes == ("car", "toothbrush") and source.category_ids == (3, 90)


def test_cocos_own_ids():
    assert len(coco_source.CATEGORY_IDS) == 80
    assert np.array(coco_source.CATEGORY_IDS)[[0, 10, 11, 79]].tolist() == [1, 11, 13, 90]


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_val2014.json", "val2014"),
        ("annotations/instances_val.json", "images/val"),
        ("annotations/val.json", "val"),
        ("val.json", "images"),
        ("val.json", "."),
    ],
)
def test_other_layouts_are_found(tmp_path, file, folder):
    made = write_coco(tmp_path / "made", split="val")
    root = tmp_path / "root"
    moves = {"annotations/instances_val2017.json": file} | {f"val2017/{n}.jpg": f"{folder}/{n}.jpg" for n in "xyz"}
    for old, new in moves.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (made / old).rename(root / new)
    assert coco_source.splits(str(root), "") == ("val",)
    assert load(root, "val")[0]["image"]


def changed(**changes):
    """coco() with {"list.index.field": value}; ... deletes the field."""
    content = coco()
    for path, value in changes.items():
        listed, index, field = path.split("__")
        if value is ...:
            del content[listed][int(index)][field]
        else:
            content[listed][int(index)][field] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "json: not JSON .*; fetch or export it again"),
        ("[1]", "json: not in COCO's format, it has no list of images; export it as COCO JSON"),
        ({"images": []}, "json: its list of images is empty; is it the file of another split"),
        ({**coco(), "annotations": []}, "json: its list of annotations is empty"),
        ({**coco(), "categories": {}}, "no list of categories"),
        ({**coco(), "annotations": [1]}, r"annotation 0 \(id \?\) lacks 'id'"),
        (changed(annotations__1__bbox=...), r"annotation 1 \(id 2\) lacks 'bbox'; add it, or remove the annotation"),
        (changed(annotations__0__image_id=...), r"annotation 0 \(id 1\) lacks 'image_id'"),
        (changed(images__1__file_name=...), r"image 1 \(id 7\) lacks 'file_name'"),
        (changed(categories__0__name=...), r"category 0 \(id 90\) lacks 'name'"),
        (changed(annotations__1__category_id=5), "annotation 2 has category_id 5, which is none of its categories"),
        (changed(annotations__1__image_id=43), "annotation 2 has image_id 43, which is none of its images; mend it"),
        (changed(annotations__1__image_id=[]), r"annotation 2 has image_id \[\], which is none"),
        (changed(annotations__1__id=1), "annotation id 1 occurs twice; remove one, or give it its own"),
        (changed(images__1__id=42), "image id 42 occurs twice"),
        (changed(images__1__id=1.5), "image id 1.5 is not a whole number or a text"),
        (changed(categories__0__id=3), "category id 3 occurs twice"),
        (changed(categories__0__name="car"), "category name 'car' occurs twice"),
        (
            changed(annotations__0__bbox=[1, 2, 3]),
            r"annotation 1 has bbox \[1, 2, 3\]; it must be \[x, y, width, height\]",
        ),
        (changed(annotations__0__bbox="1,2,3,4"), "annotation 1 has bbox '1,2,3,4'"),
        (changed(annotations__0__bbox=[1, 2, 3, "x"]), "annotation 1 has bbox .1, 2, 3, 'x'.;"),
        (changed(annotations__0__bbox=[1, 2, float("nan"), 4]), "json: y.jpg: box 1, 2, nan, 6 .*not finite"),
        (changed(images__1__file_name="w.jpg"), "no picture .*train2017/w.jpg; add it, or remove its entry"),
        (changed(images__0__file_name="w.jpg"), "no picture w.jpg in .*train2017, .*; put the pictures into one"),
    ],
)
def test_spoilt_data_is_named(tmp_path, content, message):
    write_coco(tmp_path, content)
    with pytest.raises(UserError, match=f"^{tmp_path}.*{message}"):
        load(tmp_path)


def test_a_folder_without_annotations_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="no annotations; expected .*annotations/instances_train2017.json"):
        coco_source.splits(str(tmp_path), "")


def test_odd_boxes_are_told(tmp_path):
    content = changed(annotations__0__bbox=[1, 2, 0, 4])
    source = load(write_coco(tmp_path, json.loads(json.dumps(content))))
    assert len(source.annotations(1)) == 1
    path = tmp_path / "annotations" / "instances_train2017.json"
    assert source.oddities == f"odd boxes: 1 without width or height (dropped), first in {path}: y.jpg"


def test_by_id_every_id_up_to_the_largest_is_a_class(tmp_path):
    root = write_coco(tmp_path)
    packed, source = load(root), coco_by_id.load(str(root), "train", "")
    assert coco_by_id.splits(str(root), "") == coco_source.splits(str(root), "")
    assert len(source.classes) == 90 and source.classes[2] == "car" and source.classes[89] == "toothbrush"
    assert set(source.classes) == {"car", "toothbrush", "N/A"}
    for index in range(len(source)):
        a, b = packed.annotations(index), source.annotations(index)
        assert [packed.classes[k] for k in a.classes] == [source.classes[k] for k in b.classes]
        assert [packed.category_ids[k] for k in a.classes] == [source.category_ids[k] for k in b.classes]
        np.testing.assert_array_equal(a.boxes, b.boxes)
