"""Sources derived from another one: some of its records, or its records with other classes."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from morphism.data import targets
from morphism.data.annotations import Annotations, Store
from morphism.data.outlines import Outlines
from morphism.data.records import Record, Source, first_target
from morphism.errors import UserError, did_you_mean


def passed_on(name: str) -> property:
    return property(lambda view: getattr(view.source, name))


def _selected(name: str) -> property:
    return property(lambda view: np.asarray(getattr(view.source, name))[view.indices])


@dataclass(frozen=True)
class View:
    """Another source, seen in part or with other classes; this class passes on what stays the same.

    As with any source, what `source` lacks is an AttributeError.
    """

    source: Source

    targets = passed_on("targets")
    oddities = passed_on("oddities")
    by_id = passed_on("by_id")
    version = passed_on("version")
    legend = passed_on("legend")
    weights = passed_on("weights")
    pixel_category_ids = passed_on("pixel_category_ids")


@dataclass(frozen=True)
class Subset(View):
    """The records of `source` at `indices`, in this order. note: what is odd about the selection, "" if nothing."""

    indices: np.ndarray
    note: str = ""

    classes = passed_on("classes")
    category_ids = passed_on("category_ids")
    image_ids = _selected("image_ids")
    files = _selected("files")
    mask_stamps = _selected("mask_stamps")
    box_counts = _selected("box_counts")
    part_of = _selected("part_of")

    @property
    def oddities(self) -> str:
        return "; ".join(filter(None, (self.note, getattr(self.source, "oddities", ""))))

    @cached_property
    def labels(self) -> Int[np.ndarray, "records"]:
        return self.source.labels[self.indices]

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        return self.source.sizes[self.indices]

    @property
    def identity(self) -> str:
        chosen = hashlib.sha256(np.ascontiguousarray(self.indices, np.int64))
        return f"{self.source.identity} {chosen.hexdigest()}"

    @property
    def store(self) -> Store:
        return self.source.store.take(self.indices)

    def annotations(self, index: int) -> Annotations:
        return self.source.annotations(int(self.indices[index]))

    @property
    def masks(self) -> Callable[[int], Outlines]:
        whole = self.source.masks
        return lambda index: whole(int(self.indices[index]))

    def segmentation(self, index: int) -> UInt8[np.ndarray, "h w"]:
        return self.source.segmentation(int(self.indices[index]))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.indices[index])]


@dataclass(frozen=True)
class Mapped(View):
    """The records of `source` with other classes: class k of target t becomes tables[t][k] of names[t].

    Targets without a table keep their classes. A number may be -1 where the source has no record of class k.
    """

    names: Mapping[str, Sequence[str]]
    tables: Mapping[str, Int[np.ndarray, "_"]]

    sizes = passed_on("sizes")
    image_ids = passed_on("image_ids")
    files = passed_on("files")
    box_counts = passed_on("box_counts")
    part_of = passed_on("part_of")
    masks = passed_on("masks")

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {name: self.names.get(name, own) for name, own in self.source.targets.items()}

    @property
    def classes(self) -> Sequence[str]:
        return next(iter(self.targets.values()))

    @property
    def identity(self) -> str:
        tables = {name: each.tolist() for name, each in self.tables.items()}
        return f"{self.source.identity} {json.dumps([list(self.names.items()), tables], allow_nan=False)}"

    @property
    def category_ids(self) -> Sequence[int | str | None]:
        """The dataset's own id of each class; None for a class that it lacks."""
        return self._renumbered("boxes", self.source.category_ids)

    @property
    def pixel_category_ids(self) -> Sequence[int | str | None]:
        """The same of the classes of pixels."""
        return self._renumbered("segmentation", self.source.pixel_category_ids)

    @cached_property
    def labels(self) -> Int[np.ndarray, "records"]:
        own = np.asarray(self.source.labels)
        return np.where(own < 0, own, self.tables["label"][own]) if "label" in self.tables else own

    @property
    def store(self) -> Store:
        return replace(self.source.store, flat=self._mapped("boxes", self.source.store.flat))

    def annotations(self, index: int) -> Annotations:
        return self._mapped("boxes", self.source.annotations(index))

    def segmentation(self, index: int) -> UInt8[np.ndarray, "h w"]:
        return self._mapped("segmentation", self.source.segmentation(index))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = dict(self.source[index])
        for name in self.source.targets:
            key = targets.get(name).KEY
            if key in record:
                record[key] = self._mapped(name, record[key])
        return record

    def _renumbered(self, target: str, own: Sequence[int | str | None]) -> Sequence[int | str | None]:
        if target not in self.tables:
            return own
        ids: list[int | str | None] = [None] * len(self.names[target])
        for position, each in zip(self.tables[target].tolist(), own, strict=True):
            if position >= 0:
                ids[position] = each
        return ids

    def _mapped(self, target: str, truth: Any) -> Any:
        return targets.get(target).mapped(truth, self.tables[target]) if target in self.tables else truth


