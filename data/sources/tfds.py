"""`tfds:<name>`: a dataset of TensorFlow Datasets, prepared as ArrayRecord and read without TensorFlow.

Datasets with a `label` are for classification, those with `objects` (voc/2007, coco/2017) have boxes; those with masks
are read by data/sources/tfds_masks.py.

`<name>` is TFDS's own, optionally with config and version ("fashion_mnist", "imagenet2012:5.1.0"). Splits are TFDS's,
including slices such as "train[:90%]". "val" is the first that the dataset has of "val", "validation", "valid" and
"dev". Prepare the data once with

    morphism prepare tfds:<name>
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from morphism.data import image
from morphism.data.annotations import Annotations, Store, pack
from morphism.data.records import Record
from morphism.data.sources import FORMS, validation
from morphism.data.sources.coco import CATEGORY_IDS as COCO_IDS
from morphism.errors import UserError, did_you_mean

SLICES = True


@dataclass(frozen=True)
class Tfds:
    """The records are opened on first use, in the process that reads them."""

    name: str
    split: str
    data_dir: str
    classes: Sequence[str]

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"label": self.classes}

    @cached_property
    def _records(self) -> Any:
        decoders = {"image": tfds.decode.SkipDecoding()}
        found = prepared_builder(self.name, self.data_dir)
        try:
            return found.as_data_source(split=self.split, decoders=decoders)
        except Exception as error:  # ArrayRecord's readers raise whatever lost or cut files lead them to
            raise self._broken(error) from error

    @cached_property
    def labels(self) -> Int[np.ndarray, "records"]:
        return np.array([self[index]["label"] for index in range(len(self))], np.int32)

    @property
    def version(self) -> str:
        """Name, version and lengths of the shards: identifies the data without reading all records."""
        info = prepared_builder(self.name, self.data_dir).info
        return f"{info.full_name} {info.splits[self.split.partition('[')[0]].shard_lengths}"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_records", "labels", "_survey")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._read(index, "label")
        return {"image": record["image"], "label": int(record["label"]), "name": self._name(index)}

    def _read(self, index: int, field: str) -> dict[str, Any]:
        """TFDS's record. Raises UserError if it cannot be read or lacks `field`."""
        try:
            record = self._records[index]
            if record[field] is None:  # ArrayRecord returns this for a record that it cannot read
                raise EOFError(f"record {index} of {self.split} is missing or cut off")
            return record
        except UserError:
            raise
        except Exception as error:
            raise self._broken(error) from error

    def _name(self, index: int) -> str:
        return f"tfds:{self.name}/{self.split}, record {index}"

    def _broken(self, error: Exception) -> UserError:
        folder = builder(self.name, self.data_dir).data_dir
        return UserError(
            f"{folder}: the prepared data is broken ({str(error).strip().splitlines()[0]}); "
            f"remove the folder and run: {_remedy(self.name, self.data_dir)}"
        )


@dataclass(frozen=True)
class TfdsBoxed(Tfds):
    """A dataset with boxes, in the field `field` of its records, which are read with a record.

    `sizes`, `image_ids`, `store` and `oddities` read the whole split, once.
    """

    kind: ClassVar[str] = "tfds"
    field: ClassVar[str]

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"boxes": self.classes}

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        return self._survey[0]

    @property
    def image_ids(self) -> np.ndarray:
        return self._survey[1]

    @property
    def store(self) -> Store:
        return self._survey[2]

    @property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        return self.store.box_counts

    @property
    def oddities(self) -> str:
        return self.store.oddities

    def __getstate__(self) -> dict[str, Any]:
        """Includes `sizes`, 8 bytes per record, so that worker processes need not read the whole split for them."""
        return super().__getstate__() | {"sizes": self.sizes}

    def annotations(self, index: int) -> Annotations:
        return self._boxes([index], [self._read(index, self.field)]).flat

    @cached_property
    def _survey(self) -> tuple[np.ndarray, np.ndarray, Store]:
        """Sizes, the dataset's own ids of the images (positions if it has none), and all boxes."""
        heads = [self._head(index) for index in range(len(self))]
        store = self._boxes(range(len(self)), heads, where=f"{self.kind}:{self.name}/{self.split}")
        sizes = np.array([head["size"] for head in heads], np.int32)
        return sizes, np.array([head["id"] for head in heads]), store

    def _head(self, index: int) -> dict[str, Any]:
        """The parts of a record that `_boxes` needs, without the image; and its id."""
        record = self._read(index, self.field)
        name = record.get("image/id", record.get("image/filename", index))
        name = name.decode() if isinstance(name, bytes) else name
        return {"size": self._size(index, record), self.field: record[self.field], "id": name}

    def _size(self, index: int, record: dict[str, Any]) -> tuple[int, int]:
        return record["size"] if "size" in record else image.size(record["image"], self._name(index))

    def _boxes(self, indices: Sequence[int], records: Sequence[dict[str, Any]], where: str = "") -> Store:
        """The boxes of these records, or `_head`s; `where` names the split if they are all of it."""
        raise NotImplementedError


