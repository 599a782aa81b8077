"""Outlines of objects: reads all forms that COCO's JSON has, into COCO's compressed run lengths.

Run lengths count pixels column by column, alternately outside and inside the object, starting outside.
Source: pycocotools, common/maskApi.c.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval.core import mask as rle
from jaxtyping import Bool, Float, Int, Real, UInt8

from morphism.data import runs
from morphism.data.runs import Runs

STEPS = 5  # per pixel: the grid on which pycocotools draws polygons
FAR = 8  # image sides; for corners farther away the library takes too many steps
FARTHEST = 1e15  # pixels; float64 holds whole numbers up to here exactly


class Outline(NamedTuple):
    """An object's outline.

    counts: compressed run lengths, None for an object without an outline.
    dropped: number of polygons left out.
    """

    counts: bytes | None
    dropped: int = 0


@dataclass(frozen=True)
class Outlines:
    """The outlines of objects, one after another in one array: small in memory, and quick to send to a worker process.

    counts: compressed run lengths of all objects, bytes or an array of them, such as a file that is mapped into memory.
      The outline of object i is counts[ends[i]:ends[i + 1]]; it is empty for an object whose outline is unknown.
    """

    ends: Int[np.ndarray, "ends"]  # 0, then where each outline ends
    counts: bytes | UInt8[np.ndarray, "_"]

    @classmethod
    def of(cls, each: Iterable[bytes | None]) -> "Outlines":
        """The outlines in `each`; None is unknown."""
        known = [counts or b"" for counts in each]
        return cls(np.cumsum([0, *map(len, known)], dtype=np.int64), b"".join(known))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> bytes:
        return bytes(self.counts[self.ends[index] : self.ends[index + 1]])

    @property
    def known(self) -> Bool[np.ndarray, "n"]:
        """Whether each outline is known."""
        return np.diff(self.ends) > 0

    def part(self, start: int, stop: int) -> "Outlines":
        """The outlines of the objects from `start` to before `stop`."""
        first, last = self.ends[start], self.ends[stop]
        return Outlines(self.ends[start : stop + 1] - first, bytes(self.counts[first:last]))

    def take(self, rows: Int[np.ndarray, "n"]) -> "Outlines":
        """The outlines of these objects, in this order. Rows that follow one another are copied at once."""
        if not len(rows):
            return Outlines.of(())
        breaks = np.flatnonzero(np.diff(rows) != 1)
        firsts, lasts = rows[np.append(0, breaks + 1)], rows[np.append(breaks, -1)]
        spans = zip(self.ends[firsts].tolist(), self.ends[lasts + 1].tolist(), strict=True)
        ends = np.concatenate([[0], np.cumsum(np.diff(self.ends)[rows])])
        return Outlines(ends, b"".join([self.counts[start:end] for start, end in spans]))

    def runs(self) -> Runs:
        """Decompresses the run lengths."""
        return Runs.of(np.frombuffer(self.counts, np.uint8), self.ends)


def read(segmentation: Any, size: Sequence[int]) -> Outline:
    """Reads the `segmentation` of an annotation, for an image of `size` (height, width).

    It may be a list of polygons (x, y, x, y, ... in pixels), a single polygon, or a dictionary of `size` and `counts`,
    run lengths that are compressed or not. Polygons with fewer than three points or with an odd number of coordinates
    are left out, as in detectron2. Without a polygon, or without a segmentation, there is no outline.

    Raises:
      ValueError: the segmentation has none of these forms; the message says what is wrong.
    """
    if isinstance(segmentation, dict):
        return Outline(_run_lengths(segmentation, tuple(size)))
    if segmentation is None or segmentation == []:
        return Outline(None)
    if not isinstance(segmentation, list):
        raise ValueError("it is neither a list of polygons nor run lengths")
    given = segmentation if any(isinstance(each, list) for each in segmentation) else [segmentation]
    polygons = [_numbers(each, "a polygon") for each in given]
    usable = [each for each in polygons if len(each) >= 6 and len(each) % 2 == 0]
    drawn = [_polygon(each, *size) for each in usable]
    if not drawn:
        return Outline(None, len(given))
    whole = rle.merge(drawn) if len(drawn) > 1 else drawn[0]
    return Outline(whole["counts"], len(given) - len(usable))


def area(counts: bytes, size: Sequence[int]) -> int:
    """The number of pixels within an outline."""
    return int(rle.area({"size": list(size), "counts": counts}))


def box(counts: bytes, size: Sequence[int]) -> tuple[float, ...]:
    """The box x0, y0, x1, y1 around the pixels within an outline; zeros if there are none."""
    x, y, width, height = rle.toBbox({"size": list(size), "counts": counts}).tolist()
    return x, y, x + width, y + height


def mask(counts: bytes, size: Sequence[int]) -> UInt8[np.ndarray, "h w"]:
    """1 for pixels within an outline, 0 for the others."""
    return rle.decode({"size": list(size), "counts": counts})


def of_mask(inside: UInt8[np.ndarray, "h w"]) -> bytes:
    """The outline of the pixels that are not 0."""
    return rle.encode(np.asfortranarray(inside))["counts"]


def union(each: Sequence[bytes], size: Sequence[int]) -> bytes:
    """The outline of all pixels within at least one of the outlines."""
    return rle.merge([{"size": list(size), "counts": counts} for counts in each])["counts"]


def _numbers(values: Any, what: str) -> Float[np.ndarray, "n"]:
    try:
        found = np.array(values, np.float64)
        if isinstance(values, list) and found.ndim == 1 and np.isfinite(found).all():
            return found
    except (ValueError, TypeError, OverflowError):
        pass
    raise ValueError(f"{what} must be a list of finite numbers")


def _run_lengths(given: dict[str, Any], size: tuple[int, int]) -> bytes:
    if given.get("size") != list(size):
        raise ValueError(f"its run lengths have size {given.get('size')!r:.60}, its image is {list(size)}")
    counts = given.get("counts")
    lengths = _decompressed(counts) if isinstance(counts, str) else _numbers(counts, "counts")
    if (lengths < 0).any() or (lengths % 1 != 0).any() or lengths.sum() != size[0] * size[1]:
        raise ValueError(f"its run lengths are not whole numbers that add up to {size[0]} x {size[1]} pixels")
    if isinstance(counts, str):
        return counts.encode()
    return rle.frPyObjects({"size": list(size), "counts": lengths.astype(np.int64).tolist()}, *size)["counts"]


def _decompressed(counts: str) -> Int[np.ndarray, "n"]:
    """Decompresses run lengths, with checks that the library omits."""
    codes = np.frombuffer(counts.encode(), np.uint8)
    last = (codes.astype(np.int64) - runs.FIRST) & runs.MORE == 0
    if not len(codes) or codes.min() < runs.FIRST or codes.max() > runs.FIRST + 63 or not last[-1]:
        raise ValueError("its compressed run lengths are damaged")
    if np.diff(np.flatnonzero(np.append(True, last))).max() > runs.MOST_DIGITS:
        raise ValueError("its compressed run lengths are damaged")
    return runs.decompressed(codes, np.array([0, len(codes)]))[0]


def _polygon(points: Float[np.ndarray, "n"], height: int, width: int) -> dict[str, Any]:
    if np.abs(points).max() <= FAR * max(height, width):
        return rle.frPyObjects([points.tolist()], height, width)[0]
    crossings = np.sort(_crossings(points.reshape(-1, 2), height, width))
    lengths = np.diff(np.concatenate([[0], crossings, [height * width]])).astype(np.int64)
    return rle.frPyObjects({"size": [height, width], "counts": lengths.tolist()}, height, width)


def _crossings(corners: Float[np.ndarray, "n 2"], height: int, width: int) -> Float[np.ndarray, "crossings"]:
    """Where, in pixels counted column by column, a polygon is entered or left; the library's arithmetic, bit by bit.

    The library draws each edge step by step on a finer grid. Only the steps across the middle of a pixel column matter;
    this computes them directly, so the cost does not depend on how far away the corners are.
    """
    grid = np.trunc(STEPS * np.clip(corners, -FARTHEST, FARTHEST) + 0.5)
    found = []
    for (x0, y0), (x1, y1) in zip(grid, np.roll(grid, -1, axis=0), strict=True):
        flat = abs(x1 - x0) >= abs(y1 - y0)
        if (x0 > x1 and flat) or (y0 > y1 and not flat):
            x0, y0, x1, y1 = x1, y1, x0, y0
        low, high = min(x0, x1), max(x0, x1)
        first, last = max(np.ceil((low - 2) / STEPS), 0), min(np.floor((high - 3) / STEPS), width - 1)
        if last < first:
            continue
        columns = np.arange(first, last + 1)
        left = STEPS * columns + 2  # the grid's column to the left of the middle
        if flat:
            slope = (y1 - y0) / (x1 - x0)
            y = np.minimum(*(np.trunc(y0 + slope * (left + step - x0) + 0.5) for step in (0, 1)))
        else:
            slope = (x1 - x0) / (y1 - y0)
            y = y0 + _first_beyond(x0, slope, left + 1, y1 - y0) - 1
        rows = np.ceil(np.clip((y + 0.5) / STEPS - 0.5, 0, height))
        found.append(columns * height + rows)
    return np.concatenate(found) if found else np.zeros(0)


def _first_beyond(x0: float, slope: float, right: Real[np.ndarray, "n"], steps: float) -> Float[np.ndarray, "n"]:
    """The first step along a steep edge that lies beyond the boundary left of `right`.

    It is solved for, then corrected by its neighbours, because the library rounds.
    """
    guess = np.ceil((right - 0.5 - x0) / slope)
    candidates = np.clip(guess + np.arange(-2, 3)[:, None], 0, steps)
    beyond = np.trunc(x0 + slope * candidates + 0.5) >= right
    beyond = beyond if slope > 0 else ~beyond
    return np.take_along_axis(candidates, beyond.argmax(axis=0)[None], axis=0)[0]
