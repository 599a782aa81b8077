"""Fast random crops of JPEGs: the host's work for every training example of ImageNet.

This is faster than decoding the image, cutting and resizing with Pillow, for three reasons:

- Rows below the crop are not decoded: in a copy of the file the frame's height is lowered, and the decoder stops there.
- A crop of twice the target or more is decoded at 1/2, 1/4 or 1/8, the smallest scale that leaves the target.
- fast_image_resize computes Pillow's antialiased bilinear with SIMD, within one grey level of Pillow. Where its wheel
  does not exist (Linux on ARM), Pillow itself resizes.

Each thread reuses one buffer: fresh pages from the system can cost as much as the resize. `read_header` and
`random_crop` return None for all but the common kind of file; `data.image.decode` reads the others, and says what is
wrong with a broken file.
"""

import re
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

try:
    import cykooz_resizer as fast
except ImportError:
    fast = None

Pixels = UInt8[np.ndarray, "_ _ 3"]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels
Part = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, between them too

LARGEST = 64 << 20  # bytes of pixels; larger images are left to `data.image.decode`
SCAN = 0xDA  # the marker before the pixels
MARGIN = 8  # rows decoded below the crop, at the decoded scale: upsampling of chroma looks at most 4 rows ahead

# Application segment -> the content for which the file is left to `data.image.decode`.
ODD = {
    # Orientation (Exif's tag 0x0112 of any numeric type in either byte order, or XMP's) that may be other than 1
    0xE1: re.compile(
        rb"\x12\x01[\x01-\x0d]\0\x01\0\0\0(?!\x01\0)|\x01\x12\0[\x01-\x0d]\0\0\0\x01(?!\0\x01)"
        rb"|tiff:Orientation\s*(=\s*[\"']|>)\s*[02-9]"
    ),
    0xEE: re.compile(rb"Adobe.{6}[^\x01]", re.DOTALL),  # a colour transform other than YCbCr
}

# libjpeg's first warning where a lowered frame ends before the scan. Damage within the decoded rows is reported before
# it, with other words.
ROWS_LEFT_OVER = "extraneous bytes before marker 0xd9"


class Header(NamedTuple):
    """The header of an upright, grey or YCbCr, Huffman-coded, sequential JPEG of 8 bits."""

    height: int
    width: int
    frame: int  # the byte offset of the height
    restarts: bool  # whether the scan may have restart markers


