"""Resamples images and class maps through a window (data/windows.py), once, whatever the window does."""

import math
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float, Int, UInt8

from morphism.data.image import Pixels, resample, resize
from morphism.data.jpeg import Part, fast, fast_resize
from morphism.data.windows import Size, Window
from morphism.labels import IGNORE

Rgb = tuple[int, int, int]

BLACK, IMAGENET_MEAN = (0, 0, 0), (123, 117, 104)


def render(pixels: Pixels, window: Window, fill: Rgb = BLACK, antialias: bool = False) -> Pixels:
    """The canvas [H,W,3] of an image seen through `window`.

    Bilinear, with align_corners=False and without antialiasing, as torchvision's detectors resize: within one grey
    level of torch.nn.functional.interpolate applied to the rect. With `antialias` the kernel widens with the scale.
    Pixels are 0..255, uint8 (rounded) or float32 (not rounded).
    """
    x0, y0, x1, y1 = window.rect
    rows = _Axis.of(y0, y1, window.size[0], window.offset[0], window.canvas[0], pixels.shape[0])
    columns = _Axis.of(x0, x1, window.size[1], window.offset[1], window.canvas[1], pixels.shape[1])
    canvas = _filled(*window.canvas, fill, pixels.dtype)
    if rows.start < rows.end and columns.start < columns.end:
        piece = _cut(pixels, rows, columns, fill)
        box = (columns.low, rows.low, columns.high, rows.high)
        size = (rows.end - rows.start, columns.end - columns.start)
        canvas[rows.start : rows.end, columns.start : columns.end] = _resample(piece, box, size, antialias)
    return _finished(canvas, window)


def resize_and_cut(pixels: Pixels, window: Window) -> Pixels:
    """The canvas [H,W,3] of a window within the image: Pillow resizes the whole rect, antialiased, then it is cut."""
    (x0, y0, x1, y1), (top, left), (height, width) = window.rect, window.offset, window.canvas
    cut = resize(pixels[y0:y1, x0:x1], *window.size)[-top : height - top, -left : width - left]
    if window.flip or window.origins is not None:  # in place, so in a copy: `cut` may be the record's own array
        return _finished(np.array(cut), window)
    return cut


def render_classes(
    segmentation: UInt8[np.ndarray, "h w"], window: Window, fill: int = IGNORE
) -> UInt8[np.ndarray, "H W"]:
    """The canvas of a class map, resampled as by torch's interpolate "nearest"; `fill` where there is no image."""
    rows, columns = nearest(segmentation.shape, window)
    canvas = np.full(window.canvas, fill, np.uint8)
    canvas[np.ix_(rows >= 0, columns >= 0)] = segmentation[np.ix_(rows[rows >= 0], columns[columns >= 0])]
    return deformed(canvas, window, nearest=True)


def nearest(size: Size, window: Window) -> tuple[Int[np.ndarray, "H"], Int[np.ndarray, "W"]]:
    """The row and the column of an image of `size` that each canvas pixel shows, -1 where it shows none.

    As torch's interpolate "nearest", then flipped; a deformation is not included.
    """
    rows, columns = (
        _nearest(
            *(window.rect[1 - axis], window.rect[3 - axis], window.size[axis], window.offset[axis]),
            *(window.canvas[axis], size[axis]),
        )
        for axis in (0, 1)
    )
    if window.flip:
        width = window.shown[1]
        columns[:width] = columns[:width][::-1].copy()
    return rows, columns


def _finished(canvas: np.ndarray, window: Window) -> np.ndarray:
    """Applies the window's flip and deformation to the canvas, in place."""
    if window.flip:
        shown = canvas[:, : window.shown[1]]
        shown[:] = shown[:, ::-1].copy()
    return deformed(canvas, window, nearest=False)


def deformed(canvas: np.ndarray, window: Window, nearest: bool) -> np.ndarray:
    """Applies the window's deformation, if it has one, to the canvas, in place."""
    if window.origins is not None:
        height, width = window.shown
        canvas[:height, :width] = deform(canvas[:height, :width], window.origins, nearest)
    return canvas


def deform(x: np.ndarray, origins: Float[np.ndarray, "2 h w"], nearest: bool) -> np.ndarray:
    """x [h,w] or [h,w,c] with each pixel taken from its origin (y, x), mirrored at the border; bilinear or nearest."""
    if nearest:
        return scipy.ndimage.map_coordinates(x, origins, order=0, mode="reflect")
    channels = np.atleast_3d(x).astype(np.float32)
    moved = [
        scipy.ndimage.map_coordinates(channels[..., c], origins, order=1, mode="reflect")
        for c in range(channels.shape[2])
    ]
    moved = np.stack(moved, axis=-1).reshape(x.shape)
    return (moved + 0.5).astype(x.dtype) if x.dtype == np.uint8 else moved


