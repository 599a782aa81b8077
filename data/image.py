"""Pictures on the host: decoding, cropping and resizing to uint8 RGB of a static size.

Resizing is Pillow's bilinear, whose kernel widens with the scale (antialiasing): what torchvision's references train
and evaluate with.
"""

import enum
import io
import math
import warnings

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from data import jpeg
from errors import UserError

Pixels = UInt8[np.ndarray, "h w 3"]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels

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
MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # beyond, Pillow takes a picture for a decompression bomb
GREY = 128  # what libjpeg fills missing parts with
MAX_ASPECT = 16  # of what is resized whole
START_OF_JPEG, END_OF_JPEG = b"\xff\xd8\xff", b"\xff\xd9"

# What is worth a person's notice is in Odd; Pillow's own remarks would come once a worker and name no file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class Odd(enum.IntFlag):
    """What `decode` set right in a picture, by the rule that RULES tells."""

    TRUNCATED = enum.auto()
    DAMAGED = enum.auto()
    TURNED = enum.auto()
    CMYK = enum.auto()
    DEEP = enum.auto()
    ANIMATED = enum.auto()
    TRANSPARENT = enum.auto()


RULES = {
    Odd.TRUNCATED: "truncated (what is missing is grey; black if no JPEG)",
    Odd.DAMAGED: "damaged (used as libjpeg reads it)",
    Odd.TURNED: "EXIF-rotated (turned upright)",
    Odd.CMYK: "CMYK (converted to RGB)",
    Odd.DEEP: "of 16 bits (reduced to 8)",
    Odd.ANIMATED: "animated or of several pages (the first is used)",
    Odd.TRANSPARENT: "transparent (alpha dropped)",
}


def decode(encoded: bytes | np.ndarray, name: str, crop: Box | None = None, target: int = 0) -> tuple[Pixels, Odd]:
    """Encoded bytes, or grey or RGB pixels -> RGB pixels of the whole picture, or of `crop` of it, and what was odd.

    With `crop` and `target`, a JPEG is decoded at the smallest of libjpeg's scales (1/1, 1/2, 1/4, 1/8) that leaves the
    crop at least target x target pixels.

    The rules, of which grey, palettes and alpha that hides nothing are not called odd: grey becomes three equal
    channels, a palette its colours; alpha is dropped and the colours beneath are kept; CMYK is converted; 16 bits are
    reduced to 8 by >> 8; the EXIF orientation is applied; of an animation the first frame is read, of a truncated
    picture what is there. Raises UserError naming `name` for bytes that are no picture, for a picture without a
    readable pixel, for floating-point pixels, and for more than MAX_PIXELS.
    """
    if isinstance(encoded, np.ndarray):
        pixels = encoded.reshape((*encoded.shape[:2], -1))
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        return pixels if crop is None else _cut(pixels, crop), Odd(0)
    if not encoded:
        raise UserError(f"{name}: empty file, not a picture; replace or remove it")
    try:
        if encoded.startswith(START_OF_JPEG) and _is_plain(encoded):
            try:
                return _decode_jpeg(encoded, crop, target), Odd(0)
            except ValueError as warning:
                pixels, odd = _decode_broken_jpeg(encoded, str(warning))
        else:
            pixels, odd = _decode_with_pillow(encoded)
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        raise _undecodable(name, error) from error
    return pixels if crop is None else _cut(pixels, crop), odd


def accept(odd: Odd, name: str, strict: bool) -> int:
    """`odd` as a number for a batch. Raises UserError where `strict` refuses it."""
    if odd and strict:
        rules = ", ".join(RULES[each] for each in odd)
        raise UserError(f"{name}: {rules}; mend or remove it, or set config.data.strict=False")
    return int(odd)


def size(encoded: bytes | np.ndarray, name: str) -> tuple[int, int]:
    """Height and width of a picture as `decode` will return it, read from its header alone."""
    if isinstance(encoded, np.ndarray):
        return encoded.shape[:2]
    if not encoded:
        raise UserError(f"{name}: empty file, not a picture; replace or remove it")
    try:
        if encoded.startswith(START_OF_JPEG) and _is_plain(encoded):
            return simplejpeg.decode_jpeg_header(encoded, strict=False)[:2]
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
            turned = _orientation(image) >= 5
    except Exception as error:
        raise _undecodable(name, error) from error
    return (width, height) if turned else (height, width)


