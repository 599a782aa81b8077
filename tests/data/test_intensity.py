"""The range of a data set's high-bit images: found in train images, the same for all, kept by the run."""

import corpus
import numpy as np
import pytest
from PIL import Image

from morphism.data import high_bit, intensity, pipeline
from morphism.data.odd import Odd
from morphism.data.sources import scene_masks, scenes
from morphism.experiments.base import get_base

RNG = np.random.default_rng(0)


class Files:
    """Records of encoded images, or arrays."""

    classes = ("a", "b")
    targets = property(lambda self: {"label": self.classes})

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
    reported = []
    data_of = intensity.settle(config(**data), source, reported.append).data
    return data_of.pixels, tuple(data_of.intensity), reported


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
    pixels, found, reported = settled(Files(images))
    assert (pixels, found) == ("float32", expected)
    assert len(reported) == 1 and f"black is {expected[0]:g}, white {expected[1]:g}" in reported[0]


def test_images_of_8_bits_stay_uint8_and_nothing_is_reported():
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


def test_of_a_large_image_the_sample_sees_all_columns():
    """An even step through a width of 2,048 would see eight of them."""
    values = np.tile(np.arange(2048, dtype=np.uint16), (256, 1))
    low, high = settled(Files([png(values)]), intensity_rule="percentiles")[1]
    assert low < 30 and high > 2017
    assert len(np.unique(intensity.measure(Files([png(values)]), 0)[0].sample)) > 1800


def test_a_settled_config_is_not_settled_again(monkeypatch):
    monkeypatch.setattr(intensity, "measure", None)
    found = intensity.settle(config(), Files(PHOTOS[:1]))
    assert batch_of(found, Files(PHOTOS[:1] * 4))["image"].dtype == np.uint8


def test_the_sample_depends_on_the_seed_alone():
    many = Files([png(RNG.integers(0, high, (2, 2))) for high in RNG.integers(300, 60000, 400)])
    assert settled(many, intensity_rule="percentiles") == settled(many, intensity_rule="percentiles")
    assert len(intensity.measure(many, 0)) == intensity.MEASURED
    assert len(intensity.measure(many, 0)[0].sample) == 4


def test_floats_and_integers_in_one_split_are_scaled_each_by_its_own_bits():
    mixed = Files([tiff(np.array([[0.5]], np.float32)), png([[4000]])])
    pixels, found, reported = settled(mixed)
    assert (pixels, found) == ("float32", ()) and "(float32, uint16, 2 measured)" in reported[0]
    assert "each image is scaled by its own bits" in reported[0]
    assert settled(mixed, intensity=(0, 4095)) == ("float32", (0, 4095), [])


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


class Scenes:
    """Images with boxes and masks, stored in 8 bits, or the same in 16."""

    def __init__(self, bits):
        self.source, self.bits = scene_masks.load("12x64", "train", ""), bits
        self.boxes = scenes.load("12x64", "train", "")
        self.classes, self.sizes = self.source.classes, self.source.sizes
        self.category_ids = self.boxes.category_ids
        self.targets = dict.fromkeys(("label", "boxes", "segmentation"), self.classes)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        record = self.boxes[index] | self.source[index]
        pixels = record["image"]
        return record | {"label": 0, "image": pixels if self.bits == 8 else pixels.astype(np.uint16) * 257}


AUGMENTED = {
    "classification": {"data": {"image_size": 40, "crop_scale": (0.3, 1.0)}},
    "detection": {"data": {"image_size": 72, "resize": "fit"}, "augment": {"zoom_out": 0.5, "iou_crop": True}},
    "detection, jittered": {"data": {"image_size": 72}, "augment": {"scale_jitter": (0.5, 1.5)}},
    "segmentation": {"data": {"image_size": 60, "crop": (48, 56), "scale": (0.5, 1.5)}, "augment": {"elastic": 3.0}},
    "segmentation, antialiased": {"data": {"image_size": 40, "crop": (48, 56), "antialias": True}},
}


@pytest.mark.parametrize("name", AUGMENTED)
def test_the_same_image_in_8_and_in_16_bits_makes_the_same_batches(name):
    """Within the rounding of 8 bits: every crop, resize, flip and deformation of the host is the same for both."""
    found = get_base(name.partition(",")[0])
    for group, fields in AUGMENTED[name].items():
        found[group].update(fields)
    found.batch_size, found.data.threads = 6, 0
    for make in (
        lambda source: list(pipeline.train_batches(source, found, start_step=0, stop_step=3)),
        lambda source: list(pipeline.eval_batches(source, found, batch_size=6)),
    ):
        for eight, sixteen in zip(make(Scenes(8)), make(Scenes(16)), strict=True):
            assert (eight["image"].dtype, sixteen["image"].dtype) == (np.uint8, np.float32)
            off = np.abs(eight["image"] - sixteen["image"])
            assert off.max() <= 2.01 and off.mean() < 0.5
            for key in eight.keys() - {"image", "odd"}:
                assert np.array_equal(eight[key], sixteen[key])
