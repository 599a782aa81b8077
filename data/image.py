"""Images on the host: decodes, crops and resizes them to RGB, uint8 or float32.

Pixels are 0 to 255, black to white, in either type. An image of more than 8 bits per channel becomes float32 without
loss: data/high_bit.py says which values are read, data/intensity.py which of them become black and white. An image of 8
bits stays uint8 and is never scaled. config.data.pixels says which type batches hold.

Resizing is Pillow's bilinear, whose kernel widens with the scale (antialiasing), as in torchvision's references.
"""

import io
import warnings
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import Float32, UInt8
from ml_collections import ConfigDict
from PIL import Image

from morphism.data import high_bit, jpeg, orientation
from morphism.data.high_bit import Range
from morphism.data.odd import RULES, Odd
from morphism.errors import UserError

Pixels = UInt8[np.ndarray, "_ _ 3"] | Float32[np.ndarray, "_ _ 3"]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels

MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # beyond, Pillow takes an image for a decompression bomb
GREY = 128  # libjpeg fills missing parts with it
HEAD = 1 << 16  # bytes at the start of a file that nearly always contain its size
WIDTH, HEIGHT = 256, 257  # TIFF tags
LOADED_FOR_SIZE = ("ICO", "ICNS")  # formats whose headers may be wrong and whose images are small
START_OF_JPEG, END_OF_JPEG = b"\xff\xd8\xff", b"\xff\xd9"

# `Odd` holds what is worth reporting; Pillow's own warnings would appear once per worker, without the name of a file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode(
    encoded: bytes | np.ndarray, name: str, crop: Box | None = None, target: int = 0, intensity: Range | None = None
) -> tuple[Pixels, Odd]:
    """Decodes an image to RGB pixels, and reports what was odd about it.

    Grey becomes three equal channels, and a palette its colours; alpha is dropped and the colours beneath are kept;
    CMYK is converted; the orientation of EXIF or XMP is applied; the first frame of an animation is read, and what
    there is of a truncated image. All but grey, palettes, and alpha that hides nothing are reported as odd.

    Args:
      encoded: the bytes of a file, or grey or RGB pixels.
      name: of the image, for errors.
      crop: the part to return; the whole image where None.
      target: with `crop`, a JPEG is decoded at the smallest of libjpeg's scales (1/1, 1/2, 1/4, 1/8) that leaves the
        crop at least target x target pixels.
      intensity: the stored values of a high-bit image that become 0 and 255; without it high_bit.own_range.

    Raises:
      UserError: the bytes are not an image, none of its pixels can be read, it has more than MAX_PIXELS, or the crop
        lies outside.
    """
    if isinstance(encoded, np.ndarray):
        pixels, odd = (encoded, Odd(0)) if encoded.dtype == np.uint8 else _scaled(encoded, intensity)
        pixels = pixels.reshape((*pixels.shape[:2], -1))
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        return _part(pixels, crop, name), odd
    if not encoded:
        raise UserError(f"{name}: empty file, not an image; replace or remove it")
    try:
        if encoded.startswith(START_OF_JPEG) and is_plain(encoded):
            try:
                return _decode_jpeg(encoded, crop, target, name), Odd(0)
            except ValueError as warning:
                pixels, odd = _decode_broken_jpeg(encoded, str(warning))
        else:
            pixels, odd = _decode_with_pillow(encoded, intensity)
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        raise _undecodable(name, error) from error
    return _part(pixels, crop, name), odd


def decode_record(record: dict[str, Any], data: ConfigDict) -> tuple[Pixels, Odd]:
    """Decodes the whole image of a record, with config.data.intensity."""
    return decode(record["image"], record["name"], intensity=tuple(data.intensity) or None)


def accept(pixels: Pixels, odd: Odd, name: str, data: ConfigDict) -> tuple[Pixels, int]:
    """Pixels of the type config.data.pixels, and `odd` as an integer for a batch.

    Raises UserError for an odd image if config.data.strict; high-bit images that stay float32 are accepted.
    """
    if data.pixels != "float32" and pixels.dtype != np.uint8:
        pixels, odd = to_8_bits(pixels), (odd | Odd.REDUCED) & ~Odd.DEEP
    if odd & ~Odd.DEEP and data.strict:
        rules = ", ".join(RULES[each] for each in odd & ~Odd.DEEP)
        raise UserError(f"{name}: {rules}; mend or remove it, or set config.data.strict=False")
    return pixels, int(odd)


def stored_values(encoded: bytes | np.ndarray, name: str) -> np.ndarray | None:
    """The stored values of a high-bit image, [h,w] or [h,w,3]; None for one of 8 bits. Raises as `decode` does."""
    if isinstance(encoded, np.ndarray):
        return None if encoded.dtype == np.uint8 else encoded
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return _stored(image, encoded)[0] if high_bit.is_high_bit(image, encoded) else None
    except Exception as error:
        raise _undecodable(name, error) from error


def for_display(record: dict[str, Any], data: ConfigDict) -> UInt8[np.ndarray, "h w 3"]:
    """The whole image of a record in 8 bits, with the intensities that the network sees."""
    return to_8_bits(decode_record(record, data)[0])


