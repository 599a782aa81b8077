import pickle

import corpus
import numpy as np
import pytest
from PIL import Image

from morphism.data.annotations import (
    ALL_IGNORED,
    check_size,
    image_size,
    named_images,
    pack,
    packed_ids,
    packed_names,
    stated_size,
)
from morphism.data.file_source import BoxedFiles
from morphism.errors import UserError

SIZES = np.array([[100, 200], [50, 60], [40, 40]], np.int32)


def packed(owner, boxes, sizes=SIZES, **more):
    owner, boxes = np.array(owner, np.int64), np.array(boxes, np.float64).reshape(-1, 4)
    classes = np.array(more.pop("classes", range(len(owner))), np.int32)
    kinds = {"crowd": bool, "difficult": bool, "area": np.float64}
    columns = {key: np.array(more.pop(key), kind) for key, kind in kinds.items() if key in more}
    return pack(owner, boxes, classes, sizes, lambda i: f"p{i}.xml", where="list.txt", **columns, **more)


def test_each_image_gets_its_own_boxes_in_their_order():
    store = packed([1, 0, 1, 0], [[0, 0, 9, 9], [1, 1, 5, 6], [2, 2, 4, 4], [7, 7, 8, 8]])
    assert store[0].boxes.tolist() == [[1, 1, 5, 6], [7, 7, 8, 8]] and store[0].classes.tolist() == [1, 3]
    assert store[1].boxes.tolist() == [[0, 0, 9, 9], [2, 2, 4, 4]] and store[1].classes.tolist() == [0, 2]
    assert len(store[2]) == 0 and store[2].boxes.shape == (0, 4)
    assert store.oddities == ""
    assert [store[0].boxes.dtype, store[0].classes.dtype, store[0].crowd.dtype, store[0].area.dtype] == [
        np.float32,
        np.int32,
        bool,
        np.float64,
    ]


def test_odd_boxes_are_set_right_by_the_rules_and_reported_in_one_line():
    boxes = [
        *([-5, 10, 20, 30], [190, 90, 230, 130], [0, 0, 200.05, 100]),  # clipped, clipped, rounding
        *([5, 5, 5, 9], [9, 9, 8, 12]),  # no width, negative width
        *([210, 10, 250, 20], [-30, -30, 0, 0]),  # outside: beyond, and only touching
        [1, 2, 3, 4],
    ]
    store = packed([0] * 7 + [1], boxes)
    assert store[0].boxes.tolist() == [[0, 10, 20, 30], [190, 90, 200, 100], [0, 0, 200, 100]]
    assert store[0].classes.tolist() == [0, 1, 2]
    assert store[1].boxes.tolist() == [[1, 2, 3, 4]]
    assert store.oddities == (
        "odd boxes: 2 without width or height (dropped), first in p0.xml; 2 outside the image (dropped), first in "
        "p0.xml; 2 partly outside the image (clipped), first in p0.xml"
    )


def test_an_area_is_kept_where_given_and_else_the_clipped_boxs():
    boxes = [[0, 0, 4, 5], [-2, 0, 4, 5]]
    assert packed([0, 0], boxes)[0].area.tolist() == [20, 20]
    whole = packed([0, 0], boxes, area=[9216.0003, 1e10])  # which float32 would round to a limit of COCO's ranges
    assert whole[0].area.tolist() == [9216.0003, 1e10] and "area" not in whole.oddities


@pytest.mark.parametrize("area", [np.nan, 0, -0.0, -20, np.inf, -np.inf, 1.1e10])
def test_an_area_that_cannot_be_is_the_outlines_or_else_the_clipped_boxs_and_reported(area):
    boxes = [[0, 0, 4, 5], [3, 3, 3, 3], [-2, 0, 4, 5]]
    store = packed([0, 0, 1], boxes, area=[7.5, area, area], outline_area={2: 12.0}.get)
    assert store[0].area.tolist() == [7.5] and store[1].area.tolist() == [12]
    assert "1 without a usable area (it is the outline's, or the box's), first in p1.xml" in store.oddities
    assert packed([0, 0, 1], boxes, area=[7.5, area, area])[1].area.tolist() == [20]


def test_crowd_and_difficult_stay_with_their_boxes():
    boxes = [[0, 0, 4, 5], [3, 3, 3, 3], [1, 1, 2, 2], [0, 0, 1, 1]]
    found = packed([0] * 4, boxes, crowd=[1, 0, 0, 0], difficult=[0, 1, 1, 0])[0]
    assert found.crowd.tolist() == [True, False, False] and found.difficult.tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["crowd", "difficult", "both"])
