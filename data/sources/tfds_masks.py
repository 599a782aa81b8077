"""`tfds_masks:<name>`: a dataset of TensorFlow Datasets with masks, read as `tfds:` reads the others.

Known are cityscapes (the 19 classes that are evaluated), oxford_iiit_pet (pet, background; the outline between them,
which the dataset calls "not classified", is ignored) and scene_parse150 (150 classes, whose names TFDS does not know).
Your own dataset needs the features `image` and `segmentation`, a tfds.features.LabeledImage whose numbers are the
classes, and whose 255 is ignored. TFDS's voc has no masks: read its folder with masks:.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int
from PIL import Image

from morphism.data import image
from morphism.data.masks import MAX_CLASSES
from morphism.data.records import Record
from morphism.data.sources.cityscapes import NUMBERS as CITYSCAPES
from morphism.data.sources.tfds import SLICES, Tfds, builder, prepared_builder, split_of, splits
from morphism.errors import UserError
from morphism.labels import IGNORE

__all__ = ["SLICES", "classes", "load", "splits"]


class Known(NamedTuple):
    """The names of the features with images and masks, and the number of each class in masks; others are ignored."""

    image: str
    mask: str
    numbers: Mapping[str, int]


KNOWN = {
    "cityscapes": Known("image_left", "segmentation_label", CITYSCAPES),
    "oxford_iiit_pet": Known("image", "segmentation_mask", {"pet": 1, "background": 2}),
    "scene_parse150": Known("image", "annotation", {f"class {number}": number for number in range(1, 151)}),
}


@dataclass(frozen=True)
class TfdsMasks(Tfds):
    """A dataset with masks; `sizes` reads the whole split, once."""

    oddities = ""

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"segmentation": self.classes}

    @cached_property
    def _records(self) -> Any:
        found = prepared_builder(self.name, self.data_dir)
        known = _known(self.name, self.data_dir)
        decoders = {name: tfds.decode.SkipDecoding() for name in (known.image, known.mask)}
        try:
            return found.as_data_source(split=self.split, decoders=decoders)
        except Exception as error:  # ArrayRecord's readers raise whatever lost or cut files lead them to
            raise self._broken(error) from error

    @cached_property
    def _features(self) -> Known:
        return _known(self.name, self.data_dir)

    @property
    def image_ids(self) -> range:
        return range(len(self))

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        name = self._features.image
        return np.array([image.size(self._read(i, name)[name], self._name(i)) for i in range(len(self))], np.int32)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_records", "_features")}

    def __getitem__(self, index: int) -> Record:
        known = self._features
        record = self._read(index, known.mask)
        name = self._name(index)
        values = _pixels(record[known.mask], name)
        table = np.full(1 << 16, IGNORE, np.uint8)
        table[list(known.numbers.values())] = np.arange(len(known.numbers))
        return {"image": record[known.image], "name": name, "segmentation": table[values]}


def _pixels(encoded: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(encoded)) as mask:
            values = np.asarray(mask)
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        raise UserError(f"{name}: its mask cannot be decoded ({error}); prepare the data again") from error
    return values if values.ndim == 2 else values[..., 0]


def _known(name: str, data_dir: str) -> Known:
    dataset = name.partition("/")[0].partition(":")[0]
    if dataset in KNOWN:
        return KNOWN[dataset]
    features = builder(name, data_dir).info.features
    mask = features["segmentation"] if {"image", "segmentation"} <= set(features) else None
    if not isinstance(mask, tfds.features.LabeledImage):
        raise UserError(
            f"tfds_masks:{name}: what its masks mean is not known; known are {', '.join(KNOWN)}, and datasets with an "
            f"'image' and a 'segmentation' of tfds.features.LabeledImage; its features are {', '.join(features)}"
        )
    if len(mask.names) > MAX_CLASSES:
        raise UserError(
            f"tfds_masks:{name}: has {len(mask.names)} classes; masks hold at most {MAX_CLASSES}, merge some"
        )
    return Known("image", "segmentation", {label: number for number, label in enumerate(mask.names)})


def classes(argument: str, data_dir: str) -> Sequence[str]:
    return tuple(_known(argument, data_dir).numbers)


def load(argument: str, split: str, data_dir: str) -> TfdsMasks:
    split = split_of(argument, split, data_dir)
    source = TfdsMasks(argument, split, data_dir, classes(argument, data_dir))
    if len(source) and not any(_has_classes(source, index) for index in range(len(source))):
        raise UserError(
            f"tfds_masks:{argument}: all pixels of all {len(source):,} masks of {split} are ignored; take another split"
        )
    return source


def _has_classes(source: TfdsMasks, index: int) -> bool:
    """Whether some pixel of the record is not ignored. True for a broken record, reported when it is read."""
    try:
        return bool((source[index]["segmentation"] != IGNORE).any())
    except UserError:
        return True
