"""Masks of objects, and boxes to paste them into, drawn by the sizes of images."""

import numpy as np

SIZES = ((97, 61, 28), (33, 130, 28), (45, 45, 7), (201, 301, 28))  # height and width of an image, cells of a mask


def masks_in_boxes(height, width, cells, count=40):
    """Masks [n,M,M] of probabilities, some of 0 and 1 alone, and boxes [n,4], some beyond the image, of few pixels or
    with corners on whole and half pixels.
    """
    rng = np.random.default_rng(height)
    coarse = rng.random((count, 1 + cells // 4, 1 + cells // 4)).repeat(4, axis=1).repeat(4, axis=2)
    masks = np.clip(coarse[:, :cells, :cells] + rng.normal(size=(count, cells, cells)) / 8, 0, 1)
    masks[::4] = masks[::4] > 0.5
    center = rng.uniform(0, (width, height), (count, 2))
    half = np.exp(rng.uniform(-1, np.log(max(height, width)), (count, 2))) / 2
    boxes = np.concatenate([center - half, center + half], axis=1)
    boxes[::3] = np.round(2 * boxes[::3]) / 2
    boxes[1::2] = np.clip(boxes[1::2], 0, (width, height, width, height))
    return masks.astype(np.float32), boxes.astype(np.float32)
