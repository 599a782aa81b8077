"""The orientation in which an image is stored, from EXIF, or from XMP where EXIF has none; and turning it upright.

Orientations are 1 (upright) to 8. Source: EXIF 2.32, tag 0x0112; XMP's tiff:Orientation; the turns are those of
Pillow's ImageOps.exif_transpose.
"""

import io
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from morphism.data import jpeg

EXIF_ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
XMP = re.compile(r"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")

PNG = b"\x89PNG\r\n\x1a\n"
METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # PNG chunks that may hold an orientation, before or after IDAT
LARGEST_METADATA = 1 << 24  # bytes of such a chunk; a larger one is skipped
TAIL = 1 << 16  # bytes at the end of a file that are searched for the last pixels


def of_jpeg(encoded: bytes) -> int:
    """The orientation of a JPEG; does not open a file whose segments do not mention any."""
    if jpeg.is_upright(encoded):
        return 1
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return of(image)
    except Exception:  # decoding reports what is wrong with the file
        return 1


def of_png(file: io.BufferedIOBase) -> int:
    """The orientation of a PNG, from the metadata before or after the pixels, without reading the pixels.

    Pillow finds metadata after the pixels only once it has decoded them. So Pillow is given a file of the metadata
    alone, without pixels.
    """
    chunks = list(_metadata(file))
    if len(chunks) < 2:
        return 1
    file = PNG + b"".join(chunks) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")
    try:
        with Image.open(io.BytesIO(file)) as image:
            return of(image)
    except Exception:  # broken metadata is no reason to lose the image
        return 1


def of(image: Image.Image) -> int:
    """The orientation in what Pillow has read so far; 1 where there is none or it cannot be read."""
    value = _exif(image)
    if value is None:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or ""
        found = XMP.search(xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else str(xmp))
        value = found and int(found[1])
    return int(value) if value in TURNS else 1


def is_turned_by_pillow(image: Image.Image) -> bool:
    """Whether Pillow turns the image upright when it loads it: a TIFF with an orientation. To be called before."""
    return image.format == "TIFF" and _exif(image) in TURNS


def swaps_sides(orientation: int) -> bool:
    return orientation >= 5


def hint(decoded: Sequence[int], other: Sequence[int] | Int[np.ndarray, "2"]) -> str:
    """A remedy for swapped sides, "" if the two sizes (height, width) differ otherwise."""
    turned = tuple(decoded[:2]) == tuple(other[1::-1]) and decoded[0] != decoded[1]
    return "; if those are for the image as it is stored, remove the orientation from its EXIF" if turned else ""


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels [h,w,...] upright, for images that Pillow itself does not hold."""
    if swaps_sides(orientation):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _exif(image: Image.Image) -> Any:
    """The orientation that Pillow finds, in EXIF or the most common form of XMP; None if it finds none."""
    try:
        return Image.Image.getexif(image).get(EXIF_ORIENTATION)  # a PNG's own method would decode the pixels
    except Exception:  # a broken EXIF block is no reason to lose the image
        return None


def _metadata(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Yields the header and metadata chunks of a PNG, up to the end of the file or to where it is broken."""
    position, skipped = len(PNG), False
    while True:
        file.seek(position)
        head = file.read(8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND":
            return
        if kind == b"IDAT" and not skipped:  # there may be thousands of them
            position, skipped = _last_pixels(file, position), True
            continue
        if kind == b"IHDR" or (kind in METADATA and size <= LARGEST_METADATA):
            rest = file.read(size + 4)
            if len(rest) < size + 4:
                return
            yield head + rest
        position += size + 12


def _last_pixels(file: io.BufferedIOBase, first: int) -> int:
    """The offset of the last IDAT chunk, if it starts within TAIL of the end; else `first`, that of the first one.

    A candidate counts only if chunk follows chunk from there to the end of the image.
    """
    start = max(first, file.seek(0, io.SEEK_END) - TAIL)
    file.seek(start)
    tail = file.read()
    at = len(tail)
    while (at := tail.rfind(b"IDAT", 4, at + 3)) > 0:
        position, kind = at - 4, b""
        while position + 12 <= len(tail) and kind != b"IEND":
            kind = tail[position + 4 : position + 8]
            position += int.from_bytes(tail[position : position + 4], "big") + 12
        if kind == b"IEND" and position <= len(tail):
            return start + at - 4
    return first


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk, with length and checksum. Source: the PNG specification, section 5.3."""
    check = zlib.crc32(kind + content)
    return len(content).to_bytes(4, "big") + kind + content + check.to_bytes(4, "big")