def random_resized_crop_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A box of a random share of the area and a random aspect ratio (Szegedy et al. 2015, section 6).

    Ten tries, then the largest central crop within `ratio`: torchvision.transforms.RandomResizedCrop.get_params.
    """
    log_ratio = np.log(ratio)
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


def random_resized_crop(
    encoded: bytes | np.ndarray,
    name: str,
    target: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Pixels, Odd]:
    """A random crop of the picture, resized to [target,target,3], decoding no more detail than that needs."""
    # A file that does not end as a JPEG must is left to decode, which tells whether it is truncated.
    simple = isinstance(encoded, bytes) and encoded.endswith(END_OF_JPEG)
    header = jpeg.read_header(encoded) if simple else None
    height, width = (header.height, header.width) if header else size(encoded, name)
    box = random_resized_crop_box(height, width, scale, ratio, rng)
    pixels = jpeg.random_crop(encoded, header, box, target) if header else None
    if pixels is not None:
        return pixels, Odd(0)
    pixels, odd = decode(encoded, name, box, target)
    return resize(pixels, target, target), odd


def resize_and_center_crop(pixels: Pixels, shorter: int, target: int) -> Pixels:
    """Resizes the shorter side to `shorter`, then cuts the central target x target: the ImageNet evaluation.

    Sizes and offsets are rounded as torchvision's Resize and CenterCrop round them; target <= shorter. Of a strip more
    than MAX_ASPECT times as long as wide only the middle is resized: the whole might not fit into memory.
    """
    pixels = _middle(pixels)
    height, width = pixels.shape[:2]
    if height <= width:
        pixels = resize(pixels, shorter, int(shorter * width / height))
    else:
        pixels = resize(pixels, int(shorter * height / width), shorter)
    top = round((pixels.shape[0] - target) / 2)
    left = round((pixels.shape[1] - target) / 2)
    return pixels[top : top + target, left : left + target]


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Pillow's antialiased bilinear; the pixels as they are where the size is right already."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _is_plain(encoded: bytes) -> bool:
    """Whether a JPEG is grey or YCbCr and upright, so that libjpeg-turbo alone decodes it."""
    height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}: a decompression bomb?")
    if colours not in ("YCbCr", "Gray"):
        return False
    if b"Exif\0" not in encoded[:4096]:
        return True
    with Image.open(io.BytesIO(encoded)) as image:
        return _orientation(image) == 1


def _decode_jpeg(encoded: bytes, crop: Box | None, target: int) -> Pixels:
    if crop is None:
        return simplejpeg.decode_jpeg(encoded, "RGB")
    x0, y0, x1, y1 = crop
    height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
    shrink = jpeg.shrink_for(crop, target)
    if shrink == 1:
        return _cut(simplejpeg.decode_jpeg(encoded, "RGB"), crop)
    pixels = simplejpeg.decode_jpeg(
        encoded, "RGB", min_height=-(-height // shrink), min_width=-(-width // shrink), min_factor=1
    )
    fy, fx = pixels.shape[0] / height, pixels.shape[1] / width
    return _cut(pixels, (round(x0 * fx), round(y0 * fy), round(x1 * fx), round(y1 * fy)))


def _cut(pixels: Pixels, box: Box) -> Pixels:
    x0, y0, x1, y1 = box
    return pixels[y0:y1, x0:x1]


def _middle(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    longest = MAX_ASPECT * min(height, width)
    y, x = max(0, height - longest) // 2, max(0, width - longest) // 2
    return pixels[y : y + longest, x : x + longest]


def _decode_broken_jpeg(encoded: bytes, warning: str) -> tuple[Pixels, Odd]:
    """The whole picture as far as libjpeg reads it, where `warning` is what it first complained about."""
    height, width = simplejpeg.decode_jpeg_header(encoded, strict=False)[:2]
    grey = np.full((height, width, 3), GREY, np.uint8)  # libjpeg may leave rows unwritten
    pixels = _not_blank(simplejpeg.decode_jpeg(encoded, "RGB", strict=False, buffer=grey))
    return pixels, Odd.TRUNCATED if warning.startswith("Premature end") else Odd.DAMAGED


def _decode_with_pillow(encoded: bytes) -> tuple[Pixels, Odd]:
    with Image.open(io.BytesIO(encoded)) as image:
        odd = Odd.DEEP if _is_deep(image, encoded) else Odd(0)
        odd |= Odd.CMYK if image.mode == "CMYK" else Odd(0)
        try:
            image.load()
        except OSError as error:
            if "truncated" not in str(error):
                raise
            if encoded.startswith(START_OF_JPEG):
                pixels, rest = _decode_with_pillow(encoded + END_OF_JPEG)
                return _not_blank(pixels), rest | Odd.TRUNCATED
            image.tile = []  # nothing is left to read: Pillow gives what it has
            odd |= Odd.TRUNCATED
        orientation = _orientation(image)
        picture, hides = _to_rgb(image)
        odd |= Odd.TRANSPARENT if hides else Odd(0)
        odd |= Odd.ANIMATED if _is_animated(image) else Odd(0)
    if orientation > 1:
        picture, odd = picture.transpose(TURNS[orientation]), odd | Odd.TURNED
    pixels = np.asarray(picture)
    return _not_blank(pixels) if odd & Odd.TRUNCATED else pixels, odd


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """RGB, and whether there was alpha that hid something."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB"), False
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB"), False
    image = image.convert("RGBA")
    return image.convert("RGB"), image.getchannel("A").getextrema()[0] < 255


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1..8; 1, upright, where EXIF is absent or cannot be read."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return 1
    return value if value in TURNS else 1


def _is_deep(image: Image.Image, encoded: bytes) -> bool:
    """More than 8 bits a channel; Pillow tells only of grey, and takes the high byte of colours itself."""
    if image.format == "PNG":
        return encoded[24] == 16
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,))) > 8
    return image.mode.startswith("I")


def _is_animated(image: Image.Image) -> bool:
    """A JPEG may carry a second picture (MPO), which is no frame."""
    return image.format != "MPO" and getattr(image, "is_animated", False)


def _not_blank(pixels: Pixels) -> Pixels:
    """Of JPEG data that ends at once libjpeg makes a block or two of noise, and nothing of the rest."""
    corner = 32
    parts = (pixels[corner:], pixels[:corner, corner:]) if max(pixels.shape) > corner else (pixels,)
    if not any(np.ptp(part, axis=(0, 1)).any() for part in parts if part.size):
        raise ValueError("truncated before its first pixels")
    return pixels


def _undecodable(name: str, error: Exception) -> UserError:
    reason = (str(error).split(" <")[0].splitlines() or [type(error).__name__])[0].rstrip(".")
    return UserError(f"{name}: cannot be decoded ({reason}); replace or remove it")
