"""Images of more than 8 bits per channel: their values as stored, and the range of values that becomes 0 to 255.

CT, X-ray and microscopy store 10 to 16 bits, in 16-bit or 32-bit integers or in floats. Stored values are read without
loss and scaled to float32: the range's lower end becomes black (0), its upper end white (255). Values beyond, infinite
ones included, are clipped to black or white; NaN is black. Images of 8 bits are never scaled.

    uint16 (PNG, TIFF, PGM, PPM), grey or RGB    as stored
    uint16 (JPEG 2000), grey                     fewer than 16 bits are shifted up to 16, as Pillow does
    int16, int32, uint32 (TIFF), grey            as stored; CT has negative values
    float32, float64 (TIFF, PFM), grey           as float32

data/intensity.py chooses the range for a dataset. Without one, each file is scaled by its `own_range`.
"""

import io
import math
import re
import sys

import numpy as np
from jaxtyping import Float
from PIL import Image, TiffImagePlugin

from morphism.data.orientation import PNG

Range = tuple[float, float]  # stored values that become 0 and 255

BITS_PER_SAMPLE, SAMPLE_FORMAT, PLANES, PHOTOMETRIC = 258, 339, 284, 262  # TIFF tags
WHITE_IS_ZERO = 0  # a value of PHOTOMETRIC
SIGNED = 2  # a value of SAMPLE_FORMAT; 1 is unsigned, 3 float
NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF", "F;64BF": "F;64NF", "I;32B": "I;32N"}
LOW_BYTES = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
J2K_SIZE = re.compile(rb"\xff\x51.{36}(..)(.)", re.DOTALL)  # marker SIZ: number of components, bits - 1 of the first

# Pillow can unpack these, but does not recognise them: float64, big-endian uint32, big-endian uint16 with 0 as white.
TiffImagePlugin.OPEN_INFO.update(
    {
        (TiffImagePlugin.II, 1, (3,), 1, (64,), ()): ("F", "F;64F"),
        (TiffImagePlugin.MM, 1, (3,), 1, (64,), ()): ("F", "F;64BF"),
        (TiffImagePlugin.MM, 1, (1,), 1, (32,), ()): ("I", "I;32B"),
        (TiffImagePlugin.MM, 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
    }
)


def is_high_bit(image: Image.Image, encoded: bytes) -> bool:
    """Whether an image opened by Pillow stores more than 8 bits per channel; its mode shows that for grey only."""
    if image.format == "PNG":
        return encoded[24] == 16
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) > 8
    if image.format == "PPM":
        return _netpbm_highest(image) > 255 or image.mode == "F"
    if image.format == "JPEG2000":
        size = J2K_SIZE.search(encoded[:4096])
        return bool(size) and (size[2][0] & 0x7F) >= 8
    return image.mode == "F" or image.mode.startswith("I")


def is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white, as in X-rays; Pillow itself inverts such images only if they have 8 bits."""
    return image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def prepare(image: Image.Image) -> None:
    """To be called before loading. libtiff returns native byte order; Pillow overlooks that for signed and float."""
    image.tile = [
        tile._replace(args=(NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff"
        else tile
        for tile in image.tile
    ]


def stored(image: Image.Image, encoded: bytes) -> np.ndarray | None:
    """The values of a loaded image, [h,w] or [h,w,3] of an integer or float type; None where only 8 bits can be read.

    That is so for CMYK, for TIFF with premultiplied alpha or one plane per channel, and for colour JPEG 2000.
    """
    high = np.asarray(image.copy())  # of a truncated TIFF, Pillow may have the sides swapped but not the pixels
    if image.mode == "F":
        return high
    if image.mode.startswith("I"):
        return _integers(high, image)
    low = _low_bytes(encoded)
    if low is None or low.shape[:2] != high.shape[:2]:
        return None
    if low.ndim == 2:  # grey with alpha, whose bytes Pillow has taken for four channels
        return low
    return (high[..., :3].astype(np.uint16) << 8) | low[..., :3]


def scale(values: np.ndarray, intensity: Range) -> Float[np.ndarray, "..."]:
    """Stored values -> float32 of 0..255. Whole 8-bit levels stay whole numbers."""
    low, high = intensity
    exact = values.dtype.itemsize <= 2 or values.dtype == np.float32
    scaled = values.astype(np.float32 if exact else np.float64)
    scaled -= scaled.dtype.type(low)
    scaled *= 255
    scaled /= scaled.dtype.type(high - low)
    if values.dtype.kind == "f":
        np.nan_to_num(scaled, copy=False, nan=0, posinf=255, neginf=0)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.float32, copy=False)


def bits_range(low: float, high: float, is_float: bool) -> Range | None:
    """The range of the fewest bits, at least 8, that hold the values low..high; signed where some are negative.

    For floats 0..1, or None where some values lie outside.
    """
    if is_float:
        return (0.0, 1.0) if 0 <= low and high <= 1 else None
    if low >= 0:
        return 0.0, float(2 ** max(8, int(high).bit_length()) - 1)
    half = 2 ** (max(8, 1 + int(max(high, -low - 1)).bit_length()) - 1)
    return float(-half), float(half - 1)


def type_range(kind: np.dtype) -> Range:
    """The range of an integer type; 0..1 for floats."""
    if kind.kind == "f":
        return 0.0, 1.0
    return float(np.iinfo(kind).min), float(np.iinfo(kind).max)


def own_range(values: np.ndarray) -> Range:
    """The range for the values of a single file: `bits_range`, or for floats outside 0..1 their least and greatest."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return bits_range(low, high, values.dtype.kind == "f") or (low, high if high > low else low + 1)


