"""Whatever tells that an image is turned, `size`, `decode` and crops of it agree, and it counts as odd."""

import io
import struct
import zlib
from itertools import product

import corpus
import numpy as np
import pytest
from corpus import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from morphism.data import image, jpeg, orientation, windows
from morphism.data.annotations import image_size
from morphism.data.odd import Odd
from morphism.errors import UserError

PHOTO = corpus.photo(24, 40)
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}
XMP = {
    "attribute": '<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>',
    "single quotes": "<x:xmpmeta><rdf:Description tiff:Orientation = '%d'/></x:xmpmeta>",
    "element": "<x:xmpmeta><tiff:Orientation>%d</tiff:Orientation></x:xmpmeta>",
}


def in_mode(mode):
    rgb = Image.fromarray(PHOTO)
    grey = np.asarray(rgb.convert("L"))
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode in ("I", "F"):
        return Image.fromarray(grey.astype({"I": np.int32, "F": np.float32}[mode]))
    return rgb.convert(mode)


WRITERS = {
    "JPEG": ("L", "RGB", "CMYK"),
    "MPO": ("RGB",),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("L", "P"),
    "PPM": ("1", "L", "RGB", "I;16", "F"),
    "JPEG2000": ("L", "RGB", "RGBA", "I;16"),
    "TGA": ("L", "RGB", "RGBA"),
    "ICO": ("RGBA",),
    "SGI": ("L", "RGB"),
    "PCX": ("1", "L", "P", "RGB"),
}
TURNABLE = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF")
KINDS = [
    (format, mode, options)
    for format, modes in WRITERS.items()
    for mode in modes
    for options in ([{}, {"compression": "tiff_adobe_deflate"}] if format == "TIFF" else [{}])
]


def options_of(format):
    return {"WEBP": {"lossless": True}, "MPO": {"save_all": True}, "TIFF": {}}.get(format, {})


