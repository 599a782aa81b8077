"""Against the whole image decoded, cut and resized by Pillow: torchvision's RandomResizedCrop on the same box."""

import io

import corpus
import numpy as np
import pytest
from PIL import Image

from morphism.data import image, jpeg, windows
from morphism.data.orientation import EXIF_ORIENTATION
from morphism.errors import UserError

BOXES = [  # shares of width and height: inside, the four corners, the whole, a strip along the bottom
    (0.2, 0.3, 0.7, 0.8),
    (0.0, 0.0, 0.6, 0.5),
    (0.4, 0.0, 1.0, 0.5),
    (0.0, 0.6, 0.5, 1.0),
    (0.5, 0.5, 1.0, 1.0),
    (0.0, 0.0, 1.0, 1.0),
    (0.0, 0.9, 1.0, 1.0),
]


def encode(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def scaled(photo, height, width):
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))


def box_of(share, height, width):
    x0, y0, x1, y1 = share
    x0, y0 = min(int(x0 * width), width - 1), min(int(y0 * height), height - 1)
    return x0, y0, max(x0 + 1, round(x1 * width)), max(y0 + 1, round(y1 * height))


def torchvision(encoded, box, target):
    whole = Image.open(io.BytesIO(encoded)).convert("RGB")
    return np.asarray(whole.crop(box).resize((target, target), Image.Resampling.BILINEAR)).astype(int)


def found(encoded, box, target):
    return jpeg.random_crop(encoded, jpeg.read_header(encoded), box, target)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(151, 203), (160, 208), (97, 64), (33, 17), (8, 9), (1, 1), (1, 40), (40, 1)])
