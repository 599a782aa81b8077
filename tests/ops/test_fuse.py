"""Fused maps against a plain writing of detectron2's rule in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.labels import IGNORE
from morphism.ops import panoptic

D, S, K = 12, 7, 6
STUFF = (False, True, True, False, True, True)


def pasted_masks(masks, boxes, height, width):
    """detectron2's _do_paste_mask: torch's grid_sample, bilinear with zeros around, pixel by pixel in float64."""
    found = np.zeros((len(masks), height, width), bool)
    for mask, box, into in zip(masks.astype(float), boxes.astype(float), found, strict=True):
        padded = np.pad(mask, 1)
        for y in range(height):
            for x in range(width):
                column = (x + 0.5 - box[0]) / (box[2] - box[0]) * S - 0.5
                row = (y + 0.5 - box[1]) / (box[3] - box[1]) * S - 0.5
                top, left = int(np.floor(row)), int(np.floor(column))
                if -1 <= top < S and -1 <= left < S:
                    down, across = row - top, column - left
                    part = padded[top + 1 : top + 3, left + 1 : left + 3]
                    value = np.array([1 - down, down]) @ part @ np.array([1 - across, across])
                    into[y, x] = value >= 0.5
    return found


def combined(scores, masks, classes, score, overlap, stuff_area):
    """detectron2's combine_semantic_and_instance_outputs, with our numbers of segments."""
    segments = np.zeros(classes.shape, int)
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] < score:
            break
        mask = masks[index] & (classes != IGNORE)
        area = mask.sum()
        if area == 0:
            continue
        shared = (mask & (segments > 0)).sum()
        if shared * 1.0 / area > overlap:
            continue
        segments[mask & (segments == 0)] = 1 + index
    placed = segments > 0
    for label in np.unique(classes).tolist():
        if label == IGNORE or not STUFF[label]:
            continue
        mask = (classes == label) & ~placed
        if mask.sum() >= stuff_area:
            segments[mask] = 1 + len(scores) + label
    return segments


def draw(rng, height, width, size):
    """Detections, with ties of scores, and blocks of classes, on a canvas of which an image covers `size`."""
    center = rng.uniform(0, (size[1], size[0]), (D, 2))
    half = rng.uniform(1, 14, (D, 2))
    boxes = np.concatenate([center - half, center + half], axis=1)
    boxes[3], boxes[5] = boxes[2], boxes[4] + 0.5  # one object found twice
    masks = rng.random((D, S, S))
    masks[::2] = (masks[::2] + 1) / 2
    scores = rng.choice([0.3, 0.5, 0.625, 0.75, 0.875, 1.0], D)
    scores[-2:] = -1.0
    classes = rng.integers(0, K, (-(-height // 9), -(-width // 9))).repeat(9, axis=0).repeat(9, axis=1)[:height, :width]
    classes = classes.astype(np.uint8)
    classes[size[0] :], classes[:, size[1] :] = IGNORE, IGNORE
    return boxes.astype(np.float32), scores.astype(np.float32), masks.astype(np.float32), classes


@partial(jax.jit, static_argnums=4)
def fused(boxes, scores, masks, classes, overlap):
    def one(boxes, scores, masks, classes):
        return panoptic.fuse(
            scores,
            lambda d: panoptic.pasted(masks[d], boxes[d], *classes.shape),
            classes,
            STUFF,
            overlap=overlap,
            stuff_area=81,
        )

    return jax.vmap(one)(boxes, scores, masks, classes)


@pytest.mark.parametrize("seed", range(4))
def test_fused_maps_are_those_of_detectron2s_rule(seed):
    rng, height, width = np.random.default_rng(seed), 37, 53
    images = [draw(rng, height, width, size) for size in ((37, 53), (31, 22), (19, 53))]
    overlap = (0.5, 0.5, 0.1, 0.9)[seed]
    found = np.asarray(fused(*map(np.stack, zip(*images, strict=True)), overlap))
    assert found.dtype == np.uint16
    occurring = set()
    for image, ((boxes, scores, masks, classes), each) in enumerate(zip(images, found, strict=True)):
        expected = combined(scores, pasted_masks(masks, boxes, height, width), classes, 0.5, overlap, 81)
        np.testing.assert_array_equal(each, expected)
        occurring |= {(image, number) for number in np.unique(expected).tolist()}
    assert sum(0 < number <= D for _, number in occurring) > 6 and any(number > D for _, number in occurring)


def test_a_segment_is_left_out_only_if_more_than_the_overlap_is_hidden():
    classes = jnp.zeros((4, 8), jnp.uint8)
    masks = np.zeros((3, 4, 8), bool)
    masks[0, :, :4], masks[1, :, 2:6], masks[2, :, 5:8] = True, True, True
    masks[2, 0, 3:5] = True  # 14 pixels, of which 4 + 2 are those of the others
    scores = jnp.array([0.9, 0.8, 0.5])

    def found(overlap):
        return panoptic.fuse(scores, lambda d: jnp.asarray(masks)[d], classes, (True,), overlap=overlap, stuff_area=8)

    assert np.unique(found(0.5)).tolist() == [1, 2, 3]  # half of the second is hidden, no more
    assert np.unique(found(0.45)).tolist() == [
        0,
        1,
        3,
    ]  # and 2 of the third's 14
    assert np.asarray(found(0.45) == 3).sum() == 13


def test_boxes_hold_the_pixels_whose_middle_is_in_them():
    found = np.asarray(panoptic.within(jnp.array([0.5, 1.4, 3.5, 2.6]), 4, 5))
    assert np.argwhere(found).tolist() == [[1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]]
    assert not panoptic.pasted(jnp.ones((7, 7)), jnp.array([2.0, 2.0, 2.0, 4.0]), 5, 5).any()
