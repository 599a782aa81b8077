"""Masks pasted into images are torchvision's to the last pixel, and pycocotools reads their outlines."""

import time
from pathlib import Path

import numpy as np
import pytest
from pasted import SIZES, masks_in_boxes
from pycocotools import mask as reference

from morphism.tasks import paste

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "paste.npz")


def decoded(counts, size):
    return reference.decode({"size": list(size), "counts": counts})


@pytest.mark.parametrize("height, width, cells", SIZES)
def test_pasted_masks_are_torchvisions_to_the_last_pixel(height, width, cells):
    masks, boxes = masks_in_boxes(height, width, cells)
    bits = np.unpackbits(GOLDENS[f"{height}x{width}"])[: len(masks) * height * width]
    expected = bits.reshape(len(masks), height, width)
    found = list(paste.outlines(masks, boxes, (height, width)))
    for counts, mask in zip(found, expected, strict=True):
        np.testing.assert_array_equal(decoded(counts, (height, width)), mask)
        assert counts == reference.encode(np.asfortranarray(mask))["counts"]
    assert expected.any(axis=(1, 2)).mean() > 0.8 and (boxes < 0).any() and (boxes[:, 2:] > (width, height)).any()


def test_masks_beyond_an_image_or_of_no_pixel_are_empty():
    masks = np.ones((3, 28, 28), np.float32)
    masks[2] = 0.5
    boxes = np.float32([[-60, -60, -30, -30], [200, 10, 240, 30], [2, 2, 30, 20]])
    for counts in paste.outlines(masks, boxes, (40, 50)):
        assert not decoded(counts, (40, 50)).any()
    assert list(paste.outlines(masks[:0], boxes[:0], (40, 50))) == []


def test_runs_that_touch_across_columns_are_one():
    for mask in (np.ones((5, 4), bool), np.eye(4, dtype=bool), np.arange(20).reshape(4, 5) % 3 > 0):
        counts = paste.encoded(mask, (0, 0), mask.shape)
        assert counts == reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


def test_a_mask_costs_as_much_as_its_box_not_as_its_image():
    size, rng = (4000, 6000), np.random.default_rng(0)
    corners = rng.uniform(0, 3000, (100, 2))
    boxes = np.concatenate([corners, corners + 60], axis=1).astype(np.float32)
    start = time.process_time()
    found = list(paste.outlines(rng.random((100, 28, 28)).astype(np.float32), boxes, size))
    assert len(found) == 100 and time.process_time() - start < 1  # 24 million pixels each would take over ten