def to_8_bits(pixels: Pixels) -> UInt8[np.ndarray, "h w 3"]:
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)


def size(encoded: bytes | np.ndarray, name: str) -> tuple[int, int]:
    """Height and width of an image as `decode` will return it, without decoding its pixels."""
    return encoded.shape[:2] if isinstance(encoded, np.ndarray) else size_in(io.BytesIO(encoded), name)


def size_in(file: io.BufferedIOBase, name: str) -> tuple[int, int]:
    """`size` of the image in an open file; reads no more of the file than needed."""
    head = file.read(HEAD)
    if not head:
        raise UserError(f"{name}: empty file, not an image; replace or remove it")
    try:
        if head.startswith(START_OF_JPEG):
            encoded = head if jpeg.has_scan(head) else head + file.read()
            if is_plain(encoded):
                return simplejpeg.decode_jpeg_header(encoded, strict=False)[:2]
        turn = orientation.of_png(file) if head.startswith(orientation.PNG) else None
        file.seek(0)
        with Image.open(file) as image:
            if image.format in LOADED_FOR_SIZE:
                image.load()
            width, height = image.size
            if image.format == "TIFF":  # Pillow may have swapped them already
                width, height = image.tag_v2[WIDTH], image.tag_v2[HEIGHT]
            turn = orientation.of(image) if turn is None else turn
    except Exception as error:
        raise _undecodable(name, error) from error
    return (width, height) if orientation.swaps_sides(turn) else (height, width)


class Croppable(NamedTuple):
    """An image that is not decoded yet; `header` is None where a crop needs the whole image decoded."""

    encoded: bytes | np.ndarray
    name: str
    size: tuple[int, int]
    header: jpeg.Header | None


def croppable(encoded: bytes | np.ndarray, name: str) -> Croppable:
    # A file that does not end as a JPEG must is left to `decode`, which finds out whether it is truncated.
    simple = isinstance(encoded, bytes) and encoded.endswith(END_OF_JPEG)
    header = jpeg.read_header(encoded) if simple else None
    return Croppable(encoded, name, (header.height, header.width) if header else size(encoded, name), header)


def crop(whole: Croppable, box: Box, target: int, intensity: Range | None = None) -> tuple[Pixels, Odd]:
    """`box` of the image, resized to [target,target,3]; decodes no more detail than that needs."""
    pixels = jpeg.random_crop(whole.encoded, whole.header, box, target) if whole.header else None
    if pixels is not None:
        return pixels, Odd(0)
    pixels, odd = decode(whole.encoded, whole.name, box, target, intensity)
    return resize(pixels, target, target), odd


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resizes with Pillow's antialiased bilinear; returns the same pixels if the size is right already."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return resample(pixels, (width, height))


def resample(pixels: Pixels, size: tuple[int, int], box: jpeg.Part | None = None) -> Pixels:
    """Resizes `box` of the pixels to `size` (width, height) with Pillow's antialiased bilinear."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box))
    channels = 1 if pixels.strides[-1] == 0 else 3  # the three channels of grey share their memory
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., c])).resize(size, Image.Resampling.BILINEAR, box))
        for c in range(channels)
    ]
    return np.broadcast_to(np.stack(resized, axis=-1), (size[1], size[0], 3))


def is_plain(encoded: bytes) -> bool:
    """Whether a JPEG is grey or YCbCr and upright, so that libjpeg-turbo alone decodes it."""
    height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}: a decompression bomb?")
    if colours not in ("YCbCr", "Gray"):
        return False
    return orientation.of_jpeg(encoded) == 1


def _decode_jpeg(encoded: bytes, crop: Box | None, target: int, name: str) -> Pixels:
    if crop is None:
        return simplejpeg.decode_jpeg(encoded, "RGB")
    x0, y0, x1, y1 = crop
    height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
    shrink = jpeg.shrink_for(crop, target) if target else 1
    if shrink == 1:
        return _part(simplejpeg.decode_jpeg(encoded, "RGB"), crop, name)
    _check_crop(crop, (height, width), name)
    pixels = simplejpeg.decode_jpeg(
        encoded, "RGB", min_height=-(-height // shrink), min_width=-(-width // shrink), min_factor=1
    )
    fy, fx = pixels.shape[0] / height, pixels.shape[1] / width
    return _cut(pixels, (round(x0 * fx), round(y0 * fy), round(x1 * fx), round(y1 * fy)))


def _part(pixels: Pixels, crop: Box | None, name: str) -> Pixels:
    if crop is None:
        return pixels
    _check_crop(crop, pixels.shape[:2], name)
    return _cut(pixels, crop)


def _cut(pixels: Pixels, box: Box) -> Pixels:
    x0, y0, x1, y1 = box
    return pixels[y0:y1, x0:x1]


def _check_crop(box: Box, size: tuple[int, int], name: str) -> None:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]):
        raise UserError(
            f"{name}: a crop of x {x0} to {x1}, y {y0} to {y1} lies outside its {size[1]} x {size[0]} pixels; if its "
            "header tells another size, save the image again"
        )


def _decode_broken_jpeg(encoded: bytes, warning: str) -> tuple[Pixels, Odd]:
    """The whole image as far as libjpeg can read it; `warning` is libjpeg's first."""
    height, width = simplejpeg.decode_jpeg_header(encoded, strict=False)[:2]
    grey = np.full((height, width, 3), GREY, np.uint8)  # libjpeg may leave rows unwritten
    pixels = _not_blank(simplejpeg.decode_jpeg(encoded, "RGB", strict=False, buffer=grey))
    return pixels, Odd.TRUNCATED if warning.startswith("Premature end") else Odd.DAMAGED


