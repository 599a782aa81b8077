"""How well the borders of classes are met: boundary F1.

Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", section 3. A class's border are its
pixels beside a pixel of another class, above, below, left or right. A border pixel is met where the other map has one
of the same class within TOLERANCE of the picture's diagonal, rounded to pixels. Ignored pixels are of no class, and
what was found there is not looked at.

Classes are bits of a word, so that the borders of all are widened at once.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8

from morphism.labels import IGNORE

TOLERANCE = 0.0075
WORD = 64

Classes = UInt8[np.ndarray, "h w"]
Bits = np.ndarray  # of the smallest unsigned integers that have a bit for each class


def f1(found: Classes, true: Classes, classes: int) -> Float[np.ndarray, "2 k"]:
    """Of each class the F1 of its border and 1, where either map has one; else 0 and 0."""
    radius = max(1, round(TOLERANCE * math.hypot(*true.shape)))
    maps = np.where(true == IGNORE, IGNORE, found), true
    borders = [_border(each) for each in maps]
    of = [each[border] for each, border in zip(maps, borders, strict=True)]  # the class of each border pixel
    sizes, met = np.array([np.bincount(each, minlength=classes) for each in of]), np.zeros((2, classes), np.int64)
    for first in range(0, classes, WORD):
        bits = [_bits(each, first, classes) for each in of]
        for side, other in ((0, 1), (1, 0)):
            spread = np.zeros(true.shape, bits[other].dtype)
            spread[borders[other]] = bits[other]
            hits = _widened(spread, radius)[borders[side]] & bits[side]
            met[side] += np.bincount(of[side][hits != 0], minlength=classes)
    precision, recall = met / np.maximum(sizes, 1)
    return np.stack([2 * precision * recall / np.maximum(precision + recall, 1e-12), sizes.any(axis=0)])


def _border(classes: Classes) -> Bool[np.ndarray, "h w"]:
    """The pixels beside one of another class."""
    border = np.zeros(classes.shape, bool)
    counted = classes != IGNORE
    for axis in (0, 1):
        before, after = ((slice(None),) * axis + (span,) for span in (slice(None, -1), slice(1, None)))
        differs = (classes[before] != classes[after]) & counted[before] & counted[after]
        border[before] |= differs
        border[after] |= differs
    return border


def _bits(of: UInt8[np.ndarray, "n"], first: int, classes: int) -> Bits:
    """Bit c is set where the class is first + c, of a word of them."""
    word = np.min_scalar_type(2 ** min(WORD, classes - first) - 1).type
    inside = (first <= of) & (of < first + WORD)
    return np.where(inside, word(1) << np.where(inside, of - first, 0).astype(word), word(0))


def _widened(bits: Bits, radius: int) -> Bits:
    """Every bit set within `radius` of where it was: the disc's rows from the outermost, which is the shortest, on."""
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
