import pickle

import numpy as np
import pytest

from morphism.data.sources import scenes
from morphism.errors import UserError


@pytest.fixture(scope="module")
def source():
    return scenes.load("200x64", "train", "")


def test_a_record_is_a_function_of_its_split_and_index(source):
    again = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 1000
    first = [source[i] for i in (3, 7, 3)]
    assert (first[0]["image"] == first[2]["image"]).all() and (first[0]["image"] == again[3]["image"]).all()
    assert (first[0]["image"] != first[1]["image"]).any()
    assert (scenes.load("200x64", "val", "")[3]["image"] != first[0]["image"]).any()
    assert (scenes.load("9x64", "train", "")[3]["image"] == first[0]["image"]).all()


def test_count_and_size_are_as_written():
    assert len(scenes.load("200x64", "train", "")) == 200 and len(scenes.load("200x64", "val", "")) == 50
    source = scenes.load("3", "val", "")
    assert len(source) == 1 and source.sizes.tolist() == [[128, 128]]
    record = source[0]
    assert record["image"].shape == (128, 128, 3) and record["image"].dtype == np.uint8
    assert record["segmentation"].shape == (128, 128) and record["segmentation"].dtype == np.uint8
    with pytest.raises(IndexError):
        source[1]


def test_annotations_are_those_of_the_record(source):
    for index in range(20):
        alone, record = source.annotations(index), source[index]["annotations"]
        assert (alone.boxes == record.boxes).all() and (alone.classes == record.classes).all()


def test_boxes_are_tight_around_garments_that_are_at_least_half_seen(source):
    for index in range(len(source)):
        garments, owner = source._garments(index)
        found = source.annotations(index)
        assert len(garments) == len(found) > 0
        for number, (garment, box) in enumerate(zip(garments, found.boxes.astype(int), strict=True), start=1):
            canvas = np.zeros((64, 64), bool)
            height, width = garment.mask.shape
            canvas[garment.top : garment.top + height, garment.left : garment.left + width] = garment.mask
            x0, y0, x1, y1 = box
            assert canvas[y0:y1, x0:x1].sum() == canvas.sum() > 0
            assert canvas[y0].any() and canvas[y1 - 1].any() and canvas[:, x0].any() and canvas[:, x1 - 1].any()
            assert not (owner == number)[~canvas].any()
            assert (owner == number).sum() >= 0.5 * canvas.sum()


def test_the_segmentation_has_the_classes_of_the_boxes_inside_them(source):
    for index in range(40):
        record = source[index]
        found, segmentation = record["annotations"], record["segmentation"]
        assert set(np.unique(segmentation)) == {0} | set((found.classes + 1).tolist())
        for y, x in np.argwhere(segmentation):
            inside = (found.boxes[:, :2] <= (x, y)).all(axis=1) & (found.boxes[:, 2:] >= (x + 1, y + 1)).all(axis=1)
            assert segmentation[y, x] - 1 in found.classes[inside]


def test_all_kinds_and_numbers_of_garments_are_as_likely():
    source = scenes.load("1200x32", "train", "")
    found = [source.annotations(index) for index in range(len(source))]
    numbers = np.bincount([len(each) for each in found], minlength=7) / len(source)
    assert numbers[0] == 0 and (np.abs(numbers[1:] - 1 / 6) < 0.04).all()
    classes = np.bincount(np.concatenate([each.classes for each in found]), minlength=5)
    assert (np.abs(classes / classes.sum() - 0.2) < 0.03).all()


def test_train_and_val_wear_other_garments():
    train, val = ({grey.tobytes() for grey in scenes._wardrobe(split).greys} for split in ("train", "val"))
    assert len(train & val) <= 2  # the dataset itself repeats a few


@pytest.mark.parametrize("argument", ["", "x128", "0x128", "10x16", "10x128x3", "10x5000", "ten"])
def test_what_is_no_count_and_size_is_refused(argument):
    with pytest.raises(UserError, match=f"config.data.source is 'scenes:{argument}'; write scenes:2000x128 for"):
        scenes.splits(argument, "")