def column(source: Source, name: str) -> np.ndarray | None:
    """The attribute `name`, one row per record, of the source that `source` is derived from; None if it has none."""
    if isinstance(source, Subset):
        found = column(source.source, name)
        return None if found is None else np.asarray(found)[source.indices]
    return column(source.source, name) if isinstance(source, View) else getattr(source, name, None)


def carried(source: Source, target: str) -> Bool[np.ndarray, "records"]:
    """Which records have the truth of `target`, as far as is known without reading them."""
    if target not in source.targets:
        return np.zeros(len(source), bool)
    if isinstance(source, Subset):
        return carried(source.source, target)[source.indices]
    if hasattr(source, "carries"):
        return source.carries(target)
    given = isinstance(source, View) and target in source.source.targets  # or the source itself makes it
    return carried(source.source, target) if given else np.ones(len(source), bool)


def with_classes(source: Source, classes: Sequence[str] | Mapping[str, Sequence[str]], where: str) -> Source:
    """`source` with its classes numbered as in `classes`, those that a model was trained on.

    `classes` are those of the main target, and of others that are named alike; or a mapping from targets. Classes are
    matched by name, whatever their order and numbers; where they are identified by id (`by_id`), by name and id. The
    source may lack some of `classes`. It may list others as long as no record has them; a source of masks, which are
    read one by one, may not.

    Raises:
      UserError: a record has a class that is not in `classes`; `where` names the source.
    """
    if not isinstance(classes, Mapping):
        alike = [target for target, own in source.targets.items() if tuple(own) == tuple(source.classes)]
        classes = dict.fromkeys(alike, classes)
    names = {
        target: tuple(each)
        for target, each in classes.items()
        if target in source.targets and tuple(source.targets[target]) != tuple(each)
    }
    tables = {target: _table(source, target, each, where) for target, each in names.items()}
    return Mapped(source, names, tables) if names else source


def _table(source: Source, target: str, classes: Sequence[str], where: str) -> Int[np.ndarray, "_"]:
    """For each class of `target` its position in `classes`, or -1. Raises UserError as `with_classes` does."""
    own, by_id = source.targets[target], getattr(source, "by_id", False)
    known = {(position if by_id else None, name): position for position, name in enumerate(classes)}
    table = [known.get((position if by_id else None, name), -1) for position, name in enumerate(own)]
    if min(table) < 0:
        unknown = [own[k] for k in used_classes(source, target) if table[k] < 0]
        if unknown:
            numbered = ", under the same category id; coco: goes by names alone" if by_id else ""
            verb = "is" if len(unknown) == 1 else "are"
            raise UserError(
                f"{where}: {', '.join(unknown)[:200]} {verb} not among the classes trained on "
                f"({', '.join(classes)[:200]}); rename it there, or remove what is of it"
                f"{numbered}{did_you_mean(unknown[0], classes)}"
            )
    return np.array(table, np.int32)


def used_classes(source: Source, target: str = "") -> Sequence[int]:
    """The classes that occur in the records, as far as known without reading images; for masks all classes.

    They are those of the main target unless another is named.
    """
    target = target or first_target(source)
    if target in ("boxes", "masks") and hasattr(source, "store"):
        return np.unique(source.store.flat.classes).tolist()
    if target != "label":
        return range(len(source.targets[target]))
    own = np.unique(source.labels)
    return own[own >= 0].tolist()  # others have no label
