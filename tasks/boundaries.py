"""Boundary F1: how well the borders of predicted classes match the true ones.

The border of a class consists of its pixels with a neighbour of another class, above, below, left or right. A border
pixel is matched if the other map has a border pixel of the same class within TOLERANCE of the image's diagonal, rounded
to pixels. Ignored pixels have no class, and predictions there do not count.

Classes are bits of a word, so that the borders of all classes are dilated at once.

Source: Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", section 3.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8

from morphism.labels import IGNORE

TOLERANCE = 0.0075
WORD = 64

Classes = UInt8[np.ndarray, "h w"]
Bits = np.ndarray  # of the smallest unsigned type that has a bit per class


def f1(found: Classes, true: Classes, classes: int) -> Float[np.ndarray, "2 k"]:
    """Per class: the F1 of its border (row 0), and 1 if either map has such a border, else 0 (row 1)."""
    radius = max(1, round(TOLERANCE * math.hypot(*true.shape)))
    maps = np.where(true == IGNORE, IGNORE, found), true
    borders = [_border(each) for each in maps]
    on_border = [each[border] for each, border in zip(maps, borders, strict=True)]  # the class of each border pixel
    sizes = np.array([np.bincount(each, minlength=classes) for each in on_border])
    matched = np.zeros((2, classes), np.int64)
    for first in range(0, classes, WORD):
        bits = [_bits(each, first, classes) for each in on_border]
        for side, other in ((0, 1), (1, 0)):
            spread = np.zeros(true.shape, bits[other].dtype)
            spread[borders[other]] = bits[other]
            hits = _dilated(spread, radius)[borders[side]] & bits[side]
            matched[side] += np.bincount(on_border[side][hits != 0], minlength=classes)
    precision, recall = matched / np.maximum(sizes, 1)
    return np.stack([2 * precision * recall / np.maximum(precision + recall, 1e-12), sizes.any(axis=0)])


def _border(classes: Classes) -> Bool[np.ndarray, "h w"]:
    """The pixels with a neighbour of another class."""
    border = np.zeros(classes.shape, bool)
    counted = classes != IGNORE
    for axis in (0, 1):
        before, after = ((slice(None),) * axis + (span,) for span in (slice(None, -1), slice(1, None)))
        differs = (classes[before] != classes[after]) & counted[before] & counted[after]
        border[before] |= differs
        border[after] |= differs
    return border


def _bits(numbers: UInt8[np.ndarray, "n"], first: int, classes: int) -> Bits:
    """A word per class number, in which bit c is set if the number is first + c."""
    word = np.min_scalar_type(2 ** min(WORD, classes - first) - 1).type
    inside = (first <= numbers) & (numbers < first + WORD)
    return np.where(inside, word(1) << np.where(inside, numbers - first, 0).astype(word), word(0))


def _dilated(bits: Bits, radius: int) -> Bits:
    """Bits [H,W] dilated by a disc of `radius`: row by row of the disc, from the outermost, which is the shortest."""
    height = len(bits)
    result, row, reach = np.zeros_like(bits), bits.copy(), 0
    for dy in range(radius, -1, -1):
        while (reach + 1) ** 2 + dy**2 <= radius**2:
            reach += 1
            row[:, reach:] |= bits[:, :-reach]
            row[:, :-reach] |= bits[:, reach:]
        result[dy:] |= row[: max(0, height - dy)]
        result[: max(0, height - dy)] |= row[dy:]
    return result
