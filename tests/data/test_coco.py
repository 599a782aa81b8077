import json

import numpy as np
import pytest
from detection import coco, write_coco

from morphism.data import sources
from morphism.data.sources import coco as coco_source
from morphism.data.sources import coco_by_id
from morphism.errors import UserError
from morphism.experiments.base import get_base
from morphism.tasks import coco as coco_ap
from morphism.tasks import detections


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


def test_images_without_boxes_are_kept_and_sizes_read_where_missing(tmp_path):
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
        (
            {**coco(), "annotations": coco()["annotations"][1:2], "images": coco()["images"][1:]},
            "annotation 2 has image_id 42, which is none of its images; mend it",
        ),
        (changed(annotations__1__image_id=[]), r"annotation 2 has image_id \[\], which is none"),
        (changed(images__1__id=42), "image id 42 occurs twice"),
        (changed(images__1__id=1.5), "image id 1.5 is not a whole number or a text"),
        (changed(categories__0__id=3), "category id 3 occurs twice"),
        (
            changed(annotations__0__bbox=[1, 2, 3]),
            r"annotation 1 has bbox \[1, 2, 3\]; it must be \[x, y, width, height\]",
        ),
        (changed(annotations__0__bbox="1,2,3,4"), "annotation 1 has bbox '1,2,3,4'"),
        (changed(annotations__0__bbox=[1, 2, 3, "x"]), "annotation 1 has bbox .1, 2, 3, 'x'.;"),
        (changed(annotations__0__bbox=[1, 2, 3, 10**400]), "annotation 1 has bbox .1, 2, 3, 1000"),
        (changed(annotations__0__bbox=[1, 2, 3, 1e300]), "json: y.jpg: box 1, 2, 4, inf .*not finite"),
        (changed(annotations__0__bbox={}), "annotation 1 has bbox {}"),
        (changed(annotations__0__category_id=True), "annotation 1 has category_id True, which is none"),
        (changed(categories__0__id=None), "category id None is not a whole number or a text"),
        (changed(images__0__id=False), "image id False is not a whole number or a text"),
        ('{"images": ' + "[" * 200_000, "json: not JSON .*recursion.*; fetch or export it again"),
        ('{"images": [' + "1" * 5000, "json: not JSON .*; fetch or export it again"),
        (changed(annotations__0__bbox=[1, 2, float("nan"), 4]), "json: y.jpg: box 1, 2, nan, 6 .*not finite"),
        (changed(images__1__file_name="w.jpg"), "no image .*train2017/w.jpg; add it, or remove its entry"),
        (changed(images__0__file_name="w.jpg"), "no image .*train2017/w.jpg; add it, or remove its entry"),
    ],
)
def test_spoilt_data_is_named(tmp_path, content, message):
    write_coco(tmp_path, content)
    with pytest.raises(UserError, match=f"^{tmp_path}.*{message}") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def repeated(listed, index, **fields):
    content = coco()
    content[listed].append(content[listed][index] | fields)
    return content


@pytest.mark.parametrize(
    ("content", "ids", "boxes", "reported"),  # the boxes are those of pycocotools
    [
        (
            changed(annotations__1__image_id=43),
            [42, 7, 8],
            [0, 2, 0],
            "1 annotations of images that are not listed (dropped), first annotation 2",
        ),
        (
            changed(annotations__1__id=1),
            [42, 7, 8],
            [1, 2, 0],
            "1 annotations with the id of another one (kept), first annotation 1",
        ),
        (repeated("images", 0), [42, 7, 8], [1, 2, 0], "1 images listed again (dropped), first image 42"),
        (
            repeated("images", 0, id=9),
            [42, 7, 8, 9],
            [1, 2, 0, 0],
            "1 images of a file that another one has (kept), first image 9",
        ),
    ],
)
def test_what_pycocotools_accepts_is_read_and_reported(tmp_path, content, ids, boxes, reported):
    from pycocotools.coco import COCO

    root = write_coco(tmp_path, content)
    path = root / "annotations" / "instances_train2017.json"
    source, api = load(root), COCO(path)
    assert source.image_ids.tolist() == ids and set(ids) == set(api.getImgIds())
    assert source.box_counts[:, 0].tolist() == boxes == [len(api.imgToAnns[each]) for each in ids]
    assert source.oddities.startswith(f"odd records in {path}: {reported}; odd boxes: ")


def test_an_annotation_listed_again_is_dropped_and_reported(tmp_path):
    source = load(write_coco(tmp_path, repeated("annotations", 0)))
    assert source.box_counts[:, 0].tolist() == [1, 2, 0]
    assert "1 annotations listed again (dropped), first annotation 1; odd boxes: " in source.oddities


def test_categories_of_one_name_are_told_apart(tmp_path):
    source = load(write_coco(tmp_path, changed(categories__0__name="car")))
    assert source.classes == ("car (id 3)", "car (id 90)") and source.category_ids == (3, 90)
    assert source.oddities.startswith(
        "odd categories: 1 names of several categories (told apart by their ids), first 'car'"
    )
    assert [source.annotations(k).classes.tolist() for k in range(3)] == [[1], [0, 1], []]


def test_roboflows_layout_is_found(tmp_path):
    for split, name in (("train", "train"), ("val", "valid")):
        made = write_coco(tmp_path / "made", split=split)
        (made / f"{split}2017").rename(tmp_path / name)
        (made / "annotations" / f"instances_{split}2017.json").rename(tmp_path / name / "_annotations.coco.json")
    data = get_base("detection").data
    data.source = f"coco:{tmp_path}"
    assert coco_source.splits(str(tmp_path), "") == ("train", "valid")
    assert sources.load(data, "val").root == tmp_path / "valid" and len(sources.load(data, "train")[0]["image"])


