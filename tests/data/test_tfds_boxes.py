"""A small dataset with boxes, prepared and read by TFDS itself, without TensorFlow."""

import io
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from morphism.data import sources
from morphism.data.derived import Subset
from morphism.data.image import decode
from morphism.data.sources import scenes
from morphism.data.sources import tfds as tfds_source
from morphism.errors import UserError

COUNT, SIZE = 12, (48, 64)


def made(index):
    """A scene without its lower part, and the boxes of the whole."""
    record = scenes.load(f"{COUNT}x64", "train", "")[int(index)]
    return record["image"][: SIZE[0]], record["annotations"]


class Wardrobe(tfds.core.GeneratorBasedBuilder):
    """Scenes with boxes, as TFDS's coco has them; the last image has none."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        objects = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(num_classes=10),
            "area": np.int64,
            "is_crowd": np.bool_,
        }
        features = {
            "image": tfds.features.Image(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(objects),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index in range(COUNT):
            pixels, annotations = made(index)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            buffer.seek(0)
            shares = annotations.boxes / (64, 64, 64, 64)
            objects = [
                {
                    "bbox": tfds.features.BBox(*map(float, box[[1, 0, 3, 2]])),
                    "label": int(label),
                    "area": 7 + position,
                    "is_crowd": position == 1,
                }
                for position, (box, label) in enumerate(zip(shares, annotations.classes, strict=True))
            ]
            yield index, {"image": buffer, "image/id": 100 + index, "objects": objects if index < COUNT - 1 else []}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    tfds_source.builder("wardrobe", str(data_dir)).download_and_prepare(file_format="array_record")
    return ConfigDict({"source": "tfds:wardrobe", "data_dir": str(data_dir), "val_fraction": 0.0, "split_seed": 0})


@pytest.fixture(scope="module")
def source(data):
    return sources.load(data, "train")


def test_boxes_classes_areas_and_crowds_are_those_that_were_written(source):
    assert "tensorflow" not in sys.modules
    assert len(source) == COUNT and len(source.classes) == 10 and list(source.category_ids) == list(range(1, 11))
    assert sorted(source.image_ids) == list(range(100, 100 + COUNT))
    assert source.sizes.tolist() == [list(SIZE)] * COUNT
    for position, image_id in enumerate(source.image_ids):
        pixels, original = made(image_id - 100)
        record, found = source[position], source.annotations(position)
        assert (decode(record["image"], record["name"])[0] == pixels).all()
        if image_id == 100 + COUNT - 1:
            assert len(found) == 0 and found.boxes.shape == (0, 4)
            continue
        boxes = original.boxes * (1, 48 / 64, 1, 48 / 64)  # the shares are of the image's own sides
        np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)
        assert (found.boxes == record["annotations"].boxes).all()
        assert found.classes.tolist() == original.classes.tolist()
        assert found.area.tolist() == [7 + k for k in range(len(original))]
        assert found.crowd.tolist() == [k == 1 for k in range(len(original))]
    assert source.oddities == ""


def test_a_worker_reads_the_same_and_is_sent_little(source):
    source.sizes, source[0]
    packed = pickle.dumps(source)
    assert len(packed) < 2000
    assert (pickle.loads(packed).annotations(3).boxes == source.annotations(3).boxes).all()


def test_an_example_in_a_worker_reads_its_own_record_alone(data, monkeypatch):
    """Also of a source whose sizes nobody has asked for, and of a part of it."""
    opened = sources.load(data, "train")
    part = Subset(sources.load(data, "train"), np.arange(2, 7))
    read, reading = [], tfds_source.Tfds._read
    copies = [pickle.loads(pickle.dumps(each)) for each in (opened, part)]
    monkeypatch.setattr(tfds_source.Tfds, "_read", lambda *each: read.append(each[1]) or reading(*each))
    assert all(copy[3]["annotations"] and tuple(copy.sizes[3]) == SIZE for copy in copies)
    assert read == [3, 5]


def test_vocs_pixel_indices_become_the_boxes_of_its_folder(source):
    """TFDS writes xmin / width of voc/2007 as it finds them."""
    as_voc = tfds_source.TfdsDetection("voc/2007", "train", "", source.classes)
    objects = {
        "bbox": np.float32([[6 / 40, 11 / 50, 15 / 40, 20 / 50]]),
        "label": np.array([3]),
        "is_difficult": [True],
    }
    found = as_voc._boxes([0], [{"size": (40, 50), "objects": objects}])[0]
    np.testing.assert_allclose(found.boxes, [[10, 5, 20, 15]], atol=1e-5)
    assert found.difficult.tolist() == [True] and found.classes.tolist() == [3]
    whole = [0], [{"size": (40, 50), "objects": objects}], "tfds:voc/2007"
    assert "all are crowds or difficult" in as_voc._boxes(*whole).oddities


def test_coco_has_its_own_ids():
    coco = tfds_source.TfdsDetection("coco/2017", "train", "", tuple(map(str, range(80))))
    assert coco.category_ids[0] == 1 and coco.category_ids[-1] == 90 and len(coco.category_ids) == 80


def test_vocs_classes_are_known_before_its_data_is_there(tmp_path):
    names = tfds_source.classes("voc/2007", str(tmp_path))
    assert len(names) == 20 and names[0] == "aeroplane"


def test_broken_data_is_named_with_the_remedy(data, tmp_path):
    import shutil

    shutil.copytree(data.data_dir, tmp_path / "copy")
    file = next((tmp_path / "copy").rglob("wardrobe-train.array_record-00000-of-00001"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    broken = ConfigDict(data.to_dict() | {"data_dir": str(tmp_path / "copy")})
    with pytest.raises(UserError, match="the prepared data is broken .*run: morphism prepare tfds:wardrobe"):
        found = sources.load(broken, "train")
        [found[index] for index in range(len(found))]
