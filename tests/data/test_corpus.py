"""Every sort of image: the rule applied and noted, or one line with the file and the remedy."""

import re
import tracemalloc
import warnings

import corpus
import numpy as np
import pytest
from PIL import Image

from morphism.data import image
from morphism.data.odd import RULES, Odd
from morphism.errors import UserError
from morphism.experiments.base import get_base

USABLE = corpus.usable()
UNUSABLE = corpus.unusable()
PHOTO = corpus.photo()
GREY = np.asarray(Image.fromarray(PHOTO).convert("L"))


def decoded(name):
    return image.decode(USABLE[name][0], name)[0]


def both_ways(encoded, name):
    """Evaluation's crop and training's."""
    data = get_base().data
    pixels, odd = image.decode(encoded, name)
    rng = np.random.default_rng(0)
    crop, again = corpus.random_crop(encoded, name, 32, data.crop_scale, data.crop_ratio, rng)
    return corpus.center_crop(pixels, 40, 32), odd, crop, again


@pytest.mark.parametrize("name", USABLE)
def test_a_usable_image_is_used_and_what_was_odd_is_noted(name):
    encoded, expected = USABLE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        central, odd, crop, again = both_ways(encoded, name)
    assert odd == again == expected
    for pixels in (central, crop):
        assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.float32 if expected & Odd.DEEP else np.uint8)


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_image_is_one_line_with_its_name_and_the_remedy(name):
    encoded, reason = UNUSABLE[name]
    for use in (lambda: image.decode(encoded, name), lambda: both_ways(encoded, name), lambda: crop_of(encoded, name)):
        with pytest.raises(UserError, match=rf"^{name}: .*{re.escape(reason)}.*; replace or remove it$"):
            use()


def crop_of(encoded, name):
    corpus.random_crop(encoded, name, 32, (0.1, 1), (0.75, 1.33), np.random.default_rng(0))


@pytest.mark.parametrize("name", ["plain.jpg", "plain.png", "turned.jpg", "cmyk.jpg", "animated.gif", "plain.tif"])
def test_cut_anywhere_an_image_is_truncated_or_an_error(name):
    encoded = USABLE[name][0] if name in USABLE else corpus.encode(PHOTO, "TIFF", compression="tiff_lzw")
    whole = image.decode(encoded, name)[0]
    for length in np.linspace(1, len(encoded) - 3, 60, dtype=int):
        try:
            pixels, odd = image.decode(encoded[:length], name)
        except UserError as error:
            assert str(error).startswith(f"{name}: ")
        else:
            assert pixels.shape == whole.shape
            assert odd & (Odd.TRUNCATED | Odd.DAMAGED) or np.array_equal(pixels, whole)


def test_bytes_changed_anywhere_never_raise_another_error():
    rng = np.random.default_rng(0)
    for name in ("plain.jpg", "turned.jpg", "cmyk.tif", "palette.png", "animated.gif", "animated.webp", "half.bmp"):
        encoded = np.frombuffer(USABLE[name][0], np.uint8)
        for _ in range(40):
            spoilt = encoded.copy()
            where = rng.integers(0, min(len(spoilt), 600), 3)
            spoilt[where] = rng.integers(0, 256, 3)
            try:
                image.decode(spoilt.tobytes(), name)
            except UserError as error:
                assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(("name", "fill"), [("half.jpg", 128), ("half.png", 0), ("half_turned.jpg", 128)])
def test_of_a_truncated_image_what_is_there_is_right_and_the_rest_plain(name, fill):
    whole = {"half.jpg": "plain.jpg", "half.png": "plain.png", "half_turned.jpg": "turned.jpg"}[name]
    pixels, expected = decoded(name), decoded(whole)
    if "turned" in name:
        pixels, expected = np.rot90(pixels), np.rot90(expected)
    assert np.array_equal(pixels[:40], expected[:40])
    assert np.all(pixels[-8:] == fill)


def test_grey_becomes_three_equal_channels():
    assert np.all(decoded("grey.png") == GREY[..., None])
    assert np.ptp(decoded("grey.jpg"), axis=-1).max() == 0


def test_alpha_is_dropped_and_the_colours_beneath_are_kept():
    assert np.array_equal(decoded("transparent.png"), PHOTO)
    assert np.array_equal(decoded("opaque.png"), PHOTO)
    assert np.array_equal(decoded("transparent_palette.png"), decoded("palette.png"))


def test_of_an_animation_the_first_frame_is_used():
    for name in ("animated.webp", "animated.png", "pages.tif"):
        assert np.array_equal(decoded(name), PHOTO)
    assert np.array_equal(decoded("animated.gif"), decoded("palette.png"))


def test_cmyk_has_the_colours_that_it_was_made_of():
    for name, tolerance in (("cmyk.tif", 0), ("cmyk.jpg", 4)):
        assert np.abs(decoded(name).astype(int) - PHOTO).mean() <= tolerance


def test_a_long_strip_is_resized_in_little_memory():
    tracemalloc.start()
    pixels = corpus.center_crop(decoded("strip.png"), 256, 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.shape == (224, 224, 3) and peak < 50e6


def test_an_image_is_not_called_odd_for_being_of_the_common_kind():
    assert {name for name, (_, odd) in USABLE.items() if not odd} >= {"grey.jpg", "palette.png", "opaque.png"}


def test_every_oddity_has_its_rule():
    assert set(RULES) == set(Odd)
