"""Where records come from: `load(config.data, split)` opens the source "kind:argument" with random access.

A format is one file in this folder, named after its kind, with two functions:

    splits(argument, data_dir) -> the names of the splits that it holds
    load(argument, split, data_dir) -> Source

and, where the classes are known before the data is there, classes(argument, data_dir) -> their names. So adding a
format is adding a file. A format whose `load` itself understands slices, such as "train[:6%]", has SLICES = True.

A source of boxes has no `labels`. It has `category_ids` (what the dataset calls the classes), `image_ids` (what it
calls the records), `sizes` (height and width of each image as decoded, int32 [n,2]), `annotations(index)` (without
reading the image), `box_counts` and mostly `store` (those of all records, see data/annotations.py: Store), `oddities`
(one line of what was odd about its boxes, or ""), and where it matters `by_id`. A source of masks has `image_ids`,
`sizes` and `oddities`. A source of files has `files`, their paths below its root as bytes.
"""

import hashlib
import importlib
import os
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from morphism.errors import UserError, check_choice, did_you_mean

if TYPE_CHECKING:
    from morphism.data.annotations import Annotations, Store
    from morphism.data.masks import Legend

# image: encoded bytes, or uint8 pixels [H,W] or [H,W,3]; name: what an error calls the record; label: the class, or
# annotations: data.annotations.Annotations, or segmentation: uint8 [H,W], the class of a pixel, 255 for none.
Record = dict[str, Any]

VALIDATION = ("val", "validation", "valid", "dev")  # one split under the names that datasets give it
BOUND = r"(-?\d+(?:_\d+)*|-?\d+(?:\.\d+)?%)?"
SLICE = re.compile(rf"[^\[]*\[{BOUND}:{BOUND}\]")
FORMS = "write a split as train, train[:90%] or train[100:200]"
IGNORE = 255  # of `segmentation`


