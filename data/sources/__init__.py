"""Where records come from: `load(config.data, split)` opens the source "kind:argument" with random access.

A format is one file in this folder, named after its kind, with two functions:

    splits(argument, data_dir) -> the names of the splits that it holds
    load(argument, split, data_dir) -> Source

and, where the classes are known before the data is there, classes(argument, data_dir) -> their names. So adding a
format is adding a file.

A source of boxes has no `labels`. It has `category_ids` (what the dataset calls the classes), `image_ids` (what it
calls the records), `sizes` (height and width of each picture as decoded, int32 [n,2]), `annotations(index)` (without
reading the picture), `box_counts` (of each record, see data/annotations.py: Store) and `oddities` (one line of what was
odd about its boxes, or ""). A source of masks has `image_ids`, `sizes` and `oddities`.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from errors import UserError, check_choice

if TYPE_CHECKING:
    from data.annotations import Annotations

# image: encoded bytes, or uint8 pixels [H,W] or [H,W,3]; name: what an error calls the record; label: the class, or
# annotations: data.annotations.Annotations, or segmentation: uint8 [H,W], the class of a pixel, 255 for none.
Record = dict[str, Any]


class Source(Protocol):
    """Random access to records. It is pickled to worker processes: hold paths, not open files or arrays of data."""

    classes: Sequence[str]

    @property
    def labels(self) -> Int[np.ndarray, "records"]:
        """The class of every record, int32, without decoding a picture; TFDS reads all its files for it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@dataclass(frozen=True)
class Subset:
    """The records of `source` at `indices`, in that order."""

    source: Source
    indices: np.ndarray

    @property
    def classes(self) -> Sequence[str]:
        return self.source.classes

    @cached_property
    def labels(self) -> Int[np.ndarray, "records"]:
        return self.source.labels[self.indices]

    @property
    def category_ids(self) -> Sequence[int]:
        return self.source.category_ids

    @property
    def image_ids(self) -> np.ndarray:
        return np.asarray(self.source.image_ids)[self.indices]

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        return self.source.sizes[self.indices]

    @property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        return self.source.box_counts[self.indices]

    @property
    def oddities(self) -> str:
        return self.source.oddities

    def annotations(self, index: int) -> "Annotations":
        return self.source.annotations(int(self.indices[index]))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.indices[index])]


def load(data: ConfigDict, split: str) -> Source:
    """Opens `data.source`, such as "embedded", "tfds:fashion_mnist" or "folder:/pictures", at `split`.

    With `data.val_fraction` > 0, "train" and "val" are both cut from the source's train split: a permutation seeded by
    `data.split_seed` gives its first val_fraction * len records, rounded, to "val" and the rest to "train".
    Raises UserError for an unknown kind or split, and for data that is missing or broken.
    """
    spec, val_fraction, data_dir = data.source, data.val_fraction, data.data_dir
    module, argument = _format(spec)
    available = module.splits(argument, data_dir)
    if val_fraction > 0 and split in ("train", "val"):
        if "train" not in available:
            raise UserError(f"{spec} has no train split to cut config.data.val_fraction from")
        return _cut(module.load(argument, "train", data_dir), spec, split, val_fraction, data.split_seed)
    if split.partition("[")[0] not in available:
        hint = "; to cut one from train, set config.data.val_fraction" if split == "val" else ""
        raise UserError(f"{spec} has no split {split!r}, it has {', '.join(available)}{hint}")
    source = module.load(argument, split, data_dir)
    if len(source) == 0:
        raise UserError(f"{spec} has no records in its split {split!r}")
    return source


def classes(data: ConfigDict) -> Sequence[str]:
    """The names of the classes of `data.source`. Raises UserError where only data that is missing could tell."""
    module, argument = _format(data.source)
    known = getattr(module, "classes", None)
    return known(argument, data.data_dir) if known else load(data, data.train_split).classes


def name_of(source: Source, index: int) -> str:
    """What an error calls the record, also where it cannot be read."""
    try:
        return source[index]["name"]
    except UserError:
        return f"record {index}"


def _format(spec: str) -> tuple[ModuleType, str]:
    """The module of "kind:argument" and the argument."""
    kind, _, argument = spec.partition(":")
    check_choice("config.data.source", kind, [module.name for module in pkgutil.iter_modules(__path__)])
    return importlib.import_module(f"data.sources.{kind}"), argument


def _cut(source: Source, spec: str, split: str, val_fraction: float, split_seed: int) -> Source:
    held_out = round(val_fraction * len(source))
    if not 0 < held_out < len(source):
        raise UserError(
            f"config.data.val_fraction={val_fraction} of {spec}'s {len(source)} records leaves a split empty"
        )
    order = np.random.default_rng(split_seed).permutation(len(source))
    return Subset(source, np.sort(order[:held_out] if split == "val" else order[held_out:]))
