"""What is stored in more than 8 bits is read to the last bit, and scaled by the range that is stated."""

import struct
import zlib

import corpus
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from morphism.data import high_bit, image
from morphism.data.odd import Odd
from morphism.errors import UserError

RNG = np.random.default_rng(0)
DATA = ConfigDict({"pixels": "float32", "strict": False, "intensity": ()})


def png(values: np.ndarray) -> bytes:
    """Of 16 bits, with filters that look back a pixel. Source: the PNG specification, sections 5, 9 and 11."""
    height, width, channels = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    before = np.pad(rows, ((0, 0), (2 * channels, 0)))[:, : rows.shape[1]]
    content = b"".join(b"\1" + row.tobytes() for row in rows - before)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def tiff(
    values: np.ndarray, order: str = "<", packed: bool = False, planar: bool = False, white: bool = False
) -> bytes:
    """[h,w] or [h,w,c] of any type, as tifffile writes it. Source: TIFF 6.0, sections 2 and 8."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    content = (values.transpose(2, 0, 1) if planar else values).astype(values.dtype.newbyteorder(order)).tobytes()
    content = zlib.compress(content) if packed else content
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: [width],
        257: [height],
        258: [8 * values.dtype.itemsize] * samples,
        259: [8 if packed else 1],
        262: [2 if samples >= 3 else 0 if white else 1],
        273: [8],
        277: [samples],
        278: [height],
        279: [len(content)],
        284: [2 if planar else 1],
        **({338: [2]} if samples == 4 else {}),
        339: [kind] * samples,
    }
    entries, more = b"", b""
    behind = 8 + len(content) + 2 + 12 * len(tags) + 4
    for tag, numbers in tags.items():
        packed_numbers = struct.pack(f"{order}{len(numbers)}I", *numbers)
        place = packed_numbers if len(numbers) == 1 else struct.pack(f"{order}I", behind + len(more))
        more += packed_numbers if len(numbers) > 1 else b""
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + place
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(content))
    return start + content + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + more


def netpbm(values: np.ndarray, highest: int = 65535) -> bytes:
    height, width, channels = values.shape
    return b"P%d %d %d %d\n" % (5 if channels == 1 else 6, width, height, highest) + values.astype(">u2").tobytes()


def deep(*shape: int) -> np.ndarray:
    return RNG.integers(0, 65536, shape).astype(np.uint16)


GREY, RGB, RGBA = deep(9, 13), deep(9, 13, 3), deep(9, 13, 4)
SIGNED = (GREY.astype(np.int32) - 32768).astype(np.int16)
STORED = {
    "grey.png": (png(GREY[..., None]), GREY),
    "grey_alpha.png": (png(np.dstack([GREY, RGBA[..., 3]])), GREY),
    "rgb.png": (png(RGB), RGB),
    "rgba.png": (png(RGBA), RGBA[..., :3]),
    "pillow.png": (corpus.encode(GREY, "PNG"), GREY),
    "grey.pgm": (netpbm(GREY[..., None]), GREY),
    "text.pgm": (b"P2 # text\n13 9 4095\n" + b" ".join(b"%d" % value for value in (GREY >> 4).flat), GREY >> 4),
    "text.ppm": (b"P3 13\n9 #\n60000\n" + b"\n".join(b"%d" % value for value in (RGB % 60001).flat), RGB % 60001),
    "12_bits.pgm": (netpbm(GREY[..., None] >> 4, 4095), GREY >> 4),
    "rgb.ppm": (netpbm(RGB), RGB),
    "12_bits.ppm": (netpbm(RGB >> 4, 4095), RGB >> 4),
    "float.pfm": (corpus.encode(Image.fromarray(GREY.astype(np.float32)), "PPM"), GREY.astype(np.float32)),
    "grey.jp2": (corpus.encode(GREY, "JPEG2000"), GREY),
} | {
    f"{name}, {order}{packed:d}.tif": (tiff(values, order, packed), values.astype(kept))
    for name, values, kept in [
        ("uint16", GREY, np.uint16),
        ("int16", SIGNED, np.int16),
        ("int32", SIGNED.astype(np.int32) * 1000, np.int32),
        ("uint32", GREY.astype(np.uint32) * 65537, np.uint32),
        ("float32", SIGNED.astype(np.float32) / 7, np.float32),
        ("float64", SIGNED.astype(np.float64) / 7, np.float32),  # which Pillow reads as float32
        ("rgb", RGB, np.uint16),
    ]
    for order in "<>"
    for packed in (False, True)
}
STORED |= {f"rgba, {packed:d}.tif": (tiff(RGBA, packed=packed), RGBA[..., :3]) for packed in (False, True)}


@pytest.mark.parametrize("name", STORED)
def test_stored_values_are_read_to_the_last_bit(name):
    encoded, expected = STORED[name]
    found = image.stored_values(encoded, name)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", STORED)
def test_pixels_are_the_values_scaled_in_float64(name):
    encoded, values = STORED[name]
    for intensity in ((-160.0, 240.0), (0.0, 65535.0), (1000.5, 1e9)):
        pixels, odd = image.decode(encoded, name, intensity=intensity)
        low, high = intensity
        expected = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255
        expected = expected if expected.ndim == 3 else expected[..., None]
        assert odd & Odd.DEEP and pixels.shape == (9, 13, 3) and pixels.dtype == np.float32
        np.testing.assert_allclose(pixels, np.broadcast_to(expected, pixels.shape), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [False, True])
def test_of_a_tiff_whose_0_is_white_the_stored_values_count_and_the_lowest_is_white(order, packed):
    encoded = tiff(GREY, order, packed, white=True)
    np.testing.assert_array_equal(image.stored_values(encoded, "a"), GREY)
    for intensity in (None, (1000.0, 60000.0)):
        plain = image.decode(tiff(GREY), "a", intensity=intensity)[0]
        found, odd = image.decode(encoded, "a", intensity=intensity)
        np.testing.assert_allclose(found, 255 - plain, atol=1e-4)
        assert odd == Odd.DEEP and found.strides[-1] == 0


@pytest.mark.parametrize("name", ["grey.png", "rgb.png", "grey_alpha.png", "int16, <0.tif", "rgb, <1.tif"])
@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_turned_they_are_the_same_values(name, orientation):
    encoded = STORED[name][0]
    plain = image.decode(encoded, name)[0]
    exif = corpus.turned(orientation).tobytes()[6:]
    if name.endswith("png"):
        chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
        encoded = encoded[:33] + chunk + encoded[33:]
    else:
        at = encoded.index(struct.pack("<HH", 284, 4))  # planes: the tag that may be missing
        encoded = encoded[:at] + struct.pack("<HHII", 0x0112, 4, 1, orientation) + encoded[at + 12 :]
    found, odd = image.decode(encoded, name)
    turn = {3: lambda p: p[::-1, ::-1], 5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p, -1)}[orientation]
    np.testing.assert_array_equal(found, turn(plain))
    assert odd & Odd.TURNED and image.size(encoded, name) == found.shape[:2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 255], np.int32), (0, 255)),  # scikit-image's labels and sums
        (np.array([7, 300], np.uint16), (0, 511)),
        (np.array([0, 4095], np.uint16), (0, 4095)),  # an X-ray
        (np.array([0, 4096], np.uint16), (0, 8191)),
        (np.array([0, 65535], np.uint16), (0, 65535)),
        (np.array([-1024, 3071], np.int16), (-4096, 4095)),  # CT, in Hounsfield's units
        (np.array([-128, 127], np.int32), (-128, 127)),
        (np.array([-129, 0], np.int32), (-256, 255)),
        (np.array([0.25, 1], np.float32), (0, 1)),
        (np.array([-3, 12.5], np.float32), (-3, 12.5)),
        (np.array([np.nan, 2, 3], np.float32), (2, 3)),
        (np.array([5.0, 5], np.float64), (5, 6)),
        (np.array([np.nan], np.float32), (0, 1)),
    ],
)
def test_a_files_own_range_has_the_fewest_bits_that_hold_its_values(values, expected):
    assert high_bit.own_range(values) == expected


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_the_range_of_bits_holds_its_values_and_no_smaller_one_does(one, other):
    low, high = sorted((one, other))
    black, white = high_bit.bits_range(low, high, False)
    assert black <= low and high <= white and np.log2(white - black + 1).is_integer()
    if white - black > 255:
        assert low < black / 2 or high > white / 2


def test_all_levels_of_8_12_and_16_bits_stay_apart_and_white_is_255():
    for bits in (8, 12, 16):
        values = np.arange(2**bits, dtype=np.uint16).reshape(16, -1)
        pixels, _ = image.decode(corpus.encode(values, "PNG"), "x")
        assert len(np.unique(pixels)) == 2**bits and (pixels.min(), pixels.max()) == (0, 255)
        whole = high_bit.scale(values, (0, 2**bits - 1))[values % (2**bits // 256) == 0]
        assert bits != 8 or np.array_equal(whole, np.arange(256))
    exact = high_bit.scale(np.arange(256, dtype=np.uint16) * 257, (0, 65535))
    assert np.array_equal(exact, np.arange(256))


def test_what_is_not_finite_is_black_or_white_and_counts_as_odd():
    values = np.array([[np.nan, np.inf, -np.inf, 1, 3]], np.float32)
    pixels, odd = image.decode(tiff(values), "x")
    assert pixels[0, :, 0].tolist() == [0, 255, 0, 0, 255]
    assert odd == Odd.DEEP | Odd.NOT_FINITE


def test_an_image_of_which_a_window_leaves_nothing_counts_as_blank():
    encoded = corpus.encode(np.arange(1000, 1100, dtype=np.uint16).reshape(10, 10), "PNG")
    assert image.decode(encoded, "x")[1] == Odd.DEEP
    for window in ((0, 100), (2000, 3000), (0, 65535)):
        assert image.decode(encoded, "x", intensity=window)[1] == Odd.DEEP | Odd.BLANK
    flat = corpus.encode(np.full((4, 4), 1000, np.uint16), "PNG")  # nothing was there to be lost
    assert image.decode(flat, "x")[1] == Odd.DEEP


def test_images_of_8_bits_are_not_scaled():
    encoded = corpus.encode(corpus.photo(), "PNG")
    pixels, odd = image.decode(encoded, "x", intensity=(0, 4095))
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, corpus.photo()) and odd == Odd(0)


def test_an_icon_of_16_bits_is_read():
    encoded = corpus.encode(GREY, "ICO")
    pixels, odd = image.decode(encoded, "a.ico")
    assert pixels.shape[:2] == image.size(encoded, "a.ico") and odd == Odd.DEEP and np.ptp(pixels)


def test_arrays_of_other_types_are_scaled_as_files_are():
    for values in (GREY, RGB, SIGNED, GREY.astype(np.float32) / 65535):
        pixels, odd = image.decode(values, "x", (1, 2, 5, 8), intensity=(-10, 9000))
        expected = high_bit.scale(values, (-10, 9000)).reshape(9, 13, -1)[2:8, 1:5]
        assert odd & Odd.DEEP and np.array_equal(pixels, np.broadcast_to(expected, (6, 4, 3)))


@pytest.mark.parametrize(
    "encoded",
    [
        corpus.encode(Image.new("CMYK", (4, 4)), "TIFF"),
        tiff((RGB >> 8).astype(np.uint8)),
    ],
)
def test_what_has_8_bits_has_no_stored_values(encoded):
    assert image.stored_values(encoded, "x") is None


def test_batches_of_8_bits_round_and_say_so_and_strict_refuses_only_that():
    pixels, odd = image.decode(STORED["grey.png"][0], "x", intensity=(0, 65535))
    kept, number = image.accept(pixels, odd, "x", DATA)
    assert kept is pixels and number == Odd.DEEP
    strict = ConfigDict({**DATA, "strict": True})
    assert image.accept(pixels, odd, "x", strict)[1] == Odd.DEEP
    with strict.unlocked():
        strict.pixels = "uint8"
    with pytest.raises(UserError, match=r"x: of more than 8 bits \(reduced to 8, .*\); mend or remove it"):
        image.accept(pixels, odd, "x", strict)
    strict.strict = False
    rounded, number = image.accept(pixels, odd, "x", strict)
    assert rounded.dtype == np.uint8 and number == Odd.REDUCED
    assert np.abs(rounded - GREY[..., None] / 257).max() <= 0.5 + 1e-4


def test_a_cut_off_file_has_the_values_that_are_there():
    for values in (deep(40, 60), deep(40, 60, 3)):
        files = [netpbm(values.reshape(40, 60, -1)), png(values.reshape(40, 60, -1))]
        for encoded in files:
            whole, _ = image.decode(encoded, "x", intensity=(0, 65535))
            half, odd = image.decode(encoded[: len(encoded) // 2], "x", intensity=(0, 65535))
            assert odd == Odd.DEEP | Odd.TRUNCATED
            assert np.array_equal(half[:18], whole[:18]) and not half[22:].any()


def test_resizing_floats_is_pillows_of_each_channel():
    values = deep(31, 47, 3).astype(np.float32) / 257
    found = image.resize(values, 12, 20)
    for channel in range(3):
        alone = Image.fromarray(values[..., channel]).resize((20, 12), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(found[..., channel], np.asarray(alone))
    grey = np.broadcast_to(values[..., :1], values.shape)
    np.testing.assert_array_equal(image.resize(grey, 12, 20)[..., 2], found[..., 0])
