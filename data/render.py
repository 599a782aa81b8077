"""Images and class maps resampled through a window (data/windows.py): one resampling, whatever the window is."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from morphism.data.image import Pixels, resample, resize
from morphism.data.jpeg import fast
from morphism.data.windows import Size, Window
from morphism.labels import IGNORE

Part = tuple[float, float, float, float]  # x0, y0, x1, y1 within the piece of an image that is resampled
Rgb = tuple[int, int, int]

BLACK, IMAGENET_MEAN = (0, 0, 0), (123, 117, 104)


def render(pixels: Pixels, window: Window, fill: Rgb = BLACK, antialias: bool = False) -> Pixels:
    """The canvas [H,W,3].

    Bilinear, with align_corners=False and without antialiasing, as torchvision's detectors resize: within a grey level
    of torch.nn.functional.interpolate, of which the rect is the input. With `antialias` the kernel widens with the
    scale. Pixels are of 0..255, uint8, which are rounded, or float32, which are not.
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
    return _finished(canvas, window, nearest=False)


def resize_and_cut(pixels: Pixels, window: Window) -> Pixels:
    """The canvas [H,W,3] of a window within the image: its rect resized as a whole by Pillow, antialiased, then cut."""
    (x0, y0, x1, y1), (top, left), (height, width) = window.rect, window.offset, window.canvas
    cut = resize(pixels[y0:y1, x0:x1], *window.size)[-top : height - top, -left : width - left]
    if window.flip or window.origins is not None:  # in place, in a copy of what may be the record's own
        return _finished(np.array(cut), window, nearest=False)
    return cut


def render_classes(
    segmentation: UInt8[np.ndarray, "h w"], window: Window, fill: int = IGNORE
) -> UInt8[np.ndarray, "H W"]:
    """The canvas of the class of each pixel, by torch's interpolate "nearest"; `fill` where there is no image."""
    rows, columns = (
        _nearest(
            window.rect[1 - axis], window.rect[3 - axis], window.size[axis], window.offset[axis], window.canvas[axis]
        )
        for axis in (0, 1)
    )
    inside = [(0 <= at) & (at < length) for at, length in zip((rows, columns), segmentation.shape, strict=True)]
    canvas = np.full(window.canvas, fill, np.uint8)
    canvas[np.ix_(*inside)] = segmentation[np.ix_(rows[inside[0]], columns[inside[1]])]
    return _finished(canvas, window, nearest=True)


def _finished(canvas: np.ndarray, window: Window, nearest: bool) -> np.ndarray:
    """The canvas, in place, after the window's flip and deformation."""
    if window.flip:
        shown = canvas[:, : window.shown[1]]
        shown[:] = shown[:, ::-1].copy()
    return deformed(canvas, window, nearest)


def deformed(canvas: np.ndarray, window: Window, nearest: bool) -> np.ndarray:
    """The canvas, in place, after the window's deformation, if it has one."""
    if window.origins is not None:
        height, width = window.shown
        canvas[:height, :width] = deform(canvas[:height, :width], window.origins, nearest)
    return canvas


def deform(x: np.ndarray, places: Float[np.ndarray, "2 h w"], nearest: bool) -> np.ndarray:
    """x [h,w] or [h,w,c], each pixel taken from its place, mirrored at the border; bilinear unless `nearest`."""
    if nearest:
        return ndimage.map_coordinates(x, places, order=0, mode="reflect")
    channels = np.atleast_3d(x).astype(np.float32)
    moved = [
        ndimage.map_coordinates(channels[..., c], places, order=1, mode="reflect") for c in range(channels.shape[2])
    ]
    moved = np.stack(moved, axis=-1).reshape(x.shape)
    return (moved + 0.5).astype(x.dtype) if x.dtype == np.uint8 else moved


def _nearest(rect0: int, rect1: int, size: int, offset: int, canvas: int) -> np.ndarray:
    """The pixel of the image that each of the canvas shows along an axis, -1 where that is outside the rect."""
    place = np.arange(canvas) - offset
    at = np.minimum((place.astype(np.float32) * np.float32((rect1 - rect0) / size)).astype(np.int64), rect1 - rect0 - 1)
    return np.where((0 <= place) & (place < size), at + rect0, -1)


@dataclass(frozen=True)
class _Axis:
    """Along one axis: pixels first..last of the image, resampled from low to high of those, come to start..end.

    Beyond start and end the canvas is nothing but fill; first and last may lie beyond the image, in the fill.
    """

    first: int
    last: int
    low: float
    high: float
    start: int
    end: int

    @classmethod
    def of(cls, rect0: int, rect1: int, size: int, offset: int, canvas: int, picture: int) -> "_Axis":
        length = rect1 - rect0
        margin = math.ceil(1.5 * length / size) + 2  # what the kernel sees beyond a pixel's own place
        seen0, seen1 = max(0, -offset), min(size, canvas - offset)
        first = max(rect0, -margin, rect0 + seen0 * length // size - margin)
        last = min(rect1, picture + margin, rect0 - (-seen1 * length // size) + margin)
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
    """Pillow's bilinear. Where it enlarges there is nothing to smooth, and it is `_bilinear` at the speed of SIMD."""
    if fast is None or pixels.dtype != np.uint8:
        return resample(pixels, size[::-1], box)
    options = fast.ResizeOptions(fast.ResizeAlg.convolution(fast.FilterType.bilinear))
    options.crop_box = fast.CropBox(box[0], box[1], box[2] - box[0], box[3] - box[1])
    source = fast.ImageData(pixels.shape[1], pixels.shape[0], fast.PixelType.U8x3, pixels.tobytes())
    result = fast.ImageData(size[1], size[0], fast.PixelType.U8x3)
    fast.Resizer().resize(source, result, options)
    return np.frombuffer(result.get_buffer(), np.uint8).reshape(*size, 3)


def _bilinear(pixels: Pixels, box: Part, size: Size) -> Pixels:
    """From the two nearest pixels each way; across first, in no more rows than are needed."""
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
    """The pixel before each of `count` equal steps' middles between low and high, and the share of the one after it."""
    middle = low + (np.arange(count) + 0.5) * ((high - low) / count) - 0.5
    middle = np.clip(middle, 0, length - 1)
    before = np.floor(middle).astype(np.intp)
    return before, (middle - before).astype(np.float32)


def _channels(columns: np.ndarray) -> np.ndarray:
    return (3 * columns[:, None] + np.arange(3)).ravel()
