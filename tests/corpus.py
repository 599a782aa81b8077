"""Pictures as they are found in the wild, made from one: name -> bytes, with what `decode` must say of them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from morphism.data import image, windows
from morphism.data.odd import Odd
from morphism.data.orientation import EXIF_ORIENTATION
from morphism.data.render import resize_and_cut


def encode(picture, format="JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, format, **options)
    return buffer.getvalue()


def photo(height: int = 151, width: int = 203) -> np.ndarray:
    """Something with edges, gradients and noise."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    waves = 127 + 90 * np.stack([np.sin(x / 9), np.cos(y / 7 + x / 31), np.sin((x + y) / 13)], axis=-1)
    pixels = waves + rng.normal(0, 6, waves.shape) + 60 * ((x // 20 + y // 25) % 2)[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def first(encoded: bytes, share: float = 0.6) -> bytes:
    return encoded[: int(len(encoded) * share)]


def torn(jpeg: bytes) -> bytes:
    """Ends early in its first rows, and goes on."""
    early = jpeg.index(b"\xff\xda") + 100
    return jpeg[:early] + b"\xff\xd9" + jpeg[early + 2 :]


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """RGB, which Pillow cannot write. Source: the PNG specification, sections 5 and 11."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg_that_claims(height: int, width: int) -> bytes:
    encoded = encode(photo())
    size = encoded.index(b"\xff\xc0") + 5  # of the frame header
    return encoded[:size] + struct.pack(">HH", height, width) + encoded[size + 4 :]


def png_that_claims(height: int, width: int) -> bytes:
    encoded = encode(photo(), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + encoded[24:29]
    return encoded[:12] + header + struct.pack(">I", zlib.crc32(header)) + encoded[33:]


def usable() -> dict[str, tuple[bytes, Odd]]:
    """Pictures that a rule makes usable; those without a bit need no mention."""
    pixels = photo()
    rgb = Image.fromarray(pixels)
    grey, alpha = rgb.convert("L"), rgb.convert("RGBA")
    alpha.putalpha(grey)
    deep = np.asarray(grey).astype(np.uint16) * 256 + 77
    gap = deep.astype(np.float32)
    gap[3, 4] = np.nan
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - pixels)]}
    return {
        "plain.jpg": (encode(pixels), Odd(0)),
        "plain.png": (encode(pixels, "PNG"), Odd(0)),
        "progressive.jpg": (encode(pixels, progressive=True), Odd(0)),
        "grey.jpg": (encode(grey), Odd(0)),
        "grey.png": (encode(grey, "PNG"), Odd(0)),
        "palette.png": (encode(palette, "PNG"), Odd(0)),
        "opaque.png": (encode(rgb.convert("RGBA"), "PNG"), Odd(0)),
        "bilevel.png": (encode(grey.convert("1"), "PNG"), Odd(0)),
        "wide.jpg": (encode(photo(12, 20_000)), Odd(0)),
        "strip.png": (encode(photo(1, 20_000), "PNG"), Odd(0)),
        "one_pixel.jpg": (encode(pixels[:1, :1]), Odd(0)),
        "one_pixel.png": (encode(pixels[:1, :1], "PNG"), Odd(0)),
        "png_named.jpg": (encode(pixels, "PNG"), Odd(0)),
        "broken_exif.jpg": (encode(pixels, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), Odd(0)),
        "half.jpg": (first(encode(pixels)), Odd.TRUNCATED),
        "half_progressive.jpg": (first(encode(pixels, progressive=True)), Odd.TRUNCATED),
        "half.png": (first(encode(pixels, "PNG")), Odd.TRUNCATED),
        "half.gif": (first(encode(palette, "GIF")), Odd.TRUNCATED),
        "half.bmp": (first(encode(pixels, "BMP")), Odd.TRUNCATED),
        "half_turned.jpg": (first(encode(pixels, exif=turned(6))), Odd.TRUNCATED | Odd.TURNED),
        "half_cmyk.jpg": (first(encode(rgb.convert("CMYK"))), Odd.TRUNCATED | Odd.CMYK),
        "damaged.jpg": (torn(encode(pixels)), Odd.DAMAGED),
        "turned.jpg": (encode(pixels, exif=turned(6)), Odd.TURNED),
        "turned.png": (encode(pixels, "PNG", exif=turned(8)), Odd.TURNED),
        "cmyk.jpg": (encode(rgb.convert("CMYK"), quality=95), Odd.CMYK),
        "cmyk.tif": (encode(rgb.convert("CMYK"), "TIFF"), Odd.CMYK),
        "deep_grey.png": (encode(Image.fromarray(deep), "PNG"), Odd.DEEP),
        "deep_grey.tif": (encode(Image.fromarray(deep), "TIFF"), Odd.DEEP),
        "deep_colour.png": (png_of_16_bits(pixels.astype(np.uint16) * 256 + 99), Odd.DEEP),
        "float.tif": (encode(Image.fromarray(deep.astype(np.float32) / 65535), "TIFF"), Odd.DEEP),
        "gap.tif": (encode(Image.fromarray(gap), "TIFF"), Odd.DEEP | Odd.NOT_FINITE),
        "animated.gif": (encode(palette, "GIF", **frames), Odd.ANIMATED),
        "animated.webp": (encode(pixels, "WEBP", lossless=True, **frames), Odd.ANIMATED),
        "animated.png": (encode(pixels, "PNG", **frames), Odd.ANIMATED),
        "pages.tif": (encode(pixels, "TIFF", **frames), Odd.ANIMATED),
        "transparent.png": (encode(alpha, "PNG"), Odd.TRANSPARENT),
        "transparent_grey.png": (encode(alpha.convert("LA"), "PNG"), Odd.TRANSPARENT),
        "transparent_palette.png": (encode(palette, "PNG", transparency=0), Odd.TRANSPARENT),
    }


def unusable() -> dict[str, tuple[bytes, str]]:
    """What is an error, with the reason that must be given."""
    pixels = photo()
    encoded = encode(pixels)
    return {
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"no picture at all", "cannot identify image file"),
        "garbage.jpg": (b"\xff\xd8\xff\xe0garbage", "cannot be decoded"),
        "header.jpg": (encoded[: encoded.index(b"\xff\xda")], "cannot be decoded"),
        "no_data.jpg": (encoded[: encoded.index(b"\xff\xda") + 14], "truncated before its first pixels"),
        "header.png": (encode(pixels, "PNG")[:41], "truncated before its first pixels"),
        "half.webp": (first(encode(pixels, "WEBP")), "cannot be decoded"),
        "bomb.jpg": (jpeg_that_claims(65_500, 65_500), "a decompression bomb"),
        "bomb.png": (png_that_claims(60_000, 60_000), "decompression bomb"),
    }


def png_of(pixels: bytes) -> bytes:
    """A PNG of 20 x 10 with these bytes for its compressed pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20, 10, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def random_crop(encoded, name, target, scale, ratio, rng):
    """A random resized crop as training examples have it, and what was odd."""
    whole = image.croppable(encoded, name)
    return image.crop(whole, windows.random_resized_crop(whole.size, scale, ratio, rng), target)


def center_crop(pixels, shortest, target):
    """As evaluation's examples have it."""
    return resize_and_cut(pixels, windows.center_crop(pixels.shape[:2], shortest, target))
