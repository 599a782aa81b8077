"""Which way up an image is stored: EXIF's orientation, or XMP's where EXIF has none; and turning it upright.

Source: EXIF 2.32, tag 0x0112; XMP's tiff:Orientation. The eight values are mirrored and turned as Pillow's
ImageOps.exif_transpose has them.
"""

import io
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
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
METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # PNG's chunks that may tell an orientation, before IDAT or after it
LARGEST_METADATA = 1 << 24  # bytes of such a chunk; a larger one is passed over
TAIL = 1 << 16  # bytes at the end of a file in which its last pixels are looked for


def of_jpeg(encoded: bytes) -> int:
    """1 to 8, without opening a file whose segments say nothing of it."""
    if jpeg.is_upright(encoded):
        return 1
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return of(image)
    except Exception:  # libjpeg will say what is wrong with the file
        return 1


def of_png(file: BinaryIO) -> int:
    """1 to 8, from the metadata before the pixels or after them, without reading the pixels.

    Pillow finds metadata that follows the pixels only after decoding them. So all of it is put before them, in a file
    that has none.
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
    """1 to 8, from what Pillow has read so far; 1, upright, where nothing is said or it cannot be read."""
    value = _exif(image)
    if value is None:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or ""
        found = XMP.search(xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else str(xmp))
        value = found and int(found[1])
    return int(value) if value in TURNS else 1


def is_turned_by_pillow(image: Image.Image) -> bool:
    """Whether loading this image will turn it upright: a TIFF whose orientation Pillow knows. Ask before loading."""
    return image.format == "TIFF" and _exif(image) in TURNS


def swaps_sides(orientation: int) -> bool:
    return orientation >= 5


def hint(decoded: Sequence[int], other: Sequence[int]) -> str:
    """What to do where an image is as high as it should be wide; "" for other sizes (height, width)."""
    turned = tuple(decoded[:2]) == tuple(other[1::-1]) and decoded[0] != decoded[1]
    return "; if those are for the image as it is stored, remove the orientation from its EXIF" if turned else ""


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[h,w,...] as stored -> as it is meant to be seen, for images that Pillow itself does not hold."""
    if swaps_sides(orientation):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _exif(image: Image.Image) -> Any:
    """The orientation as Pillow knows it, from EXIF or the commonest form of XMP; None where it knows of none."""
    try:
        return Image.Image.getexif(image).get(EXIF_ORIENTATION)  # a PNG's own method would decode the pixels
    except Exception:  # a broken EXIF block is no reason to lose the image
        return None


def _metadata(file: BinaryIO) -> Iterator[bytes]:
    """The header chunk of a PNG and its metadata, whole. Ends where the file does, or where it is broken."""
    position, skipped = len(PNG), False
    while True:
        file.seek(position)
        head = file.read(8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND":
            return
        if kind == b"IDAT" and not skipped:  # of thousands of chunks, perhaps
            position, skipped = _last_pixels(file, position), True
            continue
        if kind == b"IHDR" or (kind in METADATA and size <= LARGEST_METADATA):
            rest = file.read(size + 4)
            if len(rest) < size + 4:
                return
            yield head + rest
        position += size + 12


def _last_pixels(file: BinaryIO, first: int) -> int:
    """Where the last IDAT chunk begins, if the last bytes of the file say so; else `first`, where the first one does.

    They do if from there on chunk follows chunk up to the end of the image.
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
    """Source: the PNG specification, section 5.3."""
    check = zlib.crc32(kind + content)
    return len(content).to_bytes(4, "big") + kind + content + check.to_bytes(4, "big")
