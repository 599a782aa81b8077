"""A small dataset of real images, prepared and read by TFDS itself, without TensorFlow."""

import gzip
import io
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from morphism.commands.prepare import restore_gzip_header
from morphism.data import sources
from morphism.data.fingerprint import fingerprint
from morphism.data.pipeline import train_batches
from morphism.data.sources import tfds as tfds_source
from morphism.errors import UserError
from morphism.experiments.quickstart import get_config


class Garments(tfds.core.GeneratorBasedBuilder):
    """Forty embedded images as PNG."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples("train"), "validation": self._generate_examples("val")}

    def _generate_examples(self, split):
        source = sources.load(get_config().data, split)
        for index in range(40):
            buffer = io.BytesIO()
            Image.fromarray(source[index]["image"]).save(buffer, "PNG")
            buffer.seek(0)
            yield index, {"image": buffer, "label": source[index]["label"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    tfds_source.builder("garments", str(data_dir)).download_and_prepare(file_format="array_record")
    config = get_config()
    config.batch_size = 8
    config.data.update(source="tfds:garments", data_dir=str(data_dir))
    return config


def test_records_are_read_as_they_were_written_without_tensorflow(prepared):
    for split in ("train", "val"):
        source = sources.load(prepared.data, split)
        assert len(source) == 40 and len(source.classes) == 10
        original = sources.load(get_config().data, split)
        found = {
            (np.asarray(Image.open(io.BytesIO(r["image"]))).tobytes(), r["label"])
            for r in map(source.__getitem__, range(40))
        }
        assert found == {(original[i]["image"].tobytes(), original[i]["label"]) for i in range(40)}
    assert "tensorflow" not in sys.modules


def test_labels_are_read_without_a_image(prepared):
    source = sources.load(prepared.data, "train[:50%]")
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [source[index]["label"] for index in range(20)]
    assert "labels" not in pickle.loads(pickle.dumps(source)).__dict__


def test_slices_are_tfds_own(prepared):
    assert len(sources.load(prepared.data, "train[:25%]")) == 10
    assert len(sources.load(prepared.data, "val[30:]")) == len(sources.load(prepared.data, "validation[30:]")) == 10


@pytest.mark.parametrize("part", ["[:7]", "[3:-2]", "[:12.5%]", "[31%:77%]", "[-33%:]", "[1_0:]"])
def test_other_sources_are_cut_as_tfds_cuts(prepared, part):
    scenes = get_config().data
    scenes.source = "scenes:40x32"
    expected = sources.load(prepared.data, f"train{part}")
    assert len(sources.load(scenes, f"train{part}")) == len(expected)
    first = sources.load(scenes, f"train{part}").indices[0]
    assert expected[0]["image"] == sources.load(prepared.data, "train")[int(first)]["image"]


@pytest.mark.parametrize(
    ("own", "known"),
    [
        (("train", "validation", "test"), ("train", "val", "test")),
        (("train", "valid"), ("train", "val")),
        (("dev", "train"), ("val", "train")),
        (("train", "val"), ("train", "val")),
        (("train", "val", "validation"), ("train", "val", "validation")),
        (("train", "test"), ("train", "test")),
    ],
)
def test_val_is_what_the_dataset_itself_calls_it(prepared, own, known, monkeypatch):
    real = tfds_source.prepared_builder("garments", prepared.data.data_dir)
    splits = {name: real.info.splits["train"] for name in own}
    fake = SimpleNamespace(info=SimpleNamespace(splits=splits))
    monkeypatch.setattr(tfds_source, "prepared_builder", lambda *_: fake)
    assert tfds_source.splits("garments", "") == known
    if "val" in known:
        expected = own[known.index("val")]
        assert tfds_source.split_of("garments", "val", "") == expected


def test_a_fingerprint_reads_no_record(prepared, monkeypatch):
    source = sources.load(prepared.data, "train")
    monkeypatch.setattr(tfds_source.Tfds, "_read", None)
    whole, part = fingerprint(source), fingerprint(sources.load(prepared.data, "train[:50%]"))
    assert (whole["records"], part["records"]) == (40, 20) and whole["sha256"] != part["sha256"]


def test_a_worker_reads_what_this_process_reads(prepared):
    source = sources.load(prepared.data, "train")
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    assert copy[7]["image"] == source[7]["image"]
    batches = list(train_batches(source, prepared, start_step=0, stop_step=7))
    assert sorted(np.concatenate([b["id"] for b in batches[:5]])) == list(range(40))


def test_what_is_not_array_record_is_refused_with_the_remedy(tmp_path):
    tfds.builder("garments", data_dir=tmp_path, file_format="array_record").download_and_prepare()
    info = next(tmp_path.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    config = get_config()
    config.data.update(source="tfds:garments", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="prepared as tfrecord.*morphism prepare tfds:garments"):
        sources.load(config.data, "train")


@pytest.mark.parametrize("how", ["delete", "cut", "empty"])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "garments-train.array_record-00000-of-00001"])
def test_half_prepared_data_is_refused_with_the_remedy_or_not_needed(prepared, tmp_path, name, how):
    shutil.copytree(prepared.data.data_dir, tmp_path / "copy")
    file = next((tmp_path / "copy").rglob(name))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2 if how == "cut" else 0])
    if how == "delete":
        file.unlink()
    config = get_config()
    config.data.update(source="tfds:garments", data_dir=str(tmp_path / "copy"))
    try:
        source = sources.load(config.data, "train")
        assert len([source[i] for i in range(len(source))]) == 40 and name == "features.json"
    except UserError as error:
        remedy = f"run: morphism prepare tfds:garments --data_dir {tmp_path}/copy"
        assert str(error).endswith(remedy) and len(str(error).splitlines()) == 1


def test_data_that_was_not_prepared_to_the_end_is_not_prepared(prepared, tmp_path):
    whole = next(Path(prepared.data.data_dir).rglob("1.0.0"))
    shutil.copytree(whole, tmp_path / "garments" / "incomplete.9J0A47_1.0.0")
    config = get_config()
    config.data.update(source="tfds:garments", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="1.0.0: tfds:garments is not prepared there; run: morphism prepare"):
        sources.load(config.data, "train")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train[:abc]", "Error parsing split.*write a split as train"),
        ("train[", "Error parsing split"),
        ("train[90%:10%]", "no records in its split"),
        ("val[0:0]", "no records in its split"),
        ("trian", "has no split 'trian', it has train, val"),
    ],
)
def test_a_split_that_is_none_is_named(prepared, split, message):
    with pytest.raises(UserError, match=f"^tfds:garments.*{message}"):
        sources.load(prepared.data, split)


def test_debians_fashion_mnist_becomes_the_published_file_again():
    published = gzip.compress(b"labels", mtime=1504176606)
    published = published[:3] + b"\x08" + published[4:10] + b"train-labels-idx1-ubyte\0" + published[10:]
    debians = published[:3] + b"\x00" + b"\x01\x02\x03\x04" + published[8:10] + published[10 + 24 :]
    assert gzip.decompress(debians) == b"labels"
    assert restore_gzip_header("train-labels-idx1-ubyte.gz", debians) == published
    assert restore_gzip_header("train-labels-idx1-ubyte.gz", published) == published
    assert restore_gzip_header("other.gz", debians) == debians