def _nearest(rect0: int, rect1: int, size: int, offset: int, canvas: int, extent: int) -> Int[np.ndarray, "canvas"]:
    """Along one axis, the image pixel that each canvas pixel shows; -1 outside the rect, and outside the image."""
    to = np.arange(canvas) - offset
    at = np.minimum((to.astype(np.float32) * np.float32((rect1 - rect0) / size)).astype(np.int64), rect1 - rect0 - 1)
    at += rect0
    return np.where((0 <= to) & (to < size) & (0 <= at) & (at < extent), at, -1)


@dataclass(frozen=True)
class _Axis:
    """The resampling along one axis.

    The piece first..last of the image is resampled, from low to high within the piece, to start..end on the canvas.
    Beyond start and end the canvas is all fill; first and last may lie beyond the image, in the fill.
    """

    first: int
    last: int
    low: float
    high: float
    start: int
    end: int

    @classmethod
    def of(cls, rect0: int, rect1: int, size: int, offset: int, canvas: int, extent: int) -> "_Axis":
        length = rect1 - rect0
        margin = math.ceil(1.5 * length / size) + 2  # pixels that the kernel reaches beyond its centre
        seen0, seen1 = max(0, -offset), min(size, canvas - offset)
        first = max(rect0, -margin, rect0 + seen0 * length // size - margin)
        last = min(rect1, extent + margin, rect0 - (-seen1 * length // size) + margin)
        start = max(seen0, -(-(first - rect0) * size // length))
        end = min(seen1, (last - rect0) * size // length)
        low = max(0.0, start * length / size + rect0 - first)
        high = min(float(last - first), end * length / size + rect0 - first)
        return cls(first, last, low, high, start + offset, end + offset)


def _cut(pixels: Pixels, rows: _Axis, columns: _Axis, fill: Rgb) -> Pixels:
    height, width = pixels.shape[:2]
    y0, y1, x0, x1 = max(0, rows.first), min(height, rows.last), max(0, columns.first), min(width, columns.last)
    inner = pixels[y0:y1, x0:x1]
    if (rows.first, rows.last, columns.first, columns.last) == (y0, y1, x0, x1):
        return inner
    piece = _filled(rows.last - rows.first, columns.last - columns.first, fill, pixels.dtype)
    if y0 < y1 and x0 < x1:
        piece[y0 - rows.first : y1 - rows.first, x0 - columns.first : x1 - columns.first] = inner
    return piece


def _filled(height: int, width: int, fill: Rgb, kind: np.dtype) -> Pixels:
    row = np.tile(np.array(fill, kind), width)
    return np.repeat(row[None], height, axis=0).reshape(height, width, 3)


def _resample(pixels: Pixels, box: Part, size: Size, antialias: bool) -> Pixels:
    across, down = box[2] - box[0], box[3] - box[1]
    if (down, across) == size and box[:2] == (int(box[0]), int(box[1])):
        return pixels[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
    enlarged = across <= size[1] and down <= size[0]
    simd = fast and pixels.dtype == np.uint8
    return _antialiased(pixels, box, size) if antialias or (enlarged and simd) else _bilinear(pixels, box, size)


def _antialiased(pixels: Pixels, box: Part, size: Size) -> Pixels:
    """Pillow's bilinear. When it enlarges there is nothing to smooth, and it equals `_bilinear`, only faster."""
    if fast is None or pixels.dtype != np.uint8:
        return resample(pixels, size[::-1], box)
    return fast_resize(pixels, size, box)


def _bilinear(pixels: Pixels, box: Part, size: Size) -> Pixels:
    """Bilinear interpolation without antialiasing; first along the rows that are needed, then along columns."""
    upper, down = _taps(box[1], box[3], size[0], pixels.shape[0])
    left, across = _taps(box[0], box[2], size[1], pixels.shape[1])
    lower, right = np.minimum(upper + 1, pixels.shape[0] - 1), np.minimum(left + 1, pixels.shape[1] - 1)
    needed = np.zeros(pixels.shape[0], bool)
    needed[upper] = needed[lower] = True
    position = np.cumsum(needed) - 1
    rows = pixels[needed].reshape(needed.sum(), -1)
    flat = np.take(rows, _channels(left), axis=1).astype(np.float32)
    flat += (np.take(rows, _channels(right), axis=1) - flat) * np.repeat(across, 3)
    result = flat[position[upper]]
    result += (flat[position[lower]] - result) * down[:, None]
    if pixels.dtype == np.uint8:
        result += 0.5
        result = result.astype(np.uint8)
    return result.reshape(*size, 3)


def _taps(low: float, high: float, count: int, length: int) -> tuple[np.ndarray, Float[np.ndarray, "n"]]:
    """Divides low..high into `count` steps: the pixel before the middle of each, and the weight of the next pixel."""
    middle = low + (np.arange(count) + 0.5) * ((high - low) / count) - 0.5
    middle = np.clip(middle, 0, length - 1)
    before = np.floor(middle).astype(np.intp)
    return before, (middle - before).astype(np.float32)


def _channels(columns: np.ndarray) -> np.ndarray:
    return (3 * columns[:, None] + np.arange(3)).ravel()
