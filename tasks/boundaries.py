"""How well the borders of classes are met: boundary F1.

Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", section 3. A class's border are its
pixels beside a pixel of another class, above, below, left or right. A border pixel is met where the other map has one
of the same class within TOLERANCE of the picture's diagonal, rounded to pixels. Ignored pixels are of no class, and
what was found there is not looked at.

Classes are bits of a word, so that the borders of all are made and widened at once.
"""

import math

import numpy as np
from jaxtyping import Float, UInt8

TOLERANCE = 0.0075
WORD = 64
IGNORE = 255

Bits = np.ndarray  # uint64 [h,w]


def f1(found: UInt8[np.ndarray, "h w"], true: UInt8[np.ndarray, "h w"], classes: int) -> Float[np.ndarray, "2 k"]:
    """Of each class the F1 of its border and 1, where either map has one; else 0 and 0."""
    radius = max(1, round(TOLERANCE * math.hypot(*true.shape)))
    found = np.where(true == IGNORE, IGNORE, found)
    result = np.zeros((2, classes))
    for first in range(0, classes, WORD):
        borders = [_borders(each, first) for each in (found, true)]
        near = [_widened(each, radius) for each in borders]
        hits = [borders[0] & near[1], borders[1] & near[0]]
        for index in range(first, min(classes, first + WORD)):
            bit = np.uint64(1 << (index - first))
            sizes = [np.count_nonzero(each & bit) for each in borders]
            if not any(sizes):
                continue
            precision, recall = (
                np.count_nonzero(hit & bit) / max(1, size) for hit, size in zip(hits, sizes, strict=True)
            )
            result[:, index] = 2 * precision * recall / max(precision + recall, 1e-12), 1
    return result


def _borders(classes: UInt8[np.ndarray, "h w"], first: int) -> Bits:
    """Bit c is set at the border pixels of class first + c."""
    shift = classes.astype(np.int64) - first
    inside = (shift >= 0) & (shift < WORD) & (classes != IGNORE)
    bits = np.where(inside, np.uint64(1) << np.where(inside, shift, 0).astype(np.uint64), np.uint64(0))
    edge = np.zeros(classes.shape, bool)
    counted = classes != IGNORE
    for axis in (0, 1):
        before, after = ((slice(None),) * axis + (span,) for span in (slice(None, -1), slice(1, None)))
        differs = (classes[before] != classes[after]) & counted[before] & counted[after]
        edge[before] |= differs
        edge[after] |= differs
    return np.where(edge, bits, np.uint64(0))


def _widened(bits: Bits, radius: int) -> Bits:
    """Every bit set within `radius` of where it was."""
    result = np.zeros_like(bits)
    height = len(bits)
    for dy in range(-radius, radius + 1):
        reach = math.isqrt(radius * radius - dy * dy)
        rows = _across(bits[max(0, -dy) : height - max(0, dy)], reach)
        result[max(0, dy) : height - max(0, -dy)] |= rows
    return result


def _across(bits: Bits, reach: int) -> Bits:
    """Every bit set up to `reach` columns to either side, by doubling."""
    padded = np.pad(bits, ((0, 0), (reach, reach)))
    span, width = 1, 2 * reach + 1
    while span < width:
        step = min(span, width - span)
        padded = padded[:, :-step] | padded[:, step:]
        span += step
    return padded
