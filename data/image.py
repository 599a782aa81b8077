"""Pictures on the host: decoding, cropping and resizing to uint8 RGB of a static size.

Resizing is Pillow's bilinear, whose kernel widens with the scale (antialiasing): what torchvision's references train
and evaluate with.
"""

import io
import math
import warnings

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps

from data import jpeg
from errors import UserError

Pixels = UInt8[np.ndarray, "h w 3"]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels

EXIF_ORIENTATION = 0x0112


def decode(encoded: bytes | np.ndarray, name: str, crop: Box | None = None, target: int = 0) -> Pixels:
    """Encoded bytes, or grey or RGB pixels -> RGB pixels of the whole picture, or of `crop` of it.

    With `crop` and `target`, a JPEG is decoded at the smallest of libjpeg's scales (1/1, 1/2, 1/4, 1/8) that leaves the
    crop at least target x target pixels. Only the first frame of an animation is read; alpha is dropped; 16-bit grey is
    reduced to 8; an EXIF orientation is applied. Raises UserError naming `name` for bytes that are no picture.
    """
    if isinstance(encoded, np.ndarray):
        pixels = encoded.reshape((*encoded.shape[:2], -1))
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        return pixels if crop is None else _cut(pixels, crop)
    if not encoded:
        raise UserError(f"{name}: empty file, not a picture; replace or remove it")
    try:
        if simplejpeg.is_jpeg(encoded) and _is_plain(encoded):
            return _decode_jpeg(encoded, crop, target)
        with Image.open(io.BytesIO(encoded)) as image, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).split(" <")[0].splitlines()[0]
        raise UserError(f"{name}: cannot be decoded ({reason}); replace or remove it") from error
    return pixels if crop is None else _cut(pixels, crop)


def size(encoded: bytes | np.ndarray, name: str) -> tuple[int, int]:
    """Height and width of a picture as `decode` will return it, read from its header alone."""
    if isinstance(encoded, np.ndarray):
        return encoded.shape[:2]
    try:
        if simplejpeg.is_jpeg(encoded) and _is_plain(encoded):
            return simplejpeg.decode_jpeg_header(encoded)[:2]
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: cannot be decoded, not a picture; replace or remove it") from error
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
) -> Pixels:
    """A random crop of the picture, resized to [target,target,3], decoding no more detail than that needs."""
    header = jpeg.read_header(encoded) if isinstance(encoded, bytes) else None
    height, width = (header.height, header.width) if header else size(encoded, name)
    box = random_resized_crop_box(height, width, scale, ratio, rng)
    pixels = jpeg.random_crop(encoded, header, box, target) if header else None
    return resize(decode(encoded, name, box, target), target, target) if pixels is None else pixels


def resize_and_center_crop(pixels: Pixels, shorter: int, target: int) -> Pixels:
    """Resizes the shorter side to `shorter`, then cuts the central target x target: the ImageNet evaluation.

    Sizes and offsets are rounded as torchvision's Resize and CenterCrop round them; target <= shorter.
    """
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
    if simplejpeg.decode_jpeg_header(encoded)[2] not in ("YCbCr", "Gray"):
        return False
    if b"Exif\0" not in encoded[:4096]:
        return True
    with Image.open(io.BytesIO(encoded)) as image:
        return image.getexif().get(EXIF_ORIENTATION, 1) == 1


def _decode_jpeg(encoded: bytes, crop: Box | None, target: int) -> Pixels:
    if crop is None:
        return simplejpeg.decode_jpeg(encoded, "RGB")
    x0, y0, x1, y1 = crop
    height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
    shrink = 8
    while shrink > 1 and min(x1 - x0, y1 - y0) < shrink * target:
        shrink //= 2
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
