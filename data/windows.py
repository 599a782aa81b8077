"""Windows: which part of an image is shown where on a canvas.

The rules (resize, crop, zoom out, jitter the scale) read no pixels: they return a `Window`, or a rect for one. Then
data/render.py resamples the image and its class maps through the window, once, and `placed` maps its boxes.

Sizes are (height, width); boxes are x0, y0, x1, y1 in continuous pixels.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import scipy
from jaxtyping import Bool, Float

Size = tuple[int, int]
Rect = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the image; may lie partly outside
Boxes = Float[np.ndarray, "n 4"]

MAX_ASPECT = 16  # longer strips are cut before they are resized
CROP_SCALE, CROP_ASPECT, CROP_TRIALS = (0.3, 1.0), (0.5, 2.0), 40
CROP_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # 1 keeps the whole image
GRID = 3  # points per axis at which an elastic deformation is drawn


@dataclass(frozen=True)
class Window:
    """`rect` of an image, resized to `size`, lies on `canvas` with its top left corner at `offset` (y, x).

    Where the rect reaches beyond the image there is fill, which resampling mixes with the image's border. Where the
    canvas is larger than the resized rect there is fill beyond a sharp edge; where it is smaller, the rect is cut.

    flip: whether the shown part is then mirrored left-right, in its place.
    origins: where each pixel of the shown part is finally taken from (`elastic`).
    """

    rect: Rect
    size: Size
    canvas: Size
    offset: tuple[int, int] = (0, 0)
    flip: bool = False
    origins: Float[np.ndarray, "2 h w"] | None = field(default=None, compare=False)

    @property
    def scale(self) -> tuple[float, float]:
        """Canvas pixels per image pixel: x, y."""
        x0, y0, x1, y1 = self.rect
        return self.size[1] / (x1 - x0), self.size[0] / (y1 - y0)

    @property
    def shown(self) -> Size:
        """Height and width of the shown part, at the top left of the canvas."""
        return min(self.size[0], self.canvas[0]), min(self.size[1], self.canvas[1])


def whole(size: Size) -> Rect:
    return 0, 0, size[1], size[0]


def shorter(size: Size, shortest: int, longest: int) -> Size:
    """`size` scaled so that its shorter side is `shortest`, or less if the longer one would exceed `longest`.

    Source: torchvision.models.detection.transform.GeneralizedRCNNTransform, rounding included.
    """
    scale = min(shortest / min(size), longest / max(size))
    return max(1, math.floor(size[0] * scale)), max(1, math.floor(size[1] * scale))


def fit(size: Size, canvas: Size, scale: float = 1.0) -> Size:
    """The largest size of the same aspect ratio within `canvas`, times `scale`, rounded as in ScaleJitter."""
    ratio = min(canvas[0] / size[0], canvas[1] / size[1]) * scale
    return max(1, int(size[0] * ratio)), max(1, int(size[1] * ratio))


def center_crop(size: Size, shortest: int, side: int) -> Window:
    """The evaluation crop of ImageNet: the shorter side becomes `shortest`; the central square of `side` is shown.

    side <= shortest. Sizes and offsets are rounded as in torchvision's Resize and CenterCrop. Of a strip more than
    MAX_ASPECT times as long as wide only the middle is resized, because the whole might not fit into memory.
    """
    longest = MAX_ASPECT * min(size)
    y, x = (max(0, length - longest) // 2 for length in size)
    height, width = (min(length, longest) for length in size)
    if height <= width:
        to = shortest, int(shortest * width / height)
    else:
        to = int(shortest * height / width), shortest
    offset = -round((to[0] - side) / 2), -round((to[1] - side) / 2)
    return Window((x, y, x + width, y + height), to, (side, side), offset)


def random_crop(size: Size, to: Size, canvas: Size, rng: np.random.Generator) -> Window:
    """A random part of the image resized to `to`; an image smaller than the canvas is at the top left."""
    top, left = (int(rng.integers(0, max(0, a - b) + 1)) for a, b in zip(to, canvas, strict=True))
    return Window(whole(size), to, canvas, (-top, -left))


def random_resized_crop(
    size: Size, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Rect:
    """A rect with a random share of the area and a random aspect ratio (Szegedy et al. 2015, section 6).

    After ten failed tries the largest central crop within `ratio`.
    Source: torchvision.transforms.RandomResizedCrop.get_params.
    """
    (height, width), log_ratio = size, np.log(ratio)
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*log_ratio))
        w = round(math.sqrt(area * aspect))
        h = round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            y = int(rng.integers(0, height - h + 1))
            x = int(rng.integers(0, width - w + 1))
            return x, y, x + w, y + h
    w = round(height * ratio[1]) if width / height > ratio[1] else width
    h = round(width / ratio[0]) if width / height < ratio[0] else height
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def scale_jitter(
    size: Size, canvas: Size, rng: np.random.Generator, scales: tuple[float, float] = (0.1, 2.0)
) -> Window:
    """Large-scale jitter (Ghiasi et al. 2021): `fit` times a random scale, cut at random where too large.

    Source: ScaleJitter and FixedSizeCrop of torchvision's references/detection. As there and in detectron2, one draw
    positions the cut in both directions. The references resize with antialiasing: render(..., antialias=True).
    """
    to = fit(size, canvas, rng.uniform(*scales))
    share = rng.uniform()
    top, left = (int(max(0, to[axis] - canvas[axis]) * share) for axis in (0, 1))
    return Window(whole(size), to, canvas, (-top, -left))


def zoom_out(
    size: Size, rng: np.random.Generator, probability: float = 0.5, sides: tuple[float, float] = (1.0, 4.0)
) -> Rect:
    """SSD's expansion (Liu et al. 2016, section 3.6): the image at a random position in a rect of up to 4 x its sides.

    Source: torchvision.transforms.v2.RandomZoomOut.
    """
    if rng.uniform() >= probability:
        return whole(size)
    ratio = rng.uniform(*sides)
    height, width = int(size[0] * ratio), int(size[1] * ratio)
    left, top = int((width - size[1]) * rng.uniform()), int((height - size[0]) * rng.uniform())
    return -left, -top, width - left, height - top


def iou_crop(boxes: Boxes, rect: Rect, rng: np.random.Generator) -> Rect:
    """SSD's crop (Liu et al. 2016, section 2.2): a random part of `rect` that has a random minimum IoU with some box.

    The centre of at least one box lies in it. Without boxes, or if 1.0 is drawn, `rect` itself. `kept_by_crop` says
    which boxes remain. Source: torchvision.transforms.v2.RandomIoUCrop.
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
    """Whether SSD's crop to `rect` keeps each box: its centre lies inside, and at least one pixel of each side.

    Source: RandomIoUCrop, then SanitizeBoundingBoxes, of torchvision.transforms.v2.
    """
    part = np.clip(boxes, np.tile(rect[:2], 2), np.tile(rect[2:], 2))
    return _centers_inside(boxes, rect) & (part[:, 2:] - part[:, :2] >= 1).all(axis=1)


