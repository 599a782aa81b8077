"""Geometry of pictures with boxes, on the host: which part of a picture comes where in the network's input.

A rule (resizing, letterboxing, zooming out, cropping, jittering the scale) reads no pixels, it chooses a `Window`.
`render` then resamples the picture once, whatever was chosen, `render_classes` its segmentation, `place` moves its
annotations along, and `restore` brings predicted boxes back. Sizes are (height, width), boxes x0, y0, x1, y1 in
continuous pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from morphism.data.annotations import Annotations
from morphism.data.image import Pixels, resample
from morphism.data.jpeg import fast
from morphism.labels import IGNORE

Size = tuple[int, int]
Rect = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the picture; may lie partly outside
Part = tuple[float, float, float, float]  # x0, y0, x1, y1 within the piece of a picture that is resampled
Boxes = Float[np.ndarray, "n 4"]
Rgb = tuple[int, int, int]

BLACK, IMAGENET_MEAN = (0, 0, 0), (123, 117, 104)
CROP_SCALE, CROP_ASPECT, CROP_TRIALS = (0.3, 1.0), (0.5, 2.0), 40
CROP_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # 1: the whole


@dataclass(frozen=True)
class Window:
    """`rect` of a picture, resized to `size`, lies in `canvas` with its corner at `offset` (y, x).

    Where rect is larger than the picture there is fill, which the resampling mixes with the picture's border. Where the
    canvas is larger than the resized rect there is fill too, beyond a sharp edge; where it is smaller it cuts.
    """

    rect: Rect
    size: Size
    canvas: Size
    offset: tuple[int, int] = (0, 0)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the canvas for a pixel of the picture: x, y."""
        x0, y0, x1, y1 = self.rect
        return self.size[1] / (x1 - x0), self.size[0] / (y1 - y0)


def whole(size: Size) -> Rect:
    return 0, 0, size[1], size[0]


def shorter(size: Size, shortest: int, longest: int) -> Size:
    """The shorter side becomes `shortest`, or less, so that the longer one is not above `longest`.

    Source: torchvision.models.detection.transform.GeneralizedRCNNTransform, rounding included.
    """
    scale = min(shortest / min(size), longest / max(size))
    return max(1, math.floor(size[0] * scale)), max(1, math.floor(size[1] * scale))


def fit(size: Size, canvas: Size, scale: float = 1.0) -> Size:
    """The largest size of the same aspect within `canvas`, times `scale`; rounded as torchvision's ScaleJitter does."""
    ratio = min(canvas[0] / size[0], canvas[1] / size[1]) * scale
    return max(1, int(size[0] * ratio)), max(1, int(size[1] * ratio))


def stretch(rect: Rect, canvas: Size) -> Window:
    """All of `rect` to all of `canvas`, whatever becomes of the aspect: SSD's input."""
    return Window(rect, canvas, canvas)


def resized(size: Size, to: Size, canvas: Size) -> Window:
    """The whole picture resized to `to`, at the top left of `canvas`: torchvision's detectors, YOLOX's letterbox."""
    return Window(whole(size), to, canvas)