@dataclass(frozen=True)
class TfdsDetection(TfdsBoxed):
    """A dataset with `objects`, such as voc/2007 and coco/2017.

    TFDS stores boxes as shares of the image's sides. It converts VOC's pixel indices without subtracting 1 from xmin
    and ymin; this is done here, as in data/sources/voc.py.
    """

    field = "objects"

    @property
    def category_ids(self) -> Sequence[int]:
        coco = self.name.partition("/")[0] == "coco" and len(self.classes) == len(COCO_IDS)
        return COCO_IDS if coco else range(1, len(self.classes) + 1)

    def __getitem__(self, index: int) -> Record:
        record = self._read(index, self.field)
        return {
            "image": record["image"],
            "name": self._name(index),
            "annotations": self._boxes([index], [record]).flat,
        }

    def _boxes(self, indices: Sequence[int], records: Sequence[dict[str, Any]], where: str = "") -> Store:
        sizes = np.array([self._size(*each) for each in zip(indices, records, strict=True)], np.int32)
        objects = [record[self.field] for record in records]
        owner = np.repeat(np.arange(len(objects)), [len(each["label"]) for each in objects])

        def column(field: str, kind: type) -> np.ndarray | None:  # the columns of an image without objects are float
            return np.concatenate([each[field] for each in objects]).astype(kind) if field in objects[0] else None

        boxes = np.concatenate([np.reshape(each["bbox"], (-1, 4)) for each in objects]).astype(np.float64)
        boxes = boxes[:, [1, 0, 3, 2]] * np.tile(sizes[owner][:, ::-1], 2)
        if self.name.partition("/")[0] == "voc":
            boxes -= (1, 1, 0, 0)
        return pack(
            owner,
            boxes,
            column("label", np.int32),
            sizes,
            lambda position: self._name(indices[position]),
            where=where,
            crowd=column("is_crowd", bool),
            difficult=column("is_difficult", bool),
            area=column("area", np.float64),
        )


def builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """TFDS's builder of `name`, reading and writing in `data_dir` (TFDS's default where empty)."""
    if not name:
        raise UserError("config.data.source is 'tfds:' without a name; write tfds:fashion_mnist, for example")
    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        near = did_you_mean(name, tfds.list_builders(with_community_datasets=False))
        raise UserError(f"tfds:{name}: TensorFlow Datasets knows no such dataset{near}") from error
    except Exception as error:  # an unknown configuration or version, a missing package, a broken description
        reason = str(error).strip().splitlines()[0].removesuffix(".")
        raise UserError(
            f"tfds:{name}: {reason}; if its prepared data is broken, remove it and run: {_remedy(name, data_dir)}"
        ) from error


def prepared_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of a dataset on disk. Raises UserError if it was not prepared, or not as ArrayRecord."""
    found = builder(name, data_dir)
    if not found.is_prepared():
        raise UserError(f"{found.data_dir}: tfds:{name} is not prepared there; run: {_remedy(name, data_dir)}")
    file_format = found.info.file_format
    if file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{found.data_dir}: prepared as {file_format.value}, which has no random access; "
            f"remove it and run: {_remedy(name, data_dir)}"
        )
    return found


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    """TFDS's names of the splits, with "val" for the validation split."""
    names = tuple(prepared_builder(argument, data_dir).info.splits)
    return tuple("val" if name == validation(names) else name for name in names)


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    """The names of the classes, which the builder knows even if its data was not prepared."""
    features = builder(argument, data_dir).info.features
    labelled = features["objects"].feature if _has_boxes(features) else features
    if "image" not in features or "label" not in labelled or not hasattr(labelled["label"], "names"):
        raise UserError(
            f"tfds:{argument} has no 'image' with a class 'label', or with 'objects' that have 'bbox' and 'label'; "
            f"its features are {', '.join(features)}"
        )
    return tuple(labelled["label"].names)


def _has_boxes(features: Any) -> bool:
    """Whether the dataset is for detection, which in TFDS means a sequence `objects` of `bbox` and `label`."""
    return "objects" in features and {"bbox", "label"} <= set(getattr(features["objects"], "feature", ()))


def load(argument: str, split: str, data_dir: str) -> Tfds:
    names = classes(argument, data_dir)
    features = prepared_builder(argument, data_dir).info.features
    split = split_of(argument, split, data_dir)
    return (TfdsDetection if _has_boxes(features) else Tfds)(argument, split, data_dir, names)


def split_of(argument: str, split: str, data_dir: str) -> str:
    """TFDS's own name of a split. Raises UserError if the dataset lacks it or has no records in it."""
    info = prepared_builder(argument, data_dir).info
    if split.partition("[")[0] == "val":
        split = validation(tuple(info.splits)) + split.removeprefix("val")
    try:
        count = info.splits[split].num_examples
    except (ValueError, KeyError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"tfds:{argument}: {reason}; {FORMS}") from error
    if count <= 0:
        raise UserError(f"tfds:{argument} has no records in its split {split!r}")
    return split


def _remedy(name: str, data_dir: str) -> str:
    return f"morphism prepare tfds:{name}" + (f" --data_dir {data_dir}" if data_dir else "")