def _decode_with_pillow(encoded: bytes, intensity: Range | None) -> tuple[Pixels, Odd]:
    with Image.open(io.BytesIO(encoded)) as image:
        odd = Odd.CMYK if image.mode == "CMYK" else Odd(0)
        # A PNG's metadata may follow its pixels; a TIFF's Pillow applies, and forgets, while loading.
        turn = orientation.of_png(io.BytesIO(encoded)) if image.format == "PNG" else orientation.of(image)
        odd |= Odd.TURNED if turn > 1 else Odd(0)
        turned_by_pillow = orientation.is_turned_by_pillow(image)
        inverted = high_bit.is_inverted(image)
        values = None
        if high_bit.is_high_bit(image, encoded):
            values, is_whole = _stored(image, encoded)
            odd |= Odd.REDUCED if values is None else Odd(0)
        else:
            is_whole = _load(image)
        if not is_whole:
            if encoded.startswith(START_OF_JPEG):
                pixels, rest = _decode_with_pillow(encoded + END_OF_JPEG, intensity)
                return _not_blank(pixels), rest | Odd.TRUNCATED
            odd |= Odd.TRUNCATED
        elif turned_by_pillow:
            turn = 1
        odd |= Odd.ANIMATED if _is_animated(image) else Odd(0)
        if values is None:
            rgb, hides = _to_rgb(image)
            pixels = np.asarray(rgb.transpose(orientation.TURNS[turn]) if turn > 1 else rgb)
        else:
            hides = _hides(image)
            pixels, rest = _scaled(orientation.upright(values, turn), intensity, inverted)
            odd |= rest
    odd |= Odd.TRANSPARENT if hides else Odd(0)
    return _not_blank(pixels) if odd & Odd.TRUNCATED else pixels, odd


def _load(image: Image.Image) -> bool:
    """Reads the pixels; False where the file is cut off, with missing pixels black."""
    try:
        image.load()
    except OSError as error:
        if "truncated" not in str(error):
            raise
        image.tile = []  # so that Pillow returns what it has
        return False
    return True


def _stored(image: Image.Image, encoded: bytes) -> tuple[np.ndarray | None, bool]:
    """The values of a high-bit image, None where Pillow can load only 8 bits of them; and whether none is missing."""
    found = high_bit.netpbm(image, encoded)
    if found:
        return found
    high_bit.prepare(image)
    is_whole = _load(image)
    return high_bit.stored(image, encoded), is_whole


def _scaled(values: np.ndarray, intensity: Range | None, inverted: bool = False) -> tuple[Pixels, Odd]:
    """Stored values [h,w], [h,w,1] or [h,w,3] -> RGB as float32 of 0..255; grey is one channel seen three times.

    inverted: whether the range's lower end is white.
    """
    odd = Odd.DEEP
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        odd |= Odd.NOT_FINITE
    scaled = high_bit.scale(values, intensity or high_bit.own_range(values))
    scaled = 255 - scaled if inverted else scaled
    if np.ptp(scaled) < 1 and values.min() < values.max():
        odd |= Odd.BLANK
    scaled = scaled.reshape((*scaled.shape[:2], -1))
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3)), odd


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image in RGB, and whether its alpha hides something."""
    if not image.has_transparency_data:
        return image.convert("RGB"), False
    image = image.convert("RGBA")
    return image.convert("RGB"), _hides(image)


def _hides(image: Image.Image) -> bool:
    return image.mode == "RGBA" and image.getchannel("A").getextrema()[0] < 255


def _is_animated(image: Image.Image) -> bool:
    """Whether there are several frames or pages; the second image of a JPEG (MPO) is not a frame."""
    return image.format != "MPO" and getattr(image, "is_animated", False)


def _not_blank(pixels: Pixels) -> Pixels:
    """Raises ValueError if libjpeg found no data: then it makes a block or two of noise and leaves the rest plain."""
    corner = 32
    parts = (pixels[corner:], pixels[:corner, corner:]) if max(pixels.shape) > corner else (pixels,)
    if not any(np.ptp(part, axis=(0, 1)).any() for part in parts if part.size):
        raise ValueError("truncated before its first pixels")
    return pixels


def _undecodable(name: str, error: Exception) -> UserError:
    reason = (str(error).split(" <")[0].splitlines() or [type(error).__name__])[0].rstrip(".")
    return UserError(f"{name}: cannot be decoded ({reason}); replace or remove it")
