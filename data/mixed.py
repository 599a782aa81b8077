"""Several sources as one: `Mix`, the records of all of them, whose classes are renamed to common ones (`Renamed`)."""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from morphism.data import image, targets
from morphism.data.annotations import NO_OBJECTS, Annotations
from morphism.data.derived import View, passed_on
from morphism.data.fingerprint import fingerprint
from morphism.data.outlines import Outlines
from morphism.data.records import Record, names
from morphism.data.targets import label
from morphism.labels import IGNORE

LEFT_OUT = -1


@dataclass(frozen=True)
class Renamed(View):
    """The records of `source` with class k of a target as class tables[target][k] of `common`.

    What is of a class that becomes LEFT_OUT is no longer there: an object is dropped with its mask, a pixel is ignored,
    and an image loses its label.
    """

    common: Mapping[str, Sequence[str]]  # target -> names of its classes, of all targets that `source` has
    tables: Mapping[str, Int[np.ndarray, "own"]]

    image_ids = passed_on("image_ids")
    files = passed_on("files")

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return self.common

    @property
    def classes(self) -> Sequence[str]:
        return next(iter(self.common.values()))

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        """Of a source that does not know them, from all of its images."""
        known = getattr(self.source, "sizes", None)
        if known is not None:
            return np.asarray(known, np.int32)
        with ThreadPoolExecutor() as pool:
            return np.array(list(pool.map(self._size, range(len(self)))), np.int32)

    @cached_property
    def labels(self) -> Int[np.ndarray, "records"]:
        """UNKNOWN for a record without a label."""
        if "label" not in self.common:
            return np.full(len(self), label.UNKNOWN, np.int32)
        own = np.asarray(self.source.labels)
        return np.where(own < 0, label.UNKNOWN, self.tables["label"][own]).astype(np.int32)

    @cached_property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        """Without a store that says which objects are left out, those of the source."""
        if "boxes" not in self.common:
            return np.zeros((len(self), 3), np.int64)
        store = getattr(self.source, "store", None)
        if store is None:
            return np.asarray(self.source.box_counts)
        flat = store.flat
        learned, kept = self.tables["boxes"][flat.classes] != LEFT_OUT, ~flat.difficult
        which = (learned, learned & kept, learned & kept & ~flat.crowd)
        return np.stack([np.bincount(store.owner[rows], minlength=len(self)) for rows in which], axis=1)

    def annotations(self, index: int) -> Annotations:
        if "boxes" not in self.common:
            return NO_OBJECTS
        own = self.source.annotations(index)
        return self._annotations(own, self._kept(own))

    def masks(self, index: int) -> Outlines:
        """Unknown ones for a source without masks."""
        if "masks" not in self.common:
            return Outlines.of([None] * len(self.annotations(index)))
        return self.source.masks(index).take(self._kept(self.source.annotations(index)))

    def segmentation(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """All ignored for a source without classes of pixels."""
        if "segmentation" not in self.common:
            return np.full(self.sizes[index].tolist(), IGNORE, np.uint8)
        read = getattr(self.source, "segmentation", None)
        return self._pixels(read(index) if read else self.source[index]["segmentation"])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record: dict[str, Any] = dict(self.source[index])
        if "annotations" in record:
            kept = self._kept(record["annotations"])
            record["annotations"] = self._annotations(record["annotations"], kept)
            if "masks" in record:
                record["masks"] = record["masks"].take(kept)
        if "segmentation" in record:
            record["segmentation"] = self._pixels(record["segmentation"])
        if "label" in record:
            own = int(self.tables["label"][record.pop("label")])
            record |= {} if own == LEFT_OUT else {"label": own}
        return record

    def _kept(self, own: Annotations) -> Int[np.ndarray, "kept"]:
        return np.flatnonzero(self.tables["boxes"][own.classes] != LEFT_OUT)

    def _annotations(self, own: Annotations, kept: Int[np.ndarray, "kept"]) -> Annotations:
        return targets.get("boxes").mapped(own[kept], self.tables["boxes"])

    def _pixels(self, own: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        table = self.tables["segmentation"]
        return targets.get("segmentation").mapped(own, np.where(table == LEFT_OUT, IGNORE, table))

    def _size(self, index: int) -> tuple[int, int]:
        found = self.source[index]
        stored = found["image"]
        if isinstance(stored, np.ndarray):
            return stored.shape[:2]
        return image.size_in(io.BytesIO(stored), found["name"])


@dataclass(frozen=True)
class Mix:
    """The records of several sources, one source after another. weights: how often each is drawn from.

    `common` names the classes of each target that any source has. A record has the truths that its source has.
    """

    parts: Sequence[Renamed]
    weights: Sequence[Fraction]
    common: Mapping[str, Sequence[str]]
    oddities: str

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return self.common

    @property
    def classes(self) -> Sequence[str]:
        return next(iter(self.common.values()))

    @property
    def category_ids(self) -> Sequence[int]:
        return range(1, len(self.classes) + 1)

    @cached_property
    def part_of(self) -> Int[np.ndarray, "records"]:
        """The source of each record."""
        return np.repeat(np.arange(len(self.parts)), [len(part) for part in self.parts])

    @cached_property
    def image_ids(self) -> np.ndarray:
        """The number of the source, counted from 1, and what the record is called there."""
        found = [names(part.source) for part in self.parts]
        texts = [f"{k}:{each.decode(errors='replace')}" for k, held in enumerate(found, start=1) for each in held]
        return np.array(texts)

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        return np.concatenate([part.sizes for part in self.parts])

    @cached_property
    def labels(self) -> Int[np.ndarray, "records"]:
        return np.concatenate([part.labels for part in self.parts])

    @cached_property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        return np.concatenate([part.box_counts for part in self.parts])

    def lacks(self, target: str) -> Bool[np.ndarray, "records"]:
        return np.concatenate([_lacks(part, target) for part in self.parts])

    @cached_property
    def version(self) -> str:
        """The fingerprints of the sources, their weights, and how their classes are renamed."""
        tables = [{name: table.tolist() for name, table in part.tables.items()} for part in self.parts]
        found = [fingerprint(part.source) for part in self.parts]
        return f"{found} {list(map(str, self.weights))} {dict(self.common)} {tables}"

    def annotations(self, index: int) -> Annotations:
        part, row = self._place(index)
        return part.annotations(row)

    def masks(self, index: int) -> Outlines:
        part, row = self._place(index)
        return part.masks(row)

    def segmentation(self, index: int) -> UInt8[np.ndarray, "h w"]:
        part, row = self._place(index)
        return part.segmentation(row)

    def __len__(self) -> int:
        return len(self.part_of)

    def __getitem__(self, index: int) -> Record:
        part, row = self._place(index)
        return part[row]

    def _place(self, index: int) -> tuple[Renamed, int]:
        """The source of a record, and the record's position there."""
        number = int(self.part_of[index])
        return self.parts[number], index - sum(len(part) for part in self.parts[:number])


def _lacks(part: Renamed, target: str) -> Bool[np.ndarray, "records"]:
    """Which records of a source have no truth of `target`."""
    if target not in part.common:
        return np.ones(len(part), bool)
    lacks = getattr(part.source, "lacks", None)
    return lacks(target) if lacks else np.zeros(len(part), bool)