def centered(size: Size, to: Size, canvas: Size) -> Window:
    """The whole picture resized to `to`, in the middle of `canvas`: YOLOv5's letterbox."""
    return Window(whole(size), to, canvas, ((canvas[0] - to[0]) // 2, (canvas[1] - to[1]) // 2))


def scale_jitter(
    size: Size, canvas: Size, rng: np.random.Generator, scales: tuple[float, float] = (0.1, 2.0)
) -> Window:
    """Large-scale jitter (Ghiasi et al. 2021): `fit` times a random scale; what is too large is cut at random.

    Source: ScaleJitter and FixedSizeCrop of torchvision's references/detection; as there, and in detectron2, one draw
    places the cut in both directions. The references resize with antialiasing: render(..., antialias=True).
    """
    to = fit(size, canvas, rng.uniform(*scales))
    share = rng.uniform()
    top, left = (int(max(0, to[axis] - canvas[axis]) * share) for axis in (0, 1))
    return Window(whole(size), to, canvas, (-top, -left))


def zoom_out(
    size: Size, rng: np.random.Generator, probability: float = 0.5, sides: tuple[float, float] = (1.0, 4.0)
) -> Rect:
    """SSD's expansion (Liu et al. 2016, section 3.6): the picture somewhere in a rect of up to four times its sides.

    Source: torchvision.transforms.v2.RandomZoomOut.
    """
    if rng.uniform() >= probability:
        return whole(size)
    ratio = rng.uniform(*sides)
    height, width = int(size[0] * ratio), int(size[1] * ratio)
    left, top = int((width - size[1]) * rng.uniform()), int((height - size[0]) * rng.uniform())
    return -left, -top, width - left, height - top


def iou_crop(boxes: Boxes, rect: Rect, rng: np.random.Generator) -> Rect:
    """SSD's crop (Liu et al. 2016, section 2.2): a random part of `rect`, of a random IoU or more with some box.

    At least one centre of a box lies in it. Without boxes it is `rect`. Which boxes remain is `kept_by_crop`'s answer.
    Source: torchvision.transforms.v2.RandomIoUCrop.
    """
    width, height = rect[2] - rect[0], rect[3] - rect[1]
    while len(boxes):
        least = rng.choice(CROP_IOUS)
        if least == 1.0:
            break
        for _ in range(CROP_TRIALS):
            across, down = rng.uniform(*CROP_SCALE, 2)
            w, h = int(width * across), int(height * down)
            if not w or not h or not CROP_ASPECT[0] <= w / h <= CROP_ASPECT[1]:
                continue
            left, top = rect[0] + int((width - w) * rng.uniform()), rect[1] + int((height - h) * rng.uniform())
            crop = (left, top, left + w, top + h)
            inside = _centers_inside(boxes, crop)
            if inside.any() and _iou(boxes[inside], crop).max() >= least:
                return crop
    return rect


def kept_by_crop(boxes: Boxes, rect: Rect) -> Bool[np.ndarray, "n"]:
    """The boxes that SSD's crop to `rect` keeps: their centres are inside, and a pixel or more each way is.

    Source: RandomIoUCrop, then SanitizeBoundingBoxes, of torchvision.transforms.v2.
    """
    part = np.clip(boxes, np.tile(rect[:2], 2), np.tile(rect[2:], 2))
    return _centers_inside(boxes, rect) & (part[:, 2:] - part[:, :2] >= 1).all(axis=1)


def place(annotations: Annotations, window: Window) -> Annotations:
    """Annotations of the picture -> of the canvas: boxes cut to what is seen of them, dropped where nothing is.

    Areas are scaled, not cut.
    """
    (top, left), (height, width) = window.offset, window.size
    boxes = mapped(annotations.boxes, window)
    low = np.maximum((left, top), 0)
    high = np.minimum((left + width, top + height), window.canvas[::-1])
    boxes = np.clip(boxes, np.tile(low, 2), np.tile(high, 2)).astype(np.float32)
    area = (annotations.area * math.prod(window.scale)).astype(np.float32)
    moved = Annotations(boxes, annotations.classes, annotations.crowd, annotations.difficult, area)
    return moved[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]


def mapped(boxes: Boxes | Rect, window: Window) -> Boxes:
    """Boxes of the picture -> of the canvas, and beyond it."""
    (top, left), boxes = window.offset, np.reshape(boxes, (-1, 4))
    return (boxes - np.tile(window.rect[:2], 2)) * np.tile(window.scale, 2) + (left, top, left, top)


def restore(boxes: Boxes, window: Window, size: Size) -> Boxes:
    """Boxes of the canvas -> of the picture, clipped to its `size`."""
    top, left = window.offset
    boxes = (boxes - (left, top, left, top)) / np.tile(window.scale, 2) + np.tile(window.rect[:2], 2)
    return np.clip(boxes, 0, np.tile(size[::-1], 2)).astype(np.float32)


def flip(boxes: Boxes, width: int) -> Boxes:
    """Mirrors boxes left-right in a canvas `width` wide; its pixels are pixels[:, ::-1]."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


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
    return canvas


def render_classes(
    segmentation: UInt8[np.ndarray, "h w"], window: Window, fill: int = IGNORE
) -> UInt8[np.ndarray, "H W"]:
    """The canvas of a class a pixel, by torch's interpolate "nearest"; `fill` where there is no picture."""
    rows, columns = (
        _nearest(
            window.rect[1 - axis], window.rect[3 - axis], window.size[axis], window.offset[axis], window.canvas[axis]
        )
        for axis in (0, 1)
    )
    inside = [(0 <= at) & (at < length) for at, length in zip((rows, columns), segmentation.shape, strict=True)]
    canvas = np.full(window.canvas, fill, np.uint8)
    canvas[np.ix_(*inside)] = segmentation[np.ix_(rows[inside[0]], columns[inside[1]])]
    return canvas


def _nearest(rect0: int, rect1: int, size: int, offset: int, canvas: int) -> np.ndarray:
    """The pixel of the picture that each of the canvas shows along an axis, -1 where that is outside the rect."""
    place = np.arange(canvas) - offset
    at = np.minimum((place.astype(np.float32) * np.float32((rect1 - rect0) / size)).astype(np.int64), rect1 - rect0 - 1)
    return np.where((0 <= place) & (place < size), at + rect0, -1)


def _centers_inside(boxes: Boxes, rect: Rect) -> Bool[np.ndarray, "n"]:
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centers > rect[:2]) & (centers < rect[2:])).all(axis=1)


def _iou(boxes: Boxes, rect: Rect) -> Float[np.ndarray, "n"]:
    overlap = np.minimum(boxes[:, 2:], rect[2:]) - np.maximum(boxes[:, :2], rect[:2])
    overlap = np.prod(np.maximum(overlap, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + (rect[2] - rect[0]) * (rect[3] - rect[1])
    return overlap / (areas - overlap)


@dataclass(frozen=True)
class _Axis:
    """Along one axis: pixels first..last of the picture, resampled from low to high of those, come to start..end.

    Beyond start and end the canvas is nothing but fill; first and last may lie beyond the picture, in the fill.
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
