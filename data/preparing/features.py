"""What TFDS knows of a prepared dataset: its features, how records are serialised, and the files that describe it.

    image           Image [h,w,3]
    name            Text
    label           ClassLabel; -1 without one
    objects         Sequence of bbox (ymin, xmin, ymax, xmax as shares of the sides), label, is_crowd, is_difficult,
                    area in square pixels, and with masks their run lengths as in COCO's JSON, "" where unknown
    segmentation    LabeledImage; 255 is ignored

A dataset has the features of its targets. TFDS's numbers are float32; exact ones are in the tables (tables.py).
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from morphism.data.annotations import NO_OBJECTS
from morphism.data.outlines import Outlines
from morphism.data.preparing.scaling import Stored
from morphism.data.targets import label
from morphism.labels import IGNORE

FORMAT = "array_record"
VERSION = "1.0.0"


def features(targets: Mapping[str, Sequence[str]]) -> tfds.features.FeaturesDict:
    kinds = tfds.features
    found = {"image": kinds.Image(shape=(None, None, 3)), "name": kinds.Text()}
    if "label" in targets:
        found["label"] = kinds.ClassLabel(names=_distinct(targets["label"]))
    if "boxes" in targets:
        objects = {
            "bbox": kinds.BBoxFeature(),
            "label": kinds.ClassLabel(names=_distinct(targets["boxes"])),
            "is_crowd": np.bool_,
            "is_difficult": np.bool_,
            "area": np.float32,
        }
        found["objects"] = kinds.Sequence(objects | ({"mask": kinds.Text()} if "masks" in targets else {}))
    if "segmentation" in targets:
        names = _distinct(targets["segmentation"])
        found["segmentation"] = kinds.LabeledImage(labels=names, shape=(None, None, 1))
    return kinds.FeaturesDict(found)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names with their number where one occurs twice, as TFDS requires."""
    return [f"{name} ({k})" if list(names).count(name) > 1 else name for k, name in enumerate(names)]


class Serializer:
    """Serialises records as TFDS does."""

    def __init__(self, targets: Mapping[str, Sequence[str]]):
        self._targets = tuple(targets)
        self._serializer = ExampleSerializer(features(targets).get_serialized_info())

    def __call__(self, name: bytes, stored: Stored, truths: Mapping[str, Any]) -> bytes:
        example: dict[str, Any] = {"image": stored.image, "name": name}
        if "label" in self._targets:
            example["label"] = truths.get("label", label.UNKNOWN)
        if "boxes" in self._targets:
            example["objects"] = self._objects(stored, truths)
        if "segmentation" in self._targets:
            example["segmentation"] = _png(truths.get("segmentation", np.full(stored.size, IGNORE, np.uint8)))
        return self._serializer.get_tf_example(example).SerializeToString(deterministic=True)

    def _objects(self, stored: Stored, truths: Mapping[str, Any]) -> dict[str, np.ndarray]:
        objects, (height, width) = truths.get("annotations", NO_OBJECTS), stored.size
        shares = objects.boxes[:, [1, 0, 3, 2]] / np.array([height, width, height, width], np.float32)
        found = {
            "bbox": np.clip(shares, 0, 1).astype(np.float32),
            "label": objects.classes.astype(np.int64),
            "is_crowd": objects.crowd,
            "is_difficult": objects.difficult,
            "area": objects.area.astype(np.float32),
        }
        if "masks" in self._targets:
            masks = truths.get("masks", Outlines.of([None] * len(objects)))
            found["mask"] = np.array([masks[row] for row in range(len(objects))], object)
        return found


def _png(classes: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(classes)).save(encoded, "PNG")
    return encoded.getvalue()


def shard_name(dataset: str, split: str, shard: int, shards: int) -> str:
    """TFDS's name of a file."""
    return f"{dataset}-{split}.{FORMAT}-{shard:05d}-of-{shards:05d}"


def describe(
    folder: Path,
    dataset: str,
    targets: Mapping[str, Sequence[str]],
    splits: Mapping[str, Sequence[tuple[int, int]]],
    description: str,
) -> None:
    """Writes dataset_info.json, features.json and the names of classes. splits: records and bytes of each shard."""
    identity = DatasetIdentity(name=dataset, version=tfds.core.Version(VERSION), data_dir=str(folder), module_name="")
    info = tfds.core.DatasetInfo(builder=identity, features=features(targets), description=description)
    info.set_file_format(FORMAT)
    found = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[records for records, _ in shards],
            num_bytes=sum(size for _, size in shards),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=folder, dataset_name=dataset, split=split, filetype_suffix=FORMAT
            ),
        )
        for split, shards in splits.items()
    ]
    info.set_splits(tfds.core.splits.SplitDict(found))
    info.write_to_directory(folder)
