"""Anchors and default boxes: constants of a network and its input's size, made by NumPy while a step is traced.

Boxes are x0, y0, x1, y1 in pixels of the input; a level's boxes go row by row, column by column, and at each position
through its shapes, as a head's outputs [H,W,A] do; levels follow each other from the finest.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Size = tuple[int, int]  # height, width


def anchors(
    grids: Sequence[Size],
    image_size: Size,
    sizes: Sequence[Sequence[float]],
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> Float[np.ndarray, "n 4"]:
    """The anchors of RetinaNet and of the RPN on a pyramid: at each position every aspect ratio with every size.

    `grids` are the levels' feature maps, `sizes` each level's square roots of area in pixels, an aspect ratio is height
    over width; A = len(aspect_ratios) * len(sizes[level]), with the size going fastest. Corners of the shapes are
    rounded, positions are 0, s, 2s, ... with stride s = image size // grid size: torchvision's AnchorGenerator.
    """
    levels = []
    for grid, level_sizes in zip(grids, sizes, strict=True):
        root = np.sqrt(np.array(aspect_ratios, np.float32))
        widths, heights = ((r[:, None] * np.array(level_sizes, np.float32)).ravel() for r in (1 / root, root))
        shapes = np.round(np.stack([-widths, -heights, widths, heights], axis=-1) / 2)
        stride = [image // cells for image, cells in zip(image_size, grid, strict=True)]
        levels.append(_at_every_position(shapes, *(np.arange(n) * s for n, s in zip(grid, stride, strict=True))))
    return np.concatenate(levels)


def default_boxes(
    grids: Sequence[Size],
    image_size: Size,
    scales: Sequence[float],
    aspect_ratios: Sequence[Sequence[float]],
    steps: Sequence[float] | None = None,
) -> Float[np.ndarray, "n 4"]:
    """SSD's default boxes: at each position 2 + 2 len(aspect_ratios[level]) of them; torchvision's DefaultBoxGenerator.

    `scales` are shares of the image's sides, one more than there are levels: a square of the level's, one of its
    geometric mean with the next, and for every aspect ratio r the level's with sides times sqrt(r) and 1 / sqrt(r),
    then turned. No side is longer than the image's. `steps` are the levels' strides in pixels, by default image size /
    grid size. Boxes reach over the image's edges. Source: Liu et al. 2016, "SSD", section 2.2.
    """
    height, width = image_size
    levels = []
    for level, (rows, columns) in enumerate(grids):
        scale = scales[level]
        sides = [(scale, scale), (math.sqrt(scale * scales[level + 1]),) * 2]
        for ratio in aspect_ratios[level]:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sides += [(long, short), (short, long)]
        half = 0.5 * np.clip(np.array(sides, np.float32), 0, 1)
        in_rows, in_columns = (height / steps[level], width / steps[level]) if steps else (rows, columns)
        y, x = (
            (np.arange(n, dtype=np.float32) + 0.5) / np.float32(m) for n, m in ((rows, in_rows), (columns, in_columns))
        )
        levels.append(_at_every_position(np.concatenate([-half, half], axis=-1), y, x))
    return np.concatenate(levels) * np.array([width, height, width, height], np.float32)


def linear_scales(levels: int, smallest: float, largest: float) -> list[float]:
    """SSD's `scales` where they are not listed, evenly from `smallest` to `largest`, then 1: equation 4."""
    return [smallest + (largest - smallest) * level / (levels - 1) for level in range(levels)] + [1.0]


def _at_every_position(shapes: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    y, x = np.meshgrid(y, x, indexing="ij")
    positions = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return (positions + shapes).reshape(-1, 4).astype(np.float32)
