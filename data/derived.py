"""Sources made of another one: a part of its records, or its records with other classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int

from morphism.data.annotations import Annotations, Store
from morphism.data.masks import Legend
from morphism.data.records import Record, Source, first_target
from morphism.errors import UserError, did_you_mean
from morphism.labels import IGNORE


@dataclass(frozen=True)
class View:
    """Another source seen in part or with other classes; what stays the same is here."""

    source: Source

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return self.source.targets

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
    def legend(self) -> Legend:
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
    def store(self) -> Store:
        return self.source.store.take(self.indices)

    @property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        return self.source.box_counts[self.indices]

    def annotations(self, index: int) -> Annotations:
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
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {**self.source.targets, first_target(self.source): self.classes}

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
    def store(self) -> Store:
        return replace(self.source.store, flat=self._mapped(self.source.store.flat))

    @property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        return self.source.box_counts

    def annotations(self, index: int) -> Annotations:
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

    def _mapped(self, annotations: Annotations) -> Annotations:
        return replace(annotations, classes=self.table[annotations.classes])

    @cached_property
    def _of_pixels(self) -> np.ndarray:
        table = np.full(IGNORE + 1, IGNORE, np.uint8)
        table[: len(self.table)] = self.table
        return table


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
        unknown = [own[k] for k in used_classes(source) if table[k] < 0]
        if unknown:
            numbered = ", under the same category id; coco: goes by names alone" if by_id else ""
            raise UserError(
                f"{where}: its {', '.join(unknown)[:200]} is none of the classes trained on "
                f"({', '.join(classes)[:200]}){did_you_mean(unknown[0], classes)}; rename it there, or remove what is "
                f"of it{numbered}"
            )
    return Mapped(source, tuple(classes), np.array(table, np.int32))


def used_classes(source: Source) -> Sequence[int]:
    """The classes that records are of, as far as is known without reading their images."""
    if hasattr(source, "store"):
        return np.unique(source.store.flat.classes).tolist()
    return np.unique(source.labels).tolist() if "label" in source.targets else range(len(source.classes))
