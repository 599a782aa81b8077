"""Anchors and default boxes: constants of a network and its input size, made by NumPy while a step is traced.

Boxes are x0, y0, x1, y1 in pixels of the input. The boxes of a level go row by row, column by column, and at each
position shape by shape, in the order of a head's outputs [H, W, A]. Levels follow each other from the finest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class AnchorGenerator:
    """Anchors of RetinaNet and of an RPN: at each position every aspect ratio in every size, the size going fastest.

    Args:
      sizes: per level, the square roots of the anchors' areas in pixels.
      aspect_ratios: height / width, the same at every level.

    Corners of the shapes are rounded to whole pixels. Positions are 0, s, 2s, ... with the stride s = image side //
    grid side.

    Source: torchvision/models/detection/anchor_utils.py, AnchorGenerator.
    """

    sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    @property
    def per_position(self) -> int:
        """Anchors per position, the same number at every level."""
        return len(self.sizes[0]) * len(self.aspect_ratios)

    def __call__(self, grids: Sequence[Size], image_size: Size) -> list[Float[np.ndarray, "_n 4"]]:
        """The anchors of each level, whose feature maps are of `grids` (height, width), finest first."""
        root, levels = np.sqrt(np.array(self.aspect_ratios, np.float32)), []
        for grid, sizes in zip(grids, self.sizes, strict=True):
            widths, heights = ((r[:, None] * np.array(sizes, np.float32)).ravel() for r in (1 / root, root))
            shapes = np.round(np.stack([-widths, -heights, widths, heights], axis=-1) / 2)
            strides = [image // cells for image, cells in zip(image_size, grid, strict=True)]
            levels.append(_at_every_position(shapes, *(np.arange(n) * s for n, s in zip(grid, strides, strict=True))))
        return levels


@dataclass(frozen=True)
class DefaultBoxGenerator:
    """Default boxes of SSD: at each position of a level two squares, and two boxes per aspect ratio.

    The squares are as large as the level's scale and as its geometric mean with the next scale. An aspect ratio r gives
    the level's scale with sides times sqrt(r) and 1 / sqrt(r), lying and standing. No side exceeds the image's; boxes
    may reach beyond the image's edges.

    Args:
      aspect_ratios: per level, the ratios other than 1.
      scales: fractions of the image's sides, one more than there are levels; by default evenly spaced.
      steps: strides of the levels in pixels; by default image side / grid side.
      scale_range: smallest and largest of evenly spaced scales, which 1 follows.

    Source: Liu et al. 2016, "SSD", section 2.2; torchvision/models/detection/anchor_utils.py, DefaultBoxGenerator.
    """

    aspect_ratios: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...] | None = None
    steps: tuple[float, ...] | None = None
    scale_range: tuple[float, float] = (0.15, 0.9)

    @property
    def per_position(self) -> tuple[int, ...]:
        """Boxes per position, level by level."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def __call__(self, grids: Sequence[Size], image_size: Size) -> Float[np.ndarray, "n 4"]:
        """The boxes of all levels, whose feature maps are of `grids` (height, width), finest first."""
        height, width = image_size
        levels = []
        for level, (rows, columns) in enumerate(grids):
            sides = np.array(self._sides(level), np.float32)
            half = 0.5 * np.clip(sides, 0, 1)
            step = self.steps[level] if self.steps else None
            in_rows, in_columns = (height / step, width / step) if step else (rows, columns)
            y, x = (
                (np.arange(n, dtype=np.float32) + 0.5) / np.float32(m)
                for n, m in ((rows, in_rows), (columns, in_columns))
            )
            levels.append(_at_every_position(np.concatenate([-half, half], axis=-1), y, x))
        return np.concatenate(levels) * np.array([width, height, width, height], np.float32)

    def _sides(self, level: int) -> list[tuple[float, float]]:
        """Width and height of a level's boxes, as fractions of the image's."""
        scales = self.scales or linear_scales(len(self.aspect_ratios), *self.scale_range)
        scale = scales[level]
        sides = [(scale, scale), (math.sqrt(scale * scales[level + 1]),) * 2]
        for ratio in self.aspect_ratios[level]:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sides += [(long, short), (short, long)]
        return sides


def linear_scales(levels: int, smallest: float, largest: float) -> list[float]:
    """Scales evenly spaced from `smallest` to `largest`, one per level, then 1: Liu et al. 2016, equation 4."""
    return [smallest + (largest - smallest) * level / (levels - 1) for level in range(levels)] + [1.0]


def _at_every_position(shapes: np.ndarray, y: np.ndarray, x: np.ndarray) -> Float[np.ndarray, "n 4"]:
    """`shapes`, boxes around (0, 0), around every position y, x."""
    y, x = np.meshgrid(y, x, indexing="ij")
    positions = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return (positions + shapes).reshape(-1, 4).astype(np.float32)