def test_a_split_in_which_nothing_counts_is_reported(kind):
    odd = {"crowd": [1, 1, 0], "difficult": [1, 1, 0]} if kind == "both" else {kind: [1, 1, 0]}
    if kind == "both":
        odd["crowd"] = [1, 0, 0]
    boxes = [[0, 0, 4, 5], [1, 1, 2, 2], [3, 3, 3, 3]]  # the third, with neither mark, is dropped
    assert packed([0, 1, 1], boxes, **odd).oddities.endswith(f"; {ALL_IGNORED}")
    part = pack(np.array([0]), np.array([[0.0, 0, 4, 5]]), np.zeros(1, int), SIZES, str, crowd=np.ones(1, bool))
    assert len(part[0]) == 1 and part.oddities == ""  # not a whole split


def test_ids_stay_what_they_are():
    for ids in ([1, 2], ["a", "b"], [1, "1"], [2**63, -1], [2**80, 1], [-(2**63), 2**63 - 1]):
        assert packed_ids(ids).tolist() == ids and list(map(type, packed_ids(ids).tolist())) == list(map(type, ids))
    assert packed_ids(range(5)).dtype == np.int64


def test_a_stated_size_that_no_image_has_is_not_believed():
    assert stated_size(40.0, 50) == (40, 50)
    for size in ((0, 5), (-1, 5), (5, float("nan")), (float("inf"), 5), (1 << 14, 1 << 14), (10**400, 0.5)):
        assert stated_size(*size) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_coordinate_that_is_no_number_is_named(value):
    with pytest.raises(UserError, match=r"^p2.xml: box 1, 2, (nan|-?inf), 4 .* is not finite; mend or remove it"):
        packed([0, 2], [[0, 0, 1, 1], [1, 2, value, 4]])


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), [[3, 3, 3, 3]]])
def test_a_split_without_boxes_is_refused(boxes):
    with pytest.raises(UserError, match="^list.txt: not one box in its 3 images"):
        packed([0] * len(boxes), boxes)


def test_a_source_is_small_and_reads_the_same_after_the_way_to_a_worker(tmp_path):
    count = 2000
    for index in range(count):
        (tmp_path / f"{index}.jpg").touch()
    sizes = np.full((count, 2), 100, np.int32)
    owner = np.repeat(np.arange(count), 8)
    boxes = np.random.default_rng(0).integers(0, 50, (len(owner), 4)) + np.array([0.0, 0, 50, 50])
    store = pack(owner, boxes, owner % 3, sizes, str, where="x")
    files = packed_names([f"{index}.jpg" for index in range(count)])
    source = BoxedFiles(tmp_path, files, ("a", "b", "c"), range(1, 4), np.arange(count), sizes, store)
    packed_source = pickle.dumps(source)
    assert len(packed_source) < 40 * len(owner)
    copy = pickle.loads(packed_source)
    assert copy[7]["name"] == str(tmp_path / "7.jpg")
    assert copy[7]["annotations"].boxes.tolist() == boxes[56:64].tolist()


@pytest.mark.parametrize("name", sorted(corpus.usable()))
def test_the_size_is_that_of_the_decoded_image(tmp_path, name):
    from morphism.data.image import decode

    encoded = corpus.usable()[name][0]
    (tmp_path / name).write_bytes(encoded)
    assert image_size(tmp_path / name) == decode(encoded, name)[0].shape[:2]


def test_the_size_is_found_behind_a_long_header(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    profile = bytes(90_000)
    encoded = corpus.encode(corpus.photo(), exif=exif, icc_profile=profile)
    (tmp_path / "a.jpg").write_bytes(encoded)
    assert len(encoded) > 150_000 and image_size(tmp_path / "a.jpg") == (151, 203)


def test_an_image_of_another_size_than_its_annotations_is_named():
    check_size("a.jpg", (10, 20, 3), np.array([10, 20]))
    with pytest.raises(UserError, match="^a.jpg is 20 x 10, its annotations are for 20 x 11; mend .*the image$"):
        check_size("a.jpg", (10, 20, 3), np.array([11, 20]))


def test_boxes_for_an_image_as_it_is_stored_are_refused_with_a_remedy(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(UserError, match="is 10 x 20, .* for 20 x 10; mend .*; if those are for the image as it is st"):
        check_size("a.jpg", (*image_size(tmp_path / "a.jpg"), 3), np.array([10, 20]))
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.jpg")  # without the orientation
    check_size("a.jpg", (*image_size(tmp_path / "a.jpg"), 3), np.array([10, 20]))


def test_images_are_found_by_name_and_two_of_one_name_refused(tmp_path):
    for name in ("b.PNG", "a.jpg", ".a.jpg", "a.txt", "犬.jpeg", "day/a.jfif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert named_images(tmp_path) == {"a": "a.jpg", "b": "b.PNG", "day/a": "day/a.jfif", "犬": "犬.jpeg"}
    (tmp_path / "a.webp").touch()
    with pytest.raises(UserError, match="a.webp: a.jpg has the same name; rename or remove one of them"):
        named_images(tmp_path)
