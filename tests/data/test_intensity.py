"""The range of a data set's high-bit images: found in train images, the same for all, kept by the run."""

import corpus
import numpy as np
import pytest
from PIL import Image

from data import high_bit, intensity, pipeline
from data.image import Odd
from errors import UserError
from experiments.base import get_base

RNG = np.random.default_rng(0)


class Files:
    """Records of encoded images, or arrays."""

    classes = ("a", "b")

    def __init__(self, images, task="classification"):
        self.images, self.task = images, task
        self.labels = np.zeros(len(images), np.int32)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": index % 2, "name": f"{index}.png"}


def png(values):
    return corpus.encode(np.asarray(values, np.uint16), "PNG")


def tiff(values):
    return corpus.encode(Image.fromarray(values), "TIFF")


def config(**data):
    found = get_base("classification")
    found.data.update({"image_size": 16, "resize_size": 16, "train_crop": "center", "threads": 0, **data})
    found.batch_size = 4
    return found


def settled(source, **data):
    told = []
    data_of = intensity.settle(config(**data), source, told.append).data
    return data_of.pixels, tuple(data_of.intensity), told


XRAYS = [png(RNG.integers(20, 4000, (20, 24))) for _ in range(6)]
PHOTOS = [corpus.encode(corpus.photo(20, 24), format) for format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (XRAYS, (0, 4095)),
        (XRAYS[:1] + PHOTOS, (0, 4095)),
        ([png([[0, 65535]]), *XRAYS], (0, 65535)),
        ([tiff(np.array([[0, 255]], np.int32)), tiff(np.array([[0, 200]], np.int32))], (0, 255)),
        ([tiff(np.array([[0.1, 0.9]], np.float32))], (0, 1)),
        ([np.array([[0, 1000]], np.uint16)], (0, 1023)),
    ],
)
def test_the_range_is_of_the_fewest_bits_that_hold_all_train_images(images, expected):
    pixels, found, told = settled(Files(images))
    assert (pixels, found) == ("float32", expected)
    assert len(told) == 1 and f"black is {expected[0]:g}, white {expected[1]:g}" in told[0]


def test_images_of_8_bits_stay_uint8_and_nothing_is_told():
    assert settled(Files(PHOTOS)) == ("uint8", (), [])
    assert settled(Files([corpus.photo(20, 24)])) == ("uint8", (), [])


def test_a_window_or_another_rule_is_taken_as_it_is_stated():
    assert settled(Files(XRAYS), intensity=(100, 900)) == ("float32", (100, 900), [])
    assert settled(Files(XRAYS), intensity_rule="type")[1] == (0, 65535)
    assert settled(Files(XRAYS), pixels="uint8")[:2] == ("uint8", (0, 4095))
    assert settled(Files(PHOTOS), pixels="float32") == ("float32", (), [])
    mixed = [tiff(np.array([[0, 9]], np.int32)), png([[1]])]
    assert settled(Files(mixed), intensity_rule="type")[1] == (-(2**31), 2**31 - 1)


def test_percentiles_are_numpys_of_all_values_of_the_train_split():
    values = [RNG.normal(1000, 200, (40, 50)).clip(0, 5000).astype(np.uint16) for _ in range(5)]
    found = settled(Files(list(map(png, values))), intensity_rule="percentiles")[1]
    np.testing.assert_allclose(found, np.percentile(np.stack(values), (0.5, 99.5)))
    # floats without a range of their own have no bits to tell one by
    floats = [value.astype(np.float32) / 3 - 200 for value in values]
    found = settled(Files(list(map(tiff, floats))))[1]
    np.testing.assert_allclose(found, np.percentile(np.stack(floats), (0.5, 99.5)), rtol=1e-6)


def test_the_sample_depends_on_the_seed_alone():
    many = Files([png(RNG.integers(0, high, (2, 2))) for high in RNG.integers(300, 60000, 400)])
    assert settled(many, intensity_rule="percentiles") == settled(many, intensity_rule="percentiles")
    assert len(intensity.measure(many, 0)) == intensity.MEASURED
    assert len(intensity.measure(many, 0)[0].sample) == 4


def test_floats_and_integers_in_one_split_are_an_error_that_a_window_mends():
    mixed = Files([tiff(np.array([[0.5]], np.float32)), png([[4000]])])
    with pytest.raises(UserError, match=r"0.png stores floats, 1.png integers .*config.data.intensity=\(low, high\)"):
        settled(mixed)
    assert settled(mixed, intensity=(0, 4095))[:2] == ("float32", (0, 4095))


def test_what_cannot_be_read_is_left_to_be_reported_in_its_turn():
    assert settled(Files([b"no image", b"", *XRAYS]))[:2] == ("float32", (0, 4095))


def batch_of(found, source):
    return next(pipeline.train_batches(source, found, start_step=0, stop_step=1))


def test_batches_of_high_bit_images_are_floats_with_every_level():
    wide = Files([png(np.arange(256, dtype=np.uint16).reshape(16, 16) * 16 + 7) for _ in range(4)])
    batch = batch_of(config(), wide)
    assert batch["image"].dtype == np.float32 and (batch["odd"] == Odd.DEEP).all()
    assert len(np.unique(batch["image"])) == 256
    np.testing.assert_allclose(
        np.sort(batch["image"][0, ..., 0].ravel()), (np.arange(256) * 16 + 7) * 255 / 4095, rtol=1e-6
    )
    evaluated = next(pipeline.eval_batches(wide, intensity.settle(config(), wide), batch_size=4))
    assert np.array_equal(evaluated["image"][0], batch["image"][batch["id"].tolist().index(0)])


def test_batches_of_8_bit_images_are_as_they_are_without_any_of_this():
    photos = Files([corpus.encode(corpus.photo(16, 16), "PNG")] * 4)
    batch = batch_of(config(), photos)
    forced = batch_of(config(pixels="float32"), photos)
    assert batch["image"].dtype == np.uint8 and forced["image"].dtype == np.float32
    assert np.array_equal(batch["image"], forced["image"]) and not batch["odd"].any()


def test_in_8_bit_batches_a_high_bit_image_is_reduced_and_counted():
    found = config(pixels="uint8", intensity=(0, 4095))
    values = RNG.integers(0, 4096, (16, 16))
    batch = batch_of(found, Files([png(values)] * 4))
    assert batch["image"].dtype == np.uint8 and (batch["odd"] == Odd.REDUCED).all()
    assert np.array_equal(batch["image"][0, ..., 1], np.rint(high_bit.scale(values.astype(np.uint16), (0, 4095))))