class _Scratch(threading.local):
    """The buffer and the resizer that each thread reuses."""

    def __init__(self) -> None:
        self.pixels = np.empty(0, np.uint8)
        if fast:
            self.resizer = fast.Resizer()
            self.options = fast.ResizeOptions(fast.ResizeAlg.convolution(fast.FilterType.bilinear))

    def room(self, size: int) -> np.ndarray:
        if len(self.pixels) < size:
            self.pixels = np.empty(size + size // 4, np.uint8)
        return self.pixels


_scratch = _Scratch()


def read_header(encoded: bytes) -> Header | None:
    """Reads the segments before the scan (ITU-T T.81, annex B); None for files that `random_crop` does not read."""
    height, width, frame, restarts = 0, 0, 0, False
    for marker, body, end in _segments(encoded):
        if marker in (0xC0, 0xC1):  # baseline, extended sequential: precision, height, width, components
            components = encoded[body + 5 : body + 6]
            if frame or encoded[body : body + 1] != b"\x08" or components not in (b"\x01", b"\x03"):
                return None
            if encoded[body + 6 : end : 3] == b"RGB":
                return None
            frame = body + 1
            height = int.from_bytes(encoded[frame : frame + 2], "big")
            width = int.from_bytes(encoded[frame + 2 : frame + 4], "big")
        elif 0xC2 <= marker <= 0xCF and marker != 0xC4:  # progressive, lossless, arithmetic
            return None
        elif marker == 0xDD:
            restarts = True
        elif marker in ODD and ODD[marker].search(encoded, body, end):
            return None
        elif marker == SCAN:
            return Header(height, width, frame, restarts) if height and width else None
    return None


def is_upright(encoded: bytes) -> bool:
    """Whether all segments before the scan can be read, and none says, or may say, that the image is turned."""
    for marker, body, end in _segments(encoded):
        if marker == 0xE1 and ODD[marker].search(encoded, body, end):
            return False
        if marker == SCAN:
            return True
    return False


def has_scan(encoded: bytes) -> bool:
    """Whether `encoded`, which may be the start of a file, reaches the pixels; no metadata follows them."""
    return any(marker == SCAN for marker, _, _ in _segments(encoded))


def _segments(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment's content, up to the scan; ends early where the bytes are not a segment."""
    position = 2 if encoded[:2] == b"\xff\xd8" else len(encoded)
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker, body = encoded[position + 1], position + 4
        position += 2 + int.from_bytes(encoded[position + 2 : body], "big")
        yield marker, body, position
        if marker == SCAN:
            return


def random_crop(encoded: bytes, header: Header, box: Box, target: int) -> Pixels | None:
    """`box` of the image, resized to [target,target,3]; None where libjpeg warns about the file.

    Raises ValueError for a box outside the image.
    """
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= header.width and 0 <= y0 < y1 <= header.height):
        raise ValueError(
            f"a crop of x {x0} to {x1}, y {y0} to {y1} lies outside {header.width} x {header.height} pixels"
        )
    shrink = shrink_for(box, target)
    pixels = _decode(encoded, header, y1, shrink)
    if pixels is None:
        return None
    left, top = x0 // shrink, y0 // shrink
    pixels = pixels[top : -(-y1 // shrink), left : -(-x1 // shrink)]
    if shrink == 1:
        return _resize(pixels, None, target)
    # at a smaller scale the crop may start and end within a pixel
    return _resize(pixels, (x0 / shrink - left, y0 / shrink - top, x1 / shrink - left, y1 / shrink - top), target)


def shrink_for(box: Box, target: int) -> int:
    """8, 4, 2 or 1: the smallest of libjpeg's scales, 1 / shrink, that leaves the box at least target x target."""
    x0, y0, x1, y1 = box
    return next((shrink for shrink in (8, 4, 2) if min(x1 - x0, y1 - y0) >= shrink * target), 1)


def _decode(encoded: bytes, header: Header, bottom: int, shrink: int) -> Pixels | None:
    """The rows above `bottom`, and MARGIN more, at scale 1 / shrink, in the thread's buffer."""
    rows = header.height if header.restarts else min(header.height, bottom + MARGIN * shrink)
    height, width = -(-rows // shrink), -(-header.width // shrink)
    size = height * width * 3
    if size > LARGEST:
        return None
    if rows < header.height:
        lowered = bytearray(encoded)
        lowered[header.frame : header.frame + 2] = rows.to_bytes(2, "big")
        encoded = lowered
    room = _scratch.room(size)
    try:
        simplejpeg.decode_jpeg(encoded, "RGB", min_height=height, min_width=width, min_factor=1, buffer=room)
    except ValueError as error:
        if rows == header.height or not str(error).endswith(ROWS_LEFT_OVER):
            return None
    return room[:size].reshape(height, width, 3)


def _resize(pixels: Pixels, box: Part | None, target: int) -> Pixels:
    if pixels.shape[:2] == (target, target) and box is None:
        return pixels.copy()
    if fast is None:
        return np.asarray(Image.fromarray(pixels).resize((target, target), Image.Resampling.BILINEAR, box))
    return fast_resize(pixels, (target, target), box)


def fast_resize(pixels: Pixels, size: tuple[int, int], box: Part | None) -> Pixels:
    """Resizes `box` of the pixels, or all of them, to `size` (height, width): Pillow's bilinear, with SIMD."""
    options = _scratch.options
    if box is not None:
        options = options.copy()
        options.crop_box = fast.CropBox(box[0], box[1], box[2] - box[0], box[3] - box[1])
    source = fast.ImageData(pixels.shape[1], pixels.shape[0], fast.PixelType.U8x3, pixels.tobytes())
    result = fast.ImageData(size[1], size[0], fast.PixelType.U8x3)
    _scratch.resizer.resize(source, result, options)
    return np.frombuffer(result.get_buffer(), np.uint8).reshape(*size, 3)