def agree(encoded, tmp_path, odd):
    """The whole image, by every way of asking for its size, and parts of it are its parts."""
    whole, found = image.decode(encoded, "x")
    assert found & Odd.TURNED == odd
    height, width = whole.shape[:2]
    (tmp_path / "x").write_bytes(encoded)
    assert image.size(encoded, "x") == image_size(tmp_path / "x") == (height, width)
    crop = (width // 3, height // 4, width - 2, height - 1)
    part, _ = image.decode(encoded, "x", crop)
    assert np.array_equal(part, whole[crop[1] : crop[3], crop[0] : crop[2]])
    rng, side = np.random.default_rng(1), min(height, width)  # nothing is decoded at a smaller scale
    box = windows.random_resized_crop((height, width), (0.1, 1), (0.75, 1.33), rng)
    drawn, _ = corpus.random_crop(encoded, "x", side, (0.1, 1), (0.75, 1.33), np.random.default_rng(1))
    expected = image.resize(whole[box[1] : box[3], box[0] : box[2]], side, side)
    assert np.abs(drawn.astype(float) - expected).max() <= 1
    for outside in ((0, 0, width + 1, height), (0, 0, width, height + 1), (-1, 0, 4, 4), (3, 3, 3, 9)):
        with pytest.raises(UserError, match=r"^x: a crop of x .* lies outside its \d+ x \d+ pixels"):
            image.decode(encoded, "x", outside)
    return whole


@pytest.mark.parametrize(("format", "mode", "options"), KINDS, ids=lambda value: str(value))
def test_size_decode_and_crops_agree_in_every_format_mode_and_orientation(tmp_path, format, mode, options):
    options = options_of(format) | options
    plain = agree(encode(in_mode(mode), format, **options), tmp_path, Odd(0))
    for turn in range(2, 9) if format in TURNABLE else ():
        encoded = encode(in_mode(mode), format, exif=corpus.turned(turn), **options)
        found = agree(encoded, tmp_path, Odd.TURNED)
        assert found.shape == UPRIGHT[turn](plain).shape
        if format != "AVIF":  # which Pillow writes with loss
            assert np.abs(found.astype(float) - UPRIGHT[turn](plain)).max() <= (12 if "JPEG" in format else 0)


@pytest.mark.parametrize(("format", "form"), list(product(("JPEG", "PNG", "TIFF", "WEBP"), XMP)))
def test_xmp_alone_turns_an_image_and_exif_overrules_it(tmp_path, format, form):
    plain = image.decode(encode(PHOTO, format, **options_of(format)), "x")[0]
    for turn in (3, 6):
        turned = with_xmp(format, XMP[form] % turn)
        assert np.array_equal(agree(turned, tmp_path, Odd.TURNED), UPRIGHT[turn](plain))
        both = with_xmp(format, XMP[form] % turn, upright=True)
        assert np.array_equal(agree(both, tmp_path, Odd(0)), plain)


def with_xmp(format, text, upright=False):
    """`upright`: EXIF says so."""
    options = options_of(format)
    if format == "TIFF":
        return encode(PHOTO, format, tiffinfo={700: text.encode()} | ({0x0112: 1} if upright else {}), **options)
    options |= {"exif": corpus.turned(1)} if upright else {}
    if format == "PNG":
        return with_chunk(encode(PHOTO, format, **options), b"iTXt", itxt(text), b"IDAT")
    return encode(PHOTO, format, xmp=text.encode(), **options)


def itxt(text):
    return b"XML:com.adobe.xmp\0\0\0\0\0" + text.encode()


def with_chunk(png, kind, content, before):
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    at = png.index(before) - 4
    return png[:at] + chunk + png[at:]


@pytest.mark.parametrize(
    ("kind", "content"), [(b"eXIf", corpus.turned(6).tobytes()[6:]), (b"iTXt", itxt(XMP["attribute"] % 6))]
)
def test_metadata_behind_a_pngs_pixels_counts(tmp_path, kind, content):
    """ExifTool writes XMP there; in a large file, it is beyond all that a first look reads."""
    large = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    plain = encode(large, "PNG")
    for encoded in (plain, rechunked(plain, 1000), rechunked(plain, 10**6)):
        encoded = with_chunk(encoded, kind, content, b"IEND")
        assert len(encoded) > 2 * image.HEAD
        assert np.array_equal(agree(encoded, tmp_path, Odd.TURNED), UPRIGHT[6](large))
        assert orientation.of_png(io.BytesIO(encoded[:-1])) == 6  # the end is cut off: chunk by chunk, then


def rechunked(png, size):
    """The same pixels in chunks of another size."""
    pixels, position, before = b"", 8, png[: png.index(b"IDAT") - 4]
    while position < len(png):
        length, kind = struct.unpack(">I4s", png[position : position + 8])
        pixels += png[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        position += length + 12
    end = before + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    for start in range(0, len(pixels), size):
        end = with_chunk(end, b"IDAT", pixels[start : start + size], b"IEND")
    return end


def test_little_of_a_png_is_read_for_its_size():
    class Counting(io.BytesIO):
        count = 0

        def read(self, size=-1):
            found = super().read(size)
            self.count += len(found)
            return found

    large = np.random.default_rng(0).integers(0, 256, (1000, 1000), np.uint8)
    file = Counting(rechunked(encode(large, "PNG"), 8192))
    assert image.size_in(file, "x") == (1000, 1000)
    assert file.count < 3 * image.HEAD < len(file.getvalue()) / 4


@pytest.mark.parametrize("length", [1, 2, 70_000, 300_000])
def test_exif_behind_other_segments_of_a_jpeg_counts(tmp_path, length):
    """Such as a maker's data of more than 4,096 bytes."""
    plain = encode(PHOTO)
    segments = b""
    for start in range(0, length, 60_000):
        content = bytes(min(60_000, length - start))
        segments += b"\xff\xe4" + struct.pack(">H", len(content) + 2) + content
    turned = encode(PHOTO, exif=corpus.turned(6))
    found = agree(turned[:2] + segments + turned[2:], tmp_path, Odd.TURNED)
    assert np.array_equal(found, UPRIGHT[6](image.decode(plain, "x")[0]))
    upright = agree(plain[:2] + segments + plain[2:], tmp_path, Odd(0))
    assert upright.shape == PHOTO.shape


@settings(max_examples=60, deadline=None)
@given(
    big=st.booleans(),
    kind=st.sampled_from([3, 4, 6, 8, 9]),
    turn=st.integers(0, 9),
    before=st.integers(0, 4),
)
def test_the_fast_way_for_jpegs_never_passes_over_a_turn(big, kind, turn, before):
    """Whatever the byte order, the type of the tag and what stands before it: the header's own reader asks Pillow."""
    order = ">" if big else "<"
    size = {6: "b3x", 3: "H2x", 8: "h2x", 4: "I", 9: "i"}[kind]
    other = struct.pack(order + "HHI4s", 0x010E, 2, 4, b"abc\0")
    tag = struct.pack(order + "HHI" + size, 0x0112, kind, 1, turn)
    entries = struct.pack(order + "H", before + 1) + other * before + tag + bytes(4)
    exif = b"Exif\0\0" + (b"MM\0*" if big else b"II*\0") + struct.pack(order + "I", 8) + entries
    encoded = encode(PHOTO, exif=exif)
    whole, odd = image.decode(encoded, "x")
    turned = turn in range(2, 9)
    assert bool(odd & Odd.TURNED) == turned
    assert image.size(encoded, "x") == whole.shape[:2] == (PHOTO.shape[:2] if turn not in range(5, 9) else (40, 24))
    assert not turned or jpeg.read_header(encoded) is None
    with Image.open(io.BytesIO(encoded)) as opened:
        assert opened.getexif().get(0x0112) == turn


def test_a_truncated_tiff_is_turned_all_the_same(tmp_path):
    for options in ({}, {"compression": "tiff_lzw"}):
        plain = encode(np.tile(PHOTO, (4, 4, 1)), "TIFF", **options)
        encoded = encode(np.tile(PHOTO, (4, 4, 1)), "TIFF", exif=corpus.turned(6), **options)
        for share in (0.99, 0.7):
            try:
                pixels, odd = image.decode(encoded[: int(share * len(encoded))], "x")
            except UserError:  # the directory may stand at the end
                continue
            assert odd & Odd.TURNED and pixels.shape == UPRIGHT[6](image.decode(plain, "x")[0]).shape