def netpbm(image: Image.Image, encoded: bytes) -> tuple[np.ndarray, bool] | None:
    """The stored values of a 16-bit PGM or PPM, and whether the file is complete; None for other images.

    Missing values are 0. Pillow would scale grey values one by one, and reduce colours to 8 bits.
    """
    if image.format != "PPM" or image.mode == "F":
        return None
    tile = image.tile[0]
    if tile.codec_name not in ("raw", "ppm", "ppm_plain"):
        return None
    shape = (image.height, image.width, *((3,) if image.mode == "RGB" else ()))
    size = 2 * math.prod(shape)
    if tile.codec_name == "ppm_plain":  # numbers as text, after four words of header
        content = np.array(_words(encoded)[4 : 4 + size // 2], np.uint16).astype(">u2").tobytes()
    else:
        content = encoded[tile.offset : tile.offset + size]
    values = np.frombuffer(content.ljust(size, b"\0"), ">u2").astype(np.uint16).reshape(shape)
    return values, len(content) == size


def maxval(encoded: bytes) -> int:
    """The largest value that a PGM or PPM may hold."""
    return int(_words(encoded[:4096])[3])


def _words(encoded: bytes) -> list[bytes]:
    """The words of a PNM header or text; # starts a comment that ends with its line."""
    return b" ".join(line.partition(b"#")[0] for line in encoded.split(b"\n")).split()


def _netpbm_highest(image: Image.Image) -> int:
    """The largest value that a PNM may hold."""
    tile = image.tile[0] if image.tile else None
    if tile is None or image.mode == "1":
        return 1
    return tile.args[-1] if tile.codec_name.startswith("ppm") else 65535 if image.mode.startswith("I") else 255


def _integers(values: np.ndarray, image: Image.Image) -> np.ndarray:
    """Converts values to the type that the file stores; Pillow holds them all in int32."""
    if values.dtype.itemsize == 2:
        return values.astype(np.uint16)
    if image.format != "TIFF":
        return values.astype(np.uint16) if image.format == "PNG" else values
    bits, kind = (image.tag_v2.get(tag, (default,))[0] for tag, default in ((BITS_PER_SAMPLE, 32), (SAMPLE_FORMAT, 1)))
    if bits <= 16:
        return values.astype(np.int16 if kind == SIGNED else np.uint16)
    return values if kind == SIGNED else values.view(np.uint32)


def _low_bytes(encoded: bytes) -> np.ndarray | None:
    """The low bytes of 16-bit colours, [h,w,3] uint8; for grey with alpha the whole values, [h,w] uint16.

    Pillow keeps the high bytes only. Decoded a second time under the other byte order, it keeps the low ones. None for
    formats where that does not work.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        rawmode = str(image.tile[0].args if isinstance(image.tile[0].args, str) else image.tile[0].args[0])
        if encoded.startswith(PNG) and rawmode == "LA;16B":
            other = "RGBA"
        elif re.fullmatch(r"RGB[AX]?;16[LBN]", rawmode) and getattr(image, "tag_v2", {}).get(PLANES, 1) == 1:
            other = rawmode[:-1] + LOW_BYTES[rawmode[-1]]
        else:
            return None
        image.tile = [
            tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:])) for tile in image.tile
        ]
        try:
            image.load()
        except OSError:
            image.tile = []  # truncated, as the first bytes were
        found = np.asarray(image.copy())
    if rawmode == "LA;16B":
        return (found[..., 0].astype(np.uint16) << 8) | found[..., 1]
    return found
