"""Renders masks of objects from their run lengths through a window, without a map of the image for each."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from morphism import frames
from morphism.data.render import nearest
from morphism.data.runs import Runs
from morphism.data.windows import Size, Window


def render_masks(
    runs: Runs, size: Size, window: Window, boxes: Float[np.ndarray, "n 4"], cells: int
) -> UInt8[np.ndarray, "n cells cells"]:
    """The masks of the objects of an image of `size`, in the frames of their `boxes` on the canvas (frames.py).

    Each cell has the value of the canvas pixel that holds its middle, as of `render_classes` of a map of the object: 1
    inside, 0 outside and where there is no image.
    """
    rows, columns = nearest(size, window)
    at = np.floor(frames.middles(boxes, cells)).astype(np.int64)
    across, down = _looked_up(columns, at[:, 0]), _looked_up(rows, at[:, 1])
    across = across[:, ::-1] if window.flip else across
    found = _inside(runs, size[0], *(np.maximum.accumulate(each, axis=1) for each in (across, down)))
    found *= (across >= 0)[:, :, None]
    found *= (down >= 0)[:, None, :]
    return (found[:, ::-1] if window.flip else found).transpose(0, 2, 1)


def seen_pixels(runs: Runs, size: Size, window: Window) -> Int[np.ndarray, "n"]:
    """How many pixels of the image within each outline the canvas shows."""
    shown = []
    for at, length in zip(nearest(size, window), size, strict=True):
        marked = np.zeros(length + 1, np.int64)
        marked[at[at >= 0]] = 1
        shown.append(marked)
    before_row, before_column = (np.cumsum(each) - each for each in shown)
    column, row = np.divmod(runs.ends, size[0])
    before = before_column[column] * shown[0].sum() + shown[1][column] * before_row[row]  # shown pixels before each end
    inside = np.flatnonzero(runs.is_inside)
    counts = before[inside] - before[inside - 1]
    return np.bincount(runs.owner[inside], counts, minlength=len(runs.offsets) - 1).astype(np.int64)


def _looked_up(pixels: Int[np.ndarray, "canvas"], at: Int[np.ndarray, "n cells"]) -> Int[np.ndarray, "n cells"]:
    """The image's row or column at each position on the canvas; -1 where there is none."""
    return np.where((at >= 0) & (at < len(pixels)), pixels[np.clip(at, 0, len(pixels) - 1)], -1)


def _inside(
    runs: Runs, height: int, columns: Int[np.ndarray, "n cells"], rows: Int[np.ndarray, "n cells"]
) -> UInt8[np.ndarray, "n cells cells"]:
    """Whether the pixel in each of `columns` and each of `rows` lies in the object; both ascend, and may repeat.

    A run's end switches the value at the first of these pixels that does not come before it, column by column. So the
    sum of switches up to a pixel is odd inside. Columns that repeat share one.
    """
    count, cells = columns.shape
    rank = np.cumsum(np.diff(columns, axis=1, prepend=columns[:, :1]) > 0, axis=1)  # of a column among distinct ones
    owner = runs.owner
    column, row = np.divmod(runs.ends, height)
    first = _first_not_below(columns, owner, column)
    last = np.minimum(first, cells - 1)
    is_shown = columns[owner, last] == column
    position = rank[owner, last] * cells + np.where(is_shown, _first_not_below(rows, owner, row), 0)
    position = np.where(first == cells, cells * cells, position)  # behind them all: in a spare column
    switches = np.zeros((count, cells + 1, cells), np.uint8)
    np.add.at(switches.reshape(-1), owner * (cells + 1) * cells + position, np.uint8(1))
    values = np.cumsum(switches.reshape(count, (cells + 1) * cells), axis=1, dtype=np.uint8) & 1
    of_column = rank + np.arange(count)[:, None] * (cells + 1)
    return values.reshape(-1, cells)[of_column]


def _first_not_below(
    ascending: Int[np.ndarray, "n cells"], owner: Int[np.ndarray, "runs"], wanted: Int[np.ndarray, "runs"]
) -> Int[np.ndarray, "runs"]:
    """The position of the first value in row `owner` that is at least `wanted`; `cells` if none is."""
    count, cells = ascending.shape
    apart = max(ascending.max(initial=0), wanted.max(initial=0)) + 2
    keys = ascending + np.arange(count)[:, None] * apart
    return np.searchsorted(keys.ravel(), wanted + owner * apart) - owner * cells
