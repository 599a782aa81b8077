"""Run lengths of many outlines at once, compressed as in COCO's JSON or not.

A run is a row of pixels, counted column by column, that all lie outside or all inside an object. The first run of each
outline lies outside, then they alternate. Source: pycocotools, common/maskApi.c, rleToString and rleFrString.

Arrays of several outlines hold one after another: outline i has the entries offsets[i] to offsets[i + 1].
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

BITS, MORE, SIGN = 5, 32, 16  # of a character: bits of the number, a flag that more follow, the sign in the last
FIRST = 48  # the character of 0
MOST_DIGITS = 7


@dataclass(frozen=True)
class Runs:
    """The pixels at which the runs of outlines end.

    ends: for each run the first pixel after it, counted column by column.
    offsets: outline i has the runs offsets[i] to offsets[i + 1]; none if it is unknown.
    """

    ends: Int[np.ndarray, "runs"]
    offsets: Int[np.ndarray, "offsets"]

    @classmethod
    def of(cls, counts: UInt8[np.ndarray, "n"], offsets: Int[np.ndarray, "offsets"]) -> "Runs":
        """The runs of compressed outlines."""
        lengths, offsets = decompressed(counts, offsets)
        total = np.concatenate([[0], np.cumsum(lengths)])
        return cls(total[1:] - np.repeat(total[offsets[:-1]], np.diff(offsets)), offsets)

    def take(self, wanted: Int[np.ndarray, "n"]) -> "Runs":
        """The runs of these outlines, in this order."""
        entries, offsets = entries_of(self.offsets, wanted)
        return Runs(self.ends[entries], offsets)

    @property
    def owner(self) -> Int[np.ndarray, "runs"]:
        """The outline of each run."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def is_inside(self) -> Bool[np.ndarray, "runs"]:
        """Whether each run lies inside its object."""
        return _places(self.offsets) % 2 == 1

    @property
    def areas(self) -> Int[np.ndarray, "n"]:
        """The number of pixels within each outline."""
        inside = np.flatnonzero(self.is_inside)
        lengths = self.ends[inside] - self.ends[inside - 1]
        return np.bincount(self.owner[inside], lengths, minlength=len(self.offsets) - 1).astype(np.int64)


def decompressed(
    counts: UInt8[np.ndarray, "n"], offsets: Int[np.ndarray, "offsets"]
) -> tuple[Int[np.ndarray, "runs"], Int[np.ndarray, "offsets"]]:
    """The lengths of the runs, and where those of each outline start.

    Each character holds five bits, lowest first, and a sixth bit if more characters of the number follow. The fifth bit
    of the last character is the sign. From the fourth number of an outline on, each is the difference to the second one
    before it.
    """
    codes = counts.astype(np.int64) - FIRST
    last = np.flatnonzero((codes & MORE) == 0)
    starts = np.concatenate([[0], last + 1])[:-1]
    digits = last - starts + 1
    shifts = BITS * (np.arange(len(codes)) - np.repeat(starts, digits))
    numbers = np.add.reduceat((codes & (MORE - 1)) << shifts, starts) if len(starts) else np.zeros(0, np.int64)
    numbers -= np.where(codes[last] & SIGN, 1 << BITS * digits, 0)
    offsets = np.searchsorted(starts, offsets)
    place = _places(offsets)
    for parity in (0, 1):
        rows = np.flatnonzero((place % 2 == parity) & (place > 0))
        total = np.concatenate([[0], np.cumsum(numbers[rows])])
        first = np.searchsorted(rows, offsets)
        numbers[rows] = total[1:] - np.repeat(total[first[:-1]], np.diff(first))
    return numbers, offsets


def entries_of(
    offsets: Int[np.ndarray, "offsets"], wanted: Int[np.ndarray, "m"]
) -> tuple[Int[np.ndarray, "entries"], Int[np.ndarray, "_"]]:
    """The entries of these groups, one after another, and where those of each start among them."""
    counts = np.diff(offsets)[wanted]
    starts = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(starts[-1]) + np.repeat(offsets[wanted] - starts[:-1], counts), starts


def _places(offsets: Int[np.ndarray, "offsets"]) -> Int[np.ndarray, "entries"]:
    """The position of each entry within its outline."""
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