class Source(Protocol):
    """Random access to records. It is pickled to worker processes: hold paths, not open files or arrays of data."""

    classes: Sequence[str]

    @property
    def labels(self) -> Int[np.ndarray, "records"]:
        """The class of every record, int32, without decoding an image; TFDS reads all its files for it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@dataclass(frozen=True)
class View:
    """Another source seen in part or with other classes; what stays the same is here."""

    source: Source

    @property
    def oddities(self) -> str:
        return self.source.oddities

    @property
    def by_id(self) -> bool:
        return self.source.by_id

    @property
    def version(self) -> str:
        return self.source.version

    @property
    def legend(self) -> "Legend":
        return self.source.legend


@dataclass(frozen=True)
class Subset(View):
    """The records of `source` at `indices`, in that order. note: what is odd about this part, "" if nothing."""

    indices: np.ndarray
    note: str = ""

    @property
    def oddities(self) -> str:
        return "; ".join(filter(None, (self.note, getattr(self.source, "oddities", ""))))

    @property
    def classes(self) -> Sequence[str]:
        return self.source.classes

    @property
    def category_ids(self) -> Sequence[int]:
        return self.source.category_ids

    @cached_property
    def labels(self) -> Int[np.ndarray, "records"]:
        return self.source.labels[self.indices]

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        return self.source.sizes[self.indices]

    @property
    def image_ids(self) -> np.ndarray:
        return np.asarray(self.source.image_ids)[self.indices]

    @property
    def files(self) -> np.ndarray:
        return self.source.files[self.indices]

    @property
    def mask_stamps(self) -> Int[np.ndarray, "records"]:
        return self.source.mask_stamps[self.indices]

    @property
    def store(self) -> "Store":
        return self.source.store.take(self.indices)

    @property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        return self.source.box_counts[self.indices]

    def annotations(self, index: int) -> "Annotations":
        return self.source.annotations(int(self.indices[index]))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.indices[index])]


@dataclass(frozen=True)
class Mapped(View):
    """The records of `source` with `classes` in place of its own: class k of its own is class table[k] here.

    `table` has -1 for those classes of the source that none of its records is of.
    """

    classes: Sequence[str]
    table: Int[np.ndarray, "own"]

    @property
    def category_ids(self) -> Sequence[int | None]:
        """What the dataset calls each class; None for one that it does not have."""
        ids: list[int | None] = [None] * len(self.classes)
        for position, own in zip(self.table.tolist(), self.source.category_ids, strict=True):
            if position >= 0:
                ids[position] = own
        return ids

    @cached_property
    def labels(self) -> Int[np.ndarray, "records"]:
        return self.table[self.source.labels]

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        return self.source.sizes

    @property
    def image_ids(self) -> Sequence[int | str]:
        return self.source.image_ids

    @property
    def files(self) -> np.ndarray:
        return self.source.files

    @property
    def store(self) -> "Store":
        return replace(self.source.store, flat=self._mapped(self.source.store.flat))

    @property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        return self.source.box_counts

    def annotations(self, index: int) -> "Annotations":
        return self._mapped(self.source.annotations(index))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = dict(self.source[index])
        if "label" in record:
            record["label"] = int(self.table[record["label"]])
        if "annotations" in record:
            record["annotations"] = self._mapped(record["annotations"])
        elif "segmentation" in record:
            record["segmentation"] = self._of_pixels[record["segmentation"]]
        return record

    def _mapped(self, annotations: "Annotations") -> "Annotations":
        return replace(annotations, classes=self.table[annotations.classes])

    @cached_property
    def _of_pixels(self) -> np.ndarray:
        table = np.full(IGNORE + 1, IGNORE, np.uint8)
        table[: len(self.table)] = self.table
        return table


def load(data: ConfigDict, split: str) -> Source:
    """Opens `data.source`, such as "embedded", "tfds:fashion_mnist" or "folder:/images", at `split`.

    `split` is a name or a slice: "train[:6%]", "train[100:200]", "train[-50:]", in the source's own order, with shares
    rounded to the nearest record, as TFDS cuts them. "val", "validation", "valid" and "dev" are one.

    With `data.val_fraction` > 0, "train" and "val" are both cut from the source's train split: see `held_out`.
    Raises UserError for an unknown kind or split, and for data that is missing or broken.
    """
    spec, data_dir = data.source, data.data_dir
    module, argument = _format(spec)
    available = module.splits(argument, data_dir)
    name, bracket, _ = split.partition("[")
    if data.val_fraction > 0 and name in ("train", "val"):
        if "train" not in available:
            raise UserError(f"{spec} has no train split to cut config.data.val_fraction from")
        source = _cut(module.load(argument, "train", data_dir), spec, name, data.val_fraction, data.split_seed)
    else:
        own = _own(name, available)
        if own not in available:
            hint = "; to cut one from train, set config.data.val_fraction" if name == "val" else ""
            raise UserError(f"{spec} has no split {name!r}, it has {', '.join(available)}{hint}")
        if bracket and getattr(module, "SLICES", False):
            return module.load(argument, own + split.removeprefix(name), data_dir)
        source = module.load(argument, own, data_dir)
    if bracket:
        part = Subset(source, _slice(split, len(source), spec))
        source = replace(part, note=_without_classes(part, split))
    if len(source) == 0:
        raise UserError(f"{spec} has no records in its split {split!r}")
    return source


def splits(data: ConfigDict) -> Sequence[str]:
    """The names of the splits of `data.source`."""
    module, argument = _format(data.source)
    return module.splits(argument, data.data_dir)


def has_split(data: ConfigDict, split: str) -> bool:
    """Whether `data.source` itself has `split`, which may be a slice: it need not be cut from the train split."""
    available = splits(data)
    return _own(split.partition("[")[0], available) in available


def classes(data: ConfigDict) -> Sequence[str]:
    """The names of the classes of `data.source`. Raises UserError where only data that is missing could tell."""
    module, argument = _format(data.source)
    known = getattr(module, "classes", None)
    return known(argument, data.data_dir) if known else load(data, data.train_split).classes


def with_classes(source: Source, classes: Sequence[str], where: str) -> Source:
    """`source` with the classes that a model was trained on, by which it is judged.

    Classes are the same where their names are, whatever their order and numbers; of a source whose classes are ids
    (`by_id`) where both are. The source may lack some, and may list more if no record is of them; of masks, which are
    read one by one, it may list none. Raises UserError, with `where` for the source, for a class that is not known.
    """
    own, by_id = source.classes, getattr(source, "by_id", False)
    if tuple(own) == tuple(classes):
        return source
    known = {(position if by_id else None, name): position for position, name in enumerate(classes)}
    table = [known.get((position if by_id else None, name), -1) for position, name in enumerate(own)]
    if min(table) < 0:
        unknown = [own[k] for k in _used(source) if table[k] < 0]
        if unknown:
            numbered = ", under the same category id; coco: goes by names alone" if by_id else ""
            raise UserError(
                f"{where}: its {', '.join(unknown)[:200]} is none of the classes trained on "
                f"({', '.join(classes)[:200]}){did_you_mean(unknown[0], classes)}; rename it there, or remove what is "
                f"of it{numbered}"
            )
    return Mapped(source, tuple(classes), np.array(table, np.int32))


def names(source: Source) -> list[bytes]:
    """Of each record a name that does not change when others are added or removed.

    A file's path below the source's root; else the dataset's own id; else, where it has none, the position.
    """
    files = getattr(source, "files", None)
    if files is not None:
        return files.tolist()
    return [
        str(each).encode(errors="surrogatepass")
        for each in np.asarray(getattr(source, "image_ids", range(len(source)))).tolist()
    ]


def name_of(source: Source, index: int) -> str:
    """What an error calls the record, also where it cannot be read."""
    try:
        return source[index]["name"]
    except UserError:
        return f"record {index}"


def held_out(names: Sequence[bytes], fraction: float, seed: int) -> np.ndarray:
    """Which records are "val", bool [n]: those whose name's hash, salted by `seed`, is in the first `fraction` of all.

    So each record is drawn for itself, and adding or removing others moves it nowhere; records of one name stay
    together. The fraction is met on average. Where it would leave a side without records, the nearest hash changes it.
    """
    draws = _draws(names, seed)
    held = draws < fraction
    if not held.any():
        return draws == draws.min()
    return draws < draws.max() if held.all() else held


def _draws(names: Sequence[bytes], seed: int) -> Float[np.ndarray, "n"]:
    """Of each name a number in 0..1 that looks random, from its hash."""
    salted = hashlib.blake2b(f"{seed}:".encode(), digest_size=8)
    digests = bytearray()
    for name in names:
        hashed = salted.copy()
        hashed.update(name)
        digests += hashed.digest()
    return np.frombuffer(bytes(digests), "<u8") / 2.0**64


def _cut(source: Source, spec: str, split: str, fraction: float, seed: int) -> Source:
    empty = UserError(f"config.data.val_fraction={fraction} of {spec}'s {len(source)} records leaves a split empty")
    if not 0 < round(fraction * len(source)) < len(source):
        raise empty
    held = held_out(names(source), fraction, seed)
    if not held.any() or held.all():
        raise empty
    return Subset(source, np.flatnonzero(held == (split == "val")))


def _slice(split: str, count: int, spec: str) -> Int[np.ndarray, "records"]:
    """The positions, of `count`, that "train[from:to]" names."""
    found = SLICE.fullmatch(split)
    if not found:
        raise UserError(f"{spec}: the split {split!r} is not understood; {FORMS}")

    def position(text: str | None, default: int) -> int:
        if text is None:
            return default
        exact = float(text[:-1]) * count / 100 if text.endswith("%") else int(text)
        if abs(exact) > count:
            raise UserError(f"{spec}: the split {split!r} goes beyond its {count:,} records; {FORMS}")
        return round(exact)

    return np.arange(count)[position(found[1], 0) : position(found[2], count)]


def _without_classes(part: Subset, split: str) -> str:
    """Reports the classes that the whole of a source of files has records of, but not this part of it."""
    if not hasattr(part.source, "files") or not len(part):
        return ""
    lost = sorted(set(_used(part.source)) - set(_used(part)))
    if not lost:
        return ""
    return (
        f"odd split: {split} has no record of {len(lost):,} of the {len(part.classes):,} classes, first "
        f"{part.classes[lost[0]]} (a slice is taken in the order of the files)"
    )


def _own(name: str, available: Sequence[str]) -> str:
    """What the split `name` is called in `available`; the validation split has many names."""
    return name if name in available or name not in VALIDATION else validation(available)


def validation(available: Sequence[str]) -> str:
    """What the validation split is called in `available`, or "val"."""
    return next((name for name in VALIDATION if name in available), "val")


def _used(source: Source) -> Sequence[int]:
    """The classes that records are of, as far as is known without reading their images."""
    if hasattr(source, "store"):
        return np.unique(source.store.flat.classes).tolist()
    return np.unique(source.labels).tolist() if hasattr(source, "labels") else range(len(source.classes))


def _format(spec: str) -> tuple[ModuleType, str]:
    """The module of "kind:argument" and the argument."""
    kind, colon, argument = spec.partition(":")
    kinds = [module.name for module in pkgutil.iter_modules(__path__)]
    if not colon and kind not in kinds and os.path.isdir(spec):
        raise UserError(
            f"config.data.source is {spec!r}, without its kind; write folder:{spec} for a folder per class, or "
            f"another of {', '.join(sorted(kinds))} before the colon"
        )
    check_choice("config.data.source", kind, kinds)
    return importlib.import_module(f"morphism.data.sources.{kind}"), argument
