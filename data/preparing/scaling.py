"""How a record is stored in a prepared dataset: smaller, with its truths to scale.

An image whose shorter side is longer than `short_side` is resized so that it becomes short_side, the other side in
proportion, rounded down: Pillow's antialiased bilinear. It is stored as a JPEG of `quality` with 4:2:0 chroma, or with
quality 0 as a PNG, without loss. All other images keep their pixels:

    upright JPEG (grey, YCbCr), upright PNG    the same bytes
    turned or CMYK JPEG                        upright RGB, a JPEG of `quality`
    other formats, and pixels without a file   a PNG
    more than 8 bits per channel               the same bytes (pixels: a PNG of 16 bits), never resized

With factors f_x and f_y, new side by old side, in float64:

    boxes           coordinates times f, rounded to float32, at most the new sides
    area            times f_x f_y
    masks           the mask is resampled to the nearest pixel, as torch's interpolate "nearest"; of one that has no
                    pixel left, the pixel in the middle of its box remains
    segmentation    resampled to the nearest pixel

Labels, crowds, difficult objects and names stay. What is odd about an image is handled as in training (data/image.py).
"""

import io
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from morphism.data import image, orientation, outlines
from morphism.data.annotations import Annotations
from morphism.data.image import START_OF_JPEG, to_8_bits
from morphism.data.intensity import is_high_bit
from morphism.data.odd import Odd
from morphism.data.outlines import Outlines
from morphism.data.records import Record
from morphism.data.render import nearest, render_classes
from morphism.data.windows import Size, Window, whole
from morphism.data.writing.images import png


class Storage(NamedTuple):
    """How images are stored. short_side: pixels; 0: sizes stay. quality: of JPEG, 1 to 100; 0: PNG."""

    short_side: int
    quality: int


class Stored(NamedTuple):
    """An encoded image of `size`, and what was odd about the original of `original_size`."""

    image: bytes
    size: Size
    original_size: Size
    odd: Odd


def scaled_truths(record: Record, stored: Stored) -> dict[str, Any]:
    """The truths of a record, by key, to the scale of its stored image."""
    truths = {key: value for key, value in record.items() if key not in ("image", "name")}
    if stored.size == stored.original_size:
        return truths
    return {key: _SCALED[key](value, truths, stored) for key, value in truths.items()}


def stored_image(encoded: bytes | np.ndarray, name: str, storage: Storage) -> Stored:
    """Raises UserError as `image.decode` does if the image cannot be read, as far as it has to be."""
    if isinstance(encoded, np.ndarray) and encoded.dtype != np.uint8:
        return Stored(png(encoded, name), encoded.shape[:2], encoded.shape[:2], Odd(0))
    if isinstance(encoded, bytes) and not encoded:
        image.decode(encoded, name)  # says what is wrong
    size = image.size(encoded, name)
    if isinstance(encoded, bytes) and is_high_bit(encoded):
        return Stored(encoded, size, size, Odd(0))
    to = smaller(size, storage.short_side)
    if to == size and isinstance(encoded, bytes) and _is_kept(encoded):
        return Stored(encoded, size, size, Odd(0))
    pixels, odd = image.decode(encoded, name)
    pixels = image.resize(to_8_bits(pixels), *to)
    is_jpeg = isinstance(encoded, bytes) and encoded.startswith(START_OF_JPEG)
    lossy = storage.quality > 0 and (to != size or is_jpeg)
    return Stored(_jpeg(pixels, storage.quality) if lossy else _png(pixels), to, size, odd)


def smaller(size: Size, short_side: int) -> Size:
    """`size` with its shorter side lowered to `short_side`, which 0 leaves as it is."""
    height, width = size
    if not 0 < short_side < min(size):
        return height, width
    if height <= width:
        return short_side, short_side * width // height
    return short_side * height // width, short_side


def _is_kept(encoded: bytes) -> bool:
    """Whether the bytes are stored as they are."""
    if encoded.startswith(START_OF_JPEG):
        return image.is_plain(encoded)
    return encoded.startswith(orientation.PNG) and orientation.of_png(io.BytesIO(encoded)) == 1


def _jpeg(pixels: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
    if _is_grey(pixels):
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[..., :1]), quality, "Gray", "Gray")
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420")


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0] if _is_grey(pixels) else pixels)).save(encoded, "PNG")
    return encoded.getvalue()


def _is_grey(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    return bool((pixels[..., :1] == pixels[..., 1:]).all())


def _scaled_boxes(objects: Annotations, truths: dict[str, Any], stored: Stored) -> Annotations:
    factors = _factors(stored)
    sides = np.array(stored.size[::-1], np.float32)
    boxes = np.minimum((objects.boxes * np.tile(factors, 2)).astype(np.float32), np.tile(sides, 2))
    return replace(objects, boxes=boxes, area=objects.area * factors.prod())


def _scaled_outlines(masks: Outlines, truths: dict[str, Any], stored: Stored) -> Outlines:
    rows, columns = nearest(stored.original_size, _window(stored))
    boxes = truths["annotations"].boxes * np.tile(_factors(stored), 2)
    found = []
    for number in range(len(masks)):
        if not masks[number]:
            found.append(None)
            continue
        inside = outlines.mask(masks[number], stored.original_size)
        left = inside[np.ix_(rows, columns)]
        if inside.any() and not left.any():
            x, y = (boxes[number, :2] + boxes[number, 2:]) / 2
            left[min(int(y), stored.size[0] - 1), min(int(x), stored.size[1] - 1)] = 1
        found.append(outlines.of_mask(left))
    return Outlines.of(found)


def _factors(stored: Stored) -> np.ndarray:
    """New width and height by old ones."""
    return np.array(stored.size[::-1], np.float64) / stored.original_size[::-1]


def _window(stored: Stored) -> Window:
    return Window(whole(stored.original_size), stored.size, stored.size)


_SCALED = {
    "label": lambda label, truths, stored: label,
    "annotations": _scaled_boxes,
    "masks": _scaled_outlines,
    "segmentation": lambda classes, truths, stored: render_classes(classes, _window(stored)),
}
