import io

import corpus
import numpy as np
import pytest
from corpus import encode
from PIL import Image

from morphism.data import image, windows


def pillow_eval(encoded, shorter, target):
    """torchvision's Resize(shorter) and CenterCrop(target) with Pillow alone."""
    whole = Image.open(io.BytesIO(encoded)).convert("RGB")
    width, height = whole.size
    if width <= height:
        size = (shorter, int(shorter * height / width))
    else:
        size = (int(shorter * width / height), shorter)
    whole = whole.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - target) / 2), round((size[1] - target) / 2)
    return np.asarray(whole.crop((left, top, left + target, top + target)))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("turned", [False, True])
def test_evaluation_equals_pillow_within_one_level(photo, subsampling, turned):
    encoded = encode(photo.swapaxes(0, 1) if turned else photo, quality=92, subsampling=subsampling)
    found = corpus.center_crop(image.decode(encoded, "photo")[0], 64, 56)
    difference = np.abs(found.astype(int) - pillow_eval(encoded, 64, 56))
    assert found.shape == (56, 56, 3)
    assert (difference <= 1).mean() >= 0.999


def test_a_crop_decoded_small_shows_what_the_whole_would(photo):
    large = np.asarray(Image.fromarray(photo).resize((812, 604)))
    encoded = encode(large, quality=95)
    box = (101, 53, 701, 553)
    small = image.resize(image.decode(encoded, "photo", box, 64)[0], 64, 64).astype(int)
    whole = image.resize(image.decode(encoded, "photo")[0][53:553, 101:701], 64, 64).astype(int)
    assert image.decode(encoded, "photo", box, 64)[0].shape[0] == 125  # a quarter of 500 rows
    assert np.abs(small - whole).mean() < 3


def test_a_crop_is_never_decoded_below_the_target(photo):
    encoded = encode(photo)
    for target in (10, 20, 40, 75, 76, 200):
        found, _ = image.decode(encoded, "photo", (0, 0, 203, 151), target)
        assert min(found.shape[:2]) >= min(target, 151)


def test_every_mode_becomes_rgb(photo):
    grey = Image.fromarray(photo).convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for encoded, tolerance in [
        (encode(photo, "PNG"), 0),
        (encode(Image.fromarray(photo).convert("RGBA"), "PNG"), 0),
        (encode(Image.fromarray(photo).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), 60),
        (encode(Image.fromarray(photo).convert("CMYK"), "JPEG", quality=95), 40),
    ]:
        found, _ = image.decode(encoded, "photo")
        assert (found.shape, found.dtype) == (photo.shape, np.uint8)
        assert np.abs(found.astype(int) - photo).mean() <= tolerance
    for encoded in (encode(grey, "PNG"), encode(grey.convert("LA"), "PNG"), encode(deep, "PNG")):
        found, _ = image.decode(encoded, "photo", intensity=(0, 65535))
        assert np.all(found == np.asarray(grey)[..., None])
    assert image.decode(encode(grey, "JPEG"), "photo")[0].shape == photo.shape


def test_grey_pixels_are_repeated_over_three_channels():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.all(image.decode(pixels, "array")[0] == pixels[..., None])


def test_random_resized_crop_boxes_have_the_asked_area_and_ratio():
    rng = np.random.default_rng(0)
    boxes = np.array([windows.random_resized_crop((400, 400), (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes.max() <= 400
    area, ratio = w * h / 160_000, w / h
    assert 0.079 < area.min() and area.max() <= 1.0
    assert 0.73 < ratio.min() and ratio.max() < 1.37
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 400, (13, 10)), (400, 10, (10, 13)), (1, 1, (1, 1))])
def test_random_resized_crop_falls_back_to_the_centre(height, width, expected):
    x0, y0, x1, y1 = windows.random_resized_crop((height, width), (1.0, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0))
    assert (x1 - x0, y1 - y0) == expected
    assert abs((x0 + x1) - width) <= 1 and abs((y0 + y1) - height) <= 1
