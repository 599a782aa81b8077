"""Small datasets with masks, prepared and read by TFDS itself, without TensorFlow."""

import io
import pickle
import sys
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from morphism.data import sources
from morphism.data.sources import tfds as tfds_source
from morphism.data.sources import tfds_masks
from morphism.errors import UserError

SIZE = (6, 8)
VALUES = np.arange(48, dtype=np.uint8).reshape(SIZE) % 34  # all of Cityscapes' numbers


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


class _Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    FEATURES: ClassVar[dict] = {}

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self.FEATURES))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(3), "validation": self._generate_examples(1)}

    def _generate_examples(self, count):
        for index in range(count):
            image = np.full((*SIZE, 3), index, np.uint8)
            names = list(self.FEATURES)
            yield index, dict(zip(names, (png(image), png(np.roll(VALUES, index, 1) % self.MOST)), strict=True))


class Streets(_Builder):
    MOST = 3
    FEATURES: ClassVar[dict] = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "segmentation": tfds.features.LabeledImage(labels=["ground", "road", "sky"], shape=(None, None, 1)),
    }


class Blank(_Builder):
    MOST = 1
    FEATURES = Streets.FEATURES

    def _generate_examples(self, count):
        for index in range(count):
            blank = np.full(SIZE, 255, np.uint8)
            yield index, {"image": png(np.stack([blank] * 3, -1)), "segmentation": png(blank)}


class Many(_Builder):
    FEATURES: ClassVar[dict] = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "segmentation": tfds.features.LabeledImage(labels=256, shape=(None, None, 1)),
    }


class Unknown(_Builder):
    MOST = 3
    FEATURES: ClassVar[dict] = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "mask": tfds.features.Image(shape=(None, None, 1)),
    }


def prepared(name, folder):
    tfds_source.builder(name, str(folder)).download_and_prepare(file_format="array_record")
    return ConfigDict({"source": f"tfds_masks:{name}", "data_dir": str(folder), "val_fraction": 0.0, "split_seed": 0})


def test_a_dataset_of_labeled_images_tells_its_classes_itself(tmp_path):
    data = prepared("streets", tmp_path)
    assert tuple(sources.classes(data)) == ("ground", "road", "sky")
    train, val = sources.load(data, "train"), sources.load(data, "val")
    assert "tensorflow" not in sys.modules
    assert (len(train), len(val)) == (3, 1) and train.sizes.tolist() == [list(SIZE)] * 3
    for source in (train, pickle.loads(pickle.dumps(train))):
        for index in range(3):
            record = source[index]
            roll = int(np.asarray(Image.open(io.BytesIO(record["image"])))[0, 0, 0])
            np.testing.assert_array_equal(record["segmentation"], np.roll(VALUES, roll, 1) % 3)


def test_what_masks_mean_must_be_known(tmp_path):
    data = prepared("unknown", tmp_path)
    with pytest.raises(UserError, match="tfds_masks:unknown: what its masks mean is not known; known are cityscapes"):
        sources.load(data, "train")


def test_masks_that_are_all_ignored_or_have_too_many_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match="tfds_masks:blank: all pixels of all 3 masks of train are ignored"):
        sources.load(prepared("blank", tmp_path), "train")
    with pytest.raises(UserError, match="tfds_masks:many: has 256 classes; masks hold at most 255"):
        tfds_masks.classes("many", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("cityscapes", 19, {7: 0, 8: 1, 19: 6, 33: 18, 0: 255, 6: 255, 29: 255}),
        ("oxford_iiit_pet", 2, {1: 0, 2: 1, 3: 255}),
        ("scene_parse150", 150, {0: 255, 1: 0, 33: 32}),
    ],
)
def test_known_datasets_numbers_become_classes(name, classes, expected, monkeypatch):
    known = tfds_masks.KNOWN[name]
    source = tfds_masks.TfdsMasks(name, "train", "", tuple(known.numbers))
    record = {known.image: b"", known.mask: png(VALUES).getvalue()}
    monkeypatch.setitem(source.__dict__, "_records", [record])
    assert len(source.classes) == classes
    found = source[0]["segmentation"]
    for number, label in expected.items():
        assert set(found[VALUES == number].tolist()) == {label}


def test_the_features_of_the_known_datasets_are_tfdss_own(tmp_path):
    """Its builders say which features they have, before any data is there."""
    for name in ("oxford_iiit_pet", "scene_parse150", "cityscapes/semantic_segmentation"):
        features = tfds_source.builder(name, str(tmp_path)).info.features
        known = tfds_masks.KNOWN[name.partition("/")[0]]
        assert {known.image, known.mask} <= set(features)
