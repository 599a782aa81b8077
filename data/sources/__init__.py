"""Opens sources: `load(config.data, split)` opens "kind:argument" with random access.

Each kind is one file in this folder, with two functions:

    splits(argument, data_dir) -> the names of the splits that it holds
    load(argument, split, data_dir) -> Source

and, if the classes are known before the data is there, or quickly, classes(argument, data_dir) -> their names. So a new
format is a new file. With LAYOUT and `seen` (data/layouts.py) it is found by the path alone. A kind whose `load` itself
understands slices, such as "train[:6%]", has SLICES = True. A kind whose masks of objects take time to read has
MASKS = True: its `load` has a further argument, `masks`, and if that is False its records have none. A kind without an
argument has ALONE = True.

data/records.py says what a source offers.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from morphism.data.derived import Subset, used_classes
from morphism.data.derived import with_classes as with_classes
from morphism.data.kinds import kinds, module_of
from morphism.data.layouts import VALIDATION as VALIDATION
from morphism.data.recognise import is_path as is_path
from morphism.data.recognise import recognise
from morphism.data.records import Source, names
from morphism.errors import UserError, check_choice, did_you_mean

BOUND = r"(-?\d+(?:_\d+)*|-?\d+(?:\.\d+)?%)?"
SLICE = re.compile(rf"[^\[]*\[{BOUND}:{BOUND}\]")
FORMS = "write a split as train, train[:90%] or train[100:200]"


def load(data: ConfigDict, split: str) -> Source:
    """Opens `data.source`, such as "embedded", "tfds:fashion_mnist", "folder:/images" or a path alone, at `split`.

    `split` is a name or a slice: "train[:6%]", "train[100:200]", "train[-50:]", in the source's own order, with shares
    rounded to the nearest record, as in TFDS. "val", "validation", "valid" and "dev" mean the same split.

    Masks of objects, which take time to read, are read only where `data.targets` has "masks".

    With `data.val_fraction` > 0, "train" and "val" are both cut from the source's train split: see `held_out`.
    Raises UserError for an unknown kind or split, and for data that is missing or broken.
    """
    spec, data_dir = data.source, data.data_dir
    module, argument = _format(spec)
    available = module.splits(argument, data_dir)
    options = {"masks": "masks" in data.get("targets", ())} if getattr(module, "MASKS", False) else {}
    name, bracket, _ = split.partition("[")
    if data.val_fraction > 0 and name in ("train", "val"):
        if "train" not in available:
            raise UserError(f"{spec} has no train split to cut config.data.val_fraction from")
        whole = module.load(argument, "train", data_dir, **options)
        source = _cut(whole, spec, name, data.val_fraction, data.split_seed)
    else:
        own = _own(name, available)
        if own not in available:
            hint = {
                "val": "; to cut one from train, set config.data.val_fraction",
                "train": f"; rename one, or train on one with --config.data.train_split={available[0]}",
            }.get(name, "")
            raise UserError(f"{spec} has no split {name!r}, it has {', '.join(available)}{hint}")
        if bracket and getattr(module, "SLICES", False):
            return module.load(argument, own + split.removeprefix(name), data_dir, **options)
        source = module.load(argument, own, data_dir, **options)
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


def within(spec: str, data_dir: str, masks: bool = False) -> ConfigDict:
    """The fields of config.data for `load` of a source within another one. masks: whether to read masks of objects."""
    targets = ("masks",) if masks else ()
    return ConfigDict({"source": spec, "data_dir": data_dir, "val_fraction": 0.0, "split_seed": 0, "targets": targets})


def has_split(data: ConfigDict, split: str) -> bool:
    """Whether `data.source` itself has `split`, which may be a slice, so that it need not be cut from train."""
    available = splits(data)
    return _own(split.partition("[")[0], available) in available


def check_kind(spec: str) -> None:
    """Raises UserError if `data.source` is of no kind that there is; does not look for the data."""
    _format(spec)


def classes(data: ConfigDict) -> Sequence[str]:
    """The names of the classes of `data.source`. Raises UserError if they are unknown without data that is missing."""
    module, argument = _format(data.source)
    known = getattr(module, "classes", None)
    return known(argument, data.data_dir) if known else load(data, data.train_split).classes


@dataclass(frozen=True)
class Classes:
    """The classes of `data.source`, read only when they are asked for: those of its main target, and of each target."""

    data: ConfigDict

    @property
    def classes(self) -> Sequence[str]:
        return classes(self.data)

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return load(self.data, self.data.train_split).targets


def held_out(names: Sequence[bytes], fraction: float, seed: int) -> np.ndarray:
    """Whether each record belongs to "val", bool [n]: its name, hashed with `seed` to 0..1, lies below `fraction`.

    So each record is drawn separately: adding or removing others does not move it, and records with one name stay
    together. The fraction is met on average. If a side would be empty, the record with the nearest hash moves there.
    """
    draws = _draws(names, seed)
    held = draws < fraction
    if not held.any():
        return draws == draws.min()
    return draws < draws.max() if held.all() else held


def _draws(names: Sequence[bytes], seed: int) -> Float[np.ndarray, "n"]:
    """For each name a pseudo-random number in 0..1, from its hash."""
    salted = hashlib.blake2b(f"{seed}:".encode(), digest_size=8)
    digests = bytearray()
    for name in names:
        hashed = salted.copy()
        hashed.update(name)
        digests += hashed.digest()
    return np.frombuffer(bytes(digests), "<u8") / 2.0**64


def _cut(source: Source, spec: str, split: str, fraction: float, seed: int) -> Source:
    held = held_out(names(source), fraction, seed)
    if not 0 < round(fraction * len(source)) < len(source) or not held.any() or held.all():
        raise UserError(too_few(fraction, len(source), spec))
    return Subset(source, np.flatnonzero(held == (split == "val")))


def too_few(fraction: float, count: int, spec: str) -> str:
    """What is wrong with cutting a share of so few records."""
    return (
        f"config.data.val_fraction={fraction} of {spec}'s {count} records leaves a split empty; add images, or "
        "validate on those that are trained on with --config.data.val_fraction=0 --config.data.val_split=train"
    )


def _slice(split: str, count: int, spec: str) -> Int[np.ndarray, "records"]:
    """The positions that "train[from:to]" selects of `count` records."""
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
    """Reports classes of a source of files that have no record in this part of it; "" if there are none."""
    if not hasattr(part.source, "files") or not len(part):
        return ""
    lost = sorted(set(used_classes(part.source)) - set(used_classes(part)))
    if not lost:
        return ""
    return (
        f"odd split: {split} has no record of {len(lost):,} of the {len(part.classes):,} classes, first "
        f"{part.classes[lost[0]]} (a slice is taken in the order of the files)"
    )


def in_one_split(data: ConfigDict) -> bool:
    """Whether the records of config.data.train_split and those of val_split are the same."""
    available = splits(data)
    train, val = (each.partition("[") for each in (data.train_split, data.val_split))
    return data.val_fraction == 0 and (_own(train[0], available), *train[1:]) == (_own(val[0], available), *val[1:])


def _own(name: str, available: Sequence[str]) -> str:
    """The name in `available` of the split `name`; the validation split has several."""
    return name if name in available or name not in VALIDATION else validation(available)


def validation(available: Sequence[str]) -> str:
    """The name of the validation split in `available`, or "val"."""
    return next((name for name in VALIDATION if name in available), "val")


def _format(spec: str) -> tuple[ModuleType, str]:
    """The module of "kind:argument" and the argument."""
    if not spec:
        raise UserError("config.data.source is empty: give your data, such as --config.data.source=PATH")
    kind, colon, argument = full_spec(spec).partition(":")
    if not colon and kind not in kinds():  # meant as a path, or as a kind
        near = did_you_mean(kind, kinds())
        raise UserError(f"{spec}: no such file or folder, and none of {', '.join(sorted(kinds()))}{near}")
    check_choice("config.data.source", kind, kinds())
    return module_of(kind), argument


def full_spec(spec: str) -> str:
    """`spec` with its kind, which is recognised where it is a path alone. Raises UserError as `recognise` does."""
    return recognise(spec).source if is_path(spec) else spec