def elastic(size: Size, std: float, rng: np.random.Generator) -> Float[np.ndarray, "2 h w"]:
    """The origins (y, x) of the pixels of an elastic deformation: N(0, std) pixels on a coarse grid, smooth between.

    Source: Ronneberger et al. 2015, section 3.1: a grid of 3 x 3, std 10, bicubic interpolation.
    """
    coarse = rng.normal(0, std, (2, GRID, GRID))
    steps = np.meshgrid(*(np.linspace(0, GRID - 1, side) for side in size), indexing="ij")
    smooth = [scipy.ndimage.map_coordinates(each, steps, order=3, mode="nearest") for each in coarse]
    return np.stack(smooth) + np.indices(size)


def mapped(boxes: Boxes | Rect, window: Window) -> Boxes:
    """Maps boxes from the image to the canvas, before the flip; they may reach beyond the canvas."""
    (top, left), boxes = window.offset, np.reshape(boxes, (-1, 4))
    return (boxes - np.tile(window.rect[:2], 2)) * np.tile(window.scale, 2) + (left, top, left, top)


def mirrored(boxes: Boxes, window: Window) -> Boxes:
    """Applies the window's flip to boxes on the canvas."""
    if not window.flip:
        return boxes
    width = window.shown[1]
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def placed(boxes: Boxes, window: Window) -> Boxes:
    """Maps boxes from the image to the canvas, cut to their visible part; without width or height if there is none."""
    return mirrored(_cut(boxes, window), window)


def is_seen(boxes: Boxes, window: Window) -> Bool[np.ndarray, "n"]:
    """Whether some part of each box of the image is on the canvas."""
    cut = _cut(boxes, window)
    return (cut[:, 2:] > cut[:, :2]).all(axis=1)


def _cut(boxes: Boxes, window: Window) -> Boxes:
    (top, left), (height, width) = window.offset, window.size
    low = np.maximum((left, top), 0)
    high = np.minimum((left + width, top + height), window.canvas[::-1])
    return np.clip(mapped(boxes, window), np.tile(low, 2), np.tile(high, 2)).astype(np.float32)


def _centers_inside(boxes: Boxes, rect: Rect) -> Bool[np.ndarray, "n"]:
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centers > rect[:2]) & (centers < rect[2:])).all(axis=1)


def _iou(boxes: Boxes, rect: Rect) -> Float[np.ndarray, "n"]:
    overlap = np.minimum(boxes[:, 2:], rect[2:]) - np.maximum(boxes[:, :2], rect[:2])
    overlap = np.prod(np.maximum(overlap, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + (rect[2] - rect[0]) * (rect[3] - rect[1])
    return overlap / (areas - overlap)