def test_an_unscaled_crop_is_torchvisions_within_one_level(photo, size, subsampling):
    encoded = encode(scaled(photo, *size), subsampling=subsampling)
    for share in BOXES:
        box = box_of(share, *size)
        target = max(box[2] - box[0], box[3] - box[1]) * 3 // 4 + 1  # larger than half of the shorter side: not scaled
        target = max(target, min(box[2] - box[0], box[3] - box[1]) // 2 + 1)
        crop = found(encoded, box, target)
        assert (crop.shape, crop.dtype) == ((target, target, 3), np.uint8)
        assert np.abs(crop - torchvision(encoded, box, target)).max() <= 1, (share, box, target)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_crop_decoded_small_stays_near_torchvisions(photo, shrink, subsampling):
    size = (151 * 4, 203 * 4 - 1)
    encoded = encode(scaled(photo, *size), subsampling=subsampling)
    for share in BOXES[:6]:
        box = box_of(share, *size)
        target = min(box[2] - box[0], box[3] - box[1]) // shrink
        difference = np.abs(found(encoded, box, target) - torchvision(encoded, box, target))
        assert difference.mean() < 2.5, (share, box, target)


def test_rows_below_the_crop_change_nothing(photo):
    """Bit for bit, wherever the crop ends within the decoder's blocks: chroma is upsampled across their borders."""
    encoded = encode(photo, subsampling="4:2:0")
    whole, _ = image.decode(encoded, "photo")
    for bottom in range(1, 152):
        rows = jpeg._decode(encoded, jpeg.read_header(encoded), bottom, 1)
        assert len(rows) == min(151, bottom + jpeg.MARGIN)
        assert np.array_equal(rows[:bottom], whole[:bottom])


def test_grey_becomes_rgb(photo):
    encoded = encode(photo[..., 0])
    box = (10, 20, 110, 120)
    crop = found(encoded, box, 70)
    assert np.abs(crop - torchvision(encoded, box, 70)).max() <= 1
    assert np.ptp(crop, axis=-1).max() == 0


def test_without_the_fast_resizer_pillow_resizes(photo, monkeypatch):
    monkeypatch.setattr(jpeg, "fast", None)
    for size, target in (((151, 203), 70), ((604, 812), 70)):
        encoded = encode(scaled(photo, *size), subsampling="4:2:0")
        box = box_of((0.1, 0.2, 0.7, 0.8), *size)
        assert np.abs(found(encoded, box, target) - torchvision(encoded, box, target)).mean() < 2.5


def test_a_crop_of_the_right_size_is_not_the_scratch(photo):
    encoded = encode(photo)
    first = found(encoded, (0, 0, 64, 64), 64)
    kept = first.copy()
    found(encoded, (90, 70, 154, 134), 64)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("options", [{"restart_marker_blocks": 3}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_restart_markers_and_own_tables(photo, options):
    encoded = encode(photo, **options)
    box = (20, 10, 120, 100)
    assert jpeg.read_header(encoded).restarts == ("optimize" not in options)
    assert np.abs(found(encoded, box, 80) - torchvision(encoded, box, 80)).max() <= 1


def exif(orientation):
    tags = Image.Exif()
    tags[0x010E] = "a description"
    tags[EXIF_ORIENTATION] = orientation
    return tags


def test_only_simple_upright_images_are_read_here(photo):
    assert jpeg.read_header(encode(photo))[:2] == (151, 203)
    assert jpeg.read_header(encode(photo, exif=exif(1)))[:2] == (151, 203)
    for orientation in range(2, 9):
        tags = exif(orientation).tobytes()
        assert jpeg.read_header(encode(photo, exif=tags)) is None
    big_endian = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    assert jpeg.read_header(encode(photo, exif=big_endian)) is None
    assert jpeg.read_header(encode(photo, progressive=True)) is None
    assert jpeg.read_header(encode(photo, keep_rgb=True)) is None
    buffer = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(buffer, "JPEG")
    assert jpeg.read_header(buffer.getvalue()) is None
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    assert jpeg.read_header(buffer.getvalue()) is None


def test_a_header_cut_anywhere_is_no_error(photo):
    encoded = encode(photo, exif=exif(1))
    scan = encoded.index(b"\xff\xda")
    for length in range(scan + 1):
        assert jpeg.read_header(encoded[:length]) is None


def test_damage_above_the_end_of_the_crop_is_not_passed_over(photo):
    encoded = encode(photo)
    scan = encoded.index(b"\xff\xda") + 14
    header, box = jpeg.read_header(encoded), (0, 0, 100, 75)
    cut_short = encoded[: scan + (len(encoded) - scan) // 4]
    torn = encoded[: scan + 200] + b"\xff\xd9" + encoded[scan + 202 :]
    assert jpeg.random_crop(encoded, header, box, 60) is not None
    for broken in (cut_short, torn):
        assert jpeg.random_crop(broken, header, box, 60) is None


def crop(encoded, seed, target=96):
    rng = np.random.default_rng(seed)
    return corpus.random_crop(encoded, "photo", target, (0.08, 1.0), (3 / 4, 4 / 3), rng)[0]


@pytest.mark.parametrize("size", [(604, 812), (151, 203), (30, 500), (3, 2), (1, 1)])
def test_random_resized_crop_takes_the_box_it_draws(photo, size):
    encoded = encode(scaled(photo, *size), subsampling="4:2:0")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        box = windows.random_resized_crop(size, (0.08, 1.0), (3 / 4, 4 / 3), rng)
        difference = np.abs(crop(encoded, seed) - torchvision(encoded, box, 96))
        assert difference.max() <= 1 or (min(box[2] - box[0], box[3] - box[1]) >= 192 and difference.mean() < 2.5)


def test_progressive_and_sequential_files_give_the_same_crop(photo):
    for seed in range(10):
        difference = np.abs(crop(encode(photo), seed).astype(int) - crop(encode(photo, progressive=True), seed))
        assert difference.max() <= 1


def test_what_is_no_image_is_reported_by_name():
    with pytest.raises(UserError, match="photo"):
        crop(b"\xff\xd8\xff\xe0\x00\x10JFIF", 0)
