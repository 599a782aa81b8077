"""`tfds:<name>`: a TensorFlow Datasets dataset prepared as ArrayRecord, read without TensorFlow.

`<name>` is TFDS's own, with config and version where wanted ("fashion_mnist", "imagenet2012:5.1.0"); splits are TFDS's,
slices such as "train[:90%]" included, and "val" is understood as its "validation". Prepare the data once with

    python -m data.prepare tfds:<name>
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from data.sources import Record
from errors import UserError, did_you_mean


@dataclass(frozen=True)
class Tfds:
    """The records are opened on first use, in the process that reads them."""

    name: str
    split: str
    data_dir: str
    classes: Sequence[str]

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

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_records", "labels")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        try:
            record = self._records[index]
            if record["label"] is None:  # what ArrayRecord gives for a record that it cannot read
                raise EOFError(f"record {index} of {self.split} is missing or cut off")
            image, label = record["image"], int(record["label"])
        except UserError:
            raise
        except Exception as error:
            raise self._broken(error) from error
        return {"image": image, "label": label, "name": f"tfds:{self.name}/{self.split}, record {index}"}

    def _broken(self, error: Exception) -> UserError:
        folder = builder(self.name, self.data_dir).data_dir
        return UserError(
            f"{folder}: the prepared data is broken ({str(error).strip().splitlines()[0]}); "
            f"remove the folder and run: {_remedy(self.name, self.data_dir)}"
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
    except Exception as error:  # an unknown configuration or version, a package that is missing, a broken description
        reason = str(error).strip().splitlines()[0].removesuffix(".")
        raise UserError(
            f"tfds:{name}: {reason}; if its prepared data is broken, remove it and run: {_remedy(name, data_dir)}"
        ) from error


def prepared_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of a dataset that lies on disk. Raises UserError where it was not prepared, or not as ArrayRecord."""
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
    names = tuple(prepared_builder(argument, data_dir).info.splits)
    return tuple("val" if name == "validation" else name for name in names)


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    """The builder knows them, whether or not its data was prepared."""
    features = builder(argument, data_dir).info.features
    if "image" not in features or "label" not in features or not hasattr(features["label"], "names"):
        raise UserError(f"tfds:{argument} has no 'image' with a class 'label'; its features are {', '.join(features)}")
    return tuple(features["label"].names)


def load(argument: str, split: str, data_dir: str) -> Tfds:
    info = prepared_builder(argument, data_dir).info
    names = classes(argument, data_dir)
    if split.partition("[")[0] == "val":
        split = "validation" + split.removeprefix("val")
    try:
        count = info.splits[split].num_examples
    except (ValueError, KeyError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"tfds:{argument}: {reason}; write a split as train, train[:90%] or train[100:200]") from error
    if count <= 0:
        raise UserError(f"tfds:{argument} has no records in its split {split!r}")
    return Tfds(argument, split, data_dir, names)


def _remedy(name: str, data_dir: str) -> str:
    return f"python -m data.prepare tfds:{name}" + (f" --data_dir {data_dir}" if data_dir else "")
