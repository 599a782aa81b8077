"""Masks of detections as outlines in the image: pasted as torchvision pastes them, only within their boxes.

Source: torchvision/models/detection/roi_heads.py, paste_masks_in_image.
"""

from collections.abc import Iterator

import numpy as np
from faster_coco_eval.core import mask as rle
from jaxtyping import Bool, Float, Int

THRESHOLD = 0.5  # a pixel is the object's above this probability
PADDING = 1  # cells of probability 0 around a mask, by which its box grows too

Size = tuple[int, int]  # height and width


def outlines(masks: Float[np.ndarray, "n s s"], boxes: Float[np.ndarray, "n 4"], size: Size) -> Iterator[bytes]:
    """COCO's compressed run lengths of each mask in an image of `size`; boxes are in pixels of that image."""
    padded = np.pad(masks, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    for mask, box in zip(padded, _grown(boxes, masks.shape[-1]), strict=True):
        part, corner = pasted(mask, box, size)
        yield encoded(part, corner, size)


def pasted(
    mask: Float[np.ndarray, "m m"], box: Int[np.ndarray, "4"], size: Size
) -> tuple[Bool[np.ndarray, "h w"], tuple[int, int]]:
    """The part of a padded mask that lies in an image of `size`, and the row and column of its upper left pixel.

    `box` holds the first and last column and row of the whole mask, and may reach beyond the image.
    """
    axes = []
    for axis in (1, 0):
        low, high, side = int(box[axis]), int(box[axis + 2]), size[1 - axis]
        count = max(high - low + 1, 1)
        seen = np.arange(max(low, 0), min(high + 1, side))
        axes.append((*_taps(seen - low, count, mask.shape[0]), max(low, 0)))
    (above, below, down, top), (left, right, across, start) = axes
    upper, lower = (mask[rows][:, left] * (1 - across) + mask[rows][:, right] * across for rows in (above, below))
    return upper * (1 - down[:, None]) + lower * down[:, None] > THRESHOLD, (top, start)


def encoded(part: Bool[np.ndarray, "h w"], corner: tuple[int, int], size: Size) -> bytes:
    """COCO's compressed run lengths of a mask of `size` that is False outside `part`, whose corner is row, column."""
    height, width = size
    columns = np.zeros((part.shape[1], part.shape[0] + 2), np.int8)
    columns[:, 1:-1] = part.T
    steps = np.diff(columns, axis=1)
    across, down = np.nonzero(steps)  # where a run starts, then where it ends, column by column
    turns = (corner[1] + across) * height + corner[0] + down
    joined = np.flatnonzero(turns[1:-1:2] == turns[2::2])  # a run that ends where the next column's starts
    turns = np.delete(turns, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    turns = turns[turns < height * width]  # the last run ends by itself
    lengths = np.diff(np.concatenate([[0], turns, [height * width]]))
    return rle.frPyObjects({"size": [height, width], "counts": lengths.tolist()}, height, width)["counts"]


def _grown(boxes: Float[np.ndarray, "n 4"], cells: int) -> Int[np.ndarray, "n 4"]:
    """Boxes larger by the padding of their masks, truncated to whole pixels; in float32, as torch computes them."""
    boxes = boxes.astype(np.float32)
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32((cells + 2 * PADDING) / cells)
    middle = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    return np.concatenate([middle - half, middle + half], axis=1).astype(np.int64)


def _taps(
    at: Int[np.ndarray, "n"], count: int, cells: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """The cells before and after each pixel `at` of `count` that a mask is resized to, and the share of the second.

    In float32, as torch.nn.functional.interpolate(mode="bilinear", align_corners=False) computes them.
    """
    step = np.float32(cells) / np.float32(count)
    middle = np.maximum((at.astype(np.float32) + np.float32(0.5)) * step - np.float32(0.5), 0)
    before = np.minimum(middle.astype(np.int64), cells - 1)
    return before, np.minimum(before + 1, cells - 1), middle - before.astype(np.float32)