def test_a_folder_without_annotations_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="no annotations; expected .*annotations/instances_train2017.json"):
        coco_source.splits(str(tmp_path), "")


def test_odd_boxes_are_reported(tmp_path):
    content = changed(annotations__0__bbox=[1, 2, 0, 4])
    source = load(write_coco(tmp_path, json.loads(json.dumps(content))))
    assert len(source.annotations(1)) == 1
    path = tmp_path / "annotations" / "instances_train2017.json"
    assert source.oddities == (
        f"odd boxes: 1 without width or height (dropped), first in {path}: y.jpg; "
        f"1 without a usable area (it is the outline's, or the box's), first in {path}: y.jpg"
    )


@pytest.mark.parametrize("value", [0, 1, False, True, 0.0, 1.0, None, ...])
def test_a_crowd_is_marked_by_0_or_1_true_or_false(tmp_path, value):
    source = load(write_coco(tmp_path, changed(annotations__0__iscrowd=value)))
    assert source.annotations(1).crowd.tolist() == [value in (1, True), False]


@pytest.mark.parametrize("value", ["0", "1", "false", "no", "", [], [0], {}, 2, -1, 0.5, float("nan")])
def test_a_crowd_marked_otherwise_is_refused(tmp_path, value):
    write_coco(tmp_path, changed(annotations__0__iscrowd=value))
    with pytest.raises(UserError, match=r"2017.json: annotation 1 has iscrowd .*; it must be 0 or 1, a number"):
        load(tmp_path)


@pytest.mark.parametrize("area", [..., None, "9.5", True, [], 0, -9.5, float("nan"), float("inf"), 1e11, 10**400])
@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [(..., 14), ([[1, 2, 4, 2, 4, 4, 1, 4]], 6), ([[1, 2]], 14), ("broken", 14), ({"size": [30, 20]}, 14)],
)
def test_an_area_that_cannot_be_is_the_outlines_or_the_boxs(tmp_path, area, segmentation, expected):
    content = changed(annotations__0__area=area)
    if segmentation is not ...:
        content["annotations"][0]["segmentation"] = segmentation
    source = load(write_coco(tmp_path, content))
    assert source.annotations(1).area.tolist() == [expected, 25]
    assert "2 without a usable area" in source.oddities


@pytest.mark.parametrize("ids", [(2**70, 7, "8"), (-(2**63), 2**63, 8), ("x", "7", "z"), (1.0, 2.0, 3.0), (1, "1", 2)])
def test_ids_of_any_size_and_kind_reach_the_results_file(tmp_path, ids):
    content = coco()
    for image, new in zip(content["images"], ids, strict=True):
        for each in content["annotations"]:
            each["image_id"] = new if each["image_id"] == image["id"] else each["image_id"]
        image["id"] = new
    content["categories"][0]["id"] = content["annotations"][1]["category_id"] = 2**70
    content["annotations"][2]["category_id"] = 2**70
    content["categories"][1]["id"] = content["annotations"][0]["category_id"] = "car"
    source = load(write_coco(tmp_path, content))
    assert source.classes == ("toothbrush", "car") and source.category_ids == (2**70, "car")
    found = {
        "id": np.arange(3),
        "boxes": np.ones((3, 1, 4)),
        "scores": np.ones((3, 1)),
        "classes": np.array([[0], [1], [0]]),
    }
    nothing = source.annotations(0)[np.zeros(len(source.annotations(0)), bool)]
    gathered = detections.update_metrics(detections.init_metrics(), found, [nothing] * 3)
    results = json.loads(json.dumps(coco_ap.results(gathered, source.category_ids, source.image_ids)))
    assert [each["image_id"] for each in results] == list(ids)
    assert [each["category_id"] for each in results] == [2**70, "car", 2**70]


def test_a_file_name_is_the_path_that_it_means(tmp_path):
    source = load(
        write_coco(
            tmp_path,
            changed(
                images__0__file_name="./x.jpg",
                images__1__file_name="a/..//y.jpg",
                images__2__file_name=".\\a\\..\\z.jpg",
            ),
        )
    )
    assert [name.decode() for name in source.files] == ["x.jpg", "y.jpg", "z.jpg"]
    write_coco(tmp_path, changed(images__0__file_name="./y.jpg", images__0__height=30, images__0__width=20))
    source = load(tmp_path)
    assert [name.decode() for name in source.files] == ["y.jpg", "y.jpg", "z.jpg"]
    assert ".json: 1 images of a file that another one has (kept), first image 7; odd boxes: " in source.oddities


@pytest.mark.parametrize("height", [None, "30", 0, -1, 10**12, 10**400, 1e300, True, 30.5])
def test_a_size_that_cannot_be_is_the_images(tmp_path, height):
    assert load(write_coco(tmp_path, changed(images__1__height=height))).sizes.tolist()[1] == [30, 20]


def test_a_split_of_crowds_is_reported(tmp_path):
    content = changed(annotations__0__iscrowd=1)
    content["annotations"][2]["iscrowd"] = 1
    assert "all are crowds or difficult" in load(write_coco(tmp_path, content)).oddities


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


@pytest.mark.parametrize("number", [0, 1001, "90", 2**70])
def test_by_id_needs_ids_that_are_small_numbers(tmp_path, number):
    content = changed(categories__0__id=number, annotations__1__category_id=number, annotations__2__category_id=number)
    with pytest.raises(UserError, match="coco_by_id:.*: category ids are .*, not 1 to 1000; use coco:"):
        coco_by_id.load(str(write_coco(tmp_path, content)), "train", "")
