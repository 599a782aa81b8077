"""`join:<source> + <source>`: truths of the same images that lie in sources of their own, as one record per image.

    join:coco:/data/bdd + masks:/data/bdd_drivable      boxes from one, classes of pixels from the other

The first source gives the images. The others add their truths to the images that they have by the same file name,
folders and suffix apart; an image that another source does not have lacks its truths. Images of the others alone are
not used; both are counted. Only a task of several parts takes records that lack a truth.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from morphism.data import sources, targets
from morphism.data.annotations import NO_OBJECTS, Annotations
from morphism.data.derived import View, carried, passed_on
from morphism.data.fingerprint import fingerprint
from morphism.data.outlines import Outlines
from morphism.data.records import Record, Source, names
from morphism.data.targets import label
from morphism.errors import UserError
from morphism.labels import IGNORE

MASKS = True
ABSENT = -1
FORM = "write join:coco:/data/a + masks:/data/b: the source of the images, then those of further truths"


@dataclass(frozen=True)
class Other:
    """A further source. rows: its record of each image, or ABSENT."""

    source: Source
    rows: Int[np.ndarray, "records"]


@dataclass(frozen=True)
class Join(View):
    """The records of `source` with the truths of the others."""

    others: Sequence[Other]
    odd: Sequence[str]

    classes = passed_on("classes")
    files = passed_on("files")
    image_ids = passed_on("image_ids")

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {name: own for each in self._every for name, own in each.source.targets.items()}

    @property
    def oddities(self) -> str:
        own = [getattr(each.source, "oddities", "") for each in self._every]
        return "; ".join(filter(None, (*own, *self.odd)))

    @property
    def version(self) -> str:
        """The fingerprints of all sources."""
        return " ".join(fingerprint(each.source)["sha256"] for each in self._every)

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        """Of the first source that knows the size of every image."""
        for each in self._every:
            known = getattr(each.source, "sizes", None)
            if known is not None and (each.rows >= 0).all():
                return np.asarray(known)[each.rows]
        raise UserError("join: none of its sources knows the size of every image; put one that does first")

    @property
    def category_ids(self) -> Sequence[int | str | None]:
        return self._of("boxes").source.category_ids

    @property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        of = self._of("boxes")
        return np.where(of.rows[:, None] >= 0, np.asarray(of.source.box_counts)[of.rows], 0)

    @cached_property
    def labels(self) -> Int[np.ndarray, "records"]:
        of = self._of("label")
        return np.where(of.rows >= 0, np.asarray(of.source.labels)[of.rows], label.UNKNOWN).astype(np.int32)

    def carries(self, target: str) -> Bool[np.ndarray, "records"]:
        of = self._of(target)
        return (of.rows >= 0) & carried(of.source, target)[of.rows]

    def annotations(self, index: int) -> Annotations:
        return self._truth("boxes", "annotations", index, NO_OBJECTS)

    def masks(self, index: int) -> Outlines:
        """Unknown ones if no source has masks."""
        if "masks" not in self.targets:
            return Outlines.of([None] * len(self.annotations(index)))
        return self._truth("masks", "masks", index, Outlines.of([]))

    def segmentation(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """All ignored for an image without classes of pixels."""
        of = self._of("segmentation")
        row = int(of.rows[index])
        if row < 0:
            return np.full(self.sizes[index].tolist(), IGNORE, np.uint8)
        read = getattr(of.source, "segmentation", None)
        return read(row) if read else of.source[row]["segmentation"]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = dict(self.source[index])
        for each in self.others:
            row = int(each.rows[index])
            held = each.source[row] if row >= 0 else {}
            keys = (targets.get(name).KEY for name in each.source.targets)
            record |= {key: held[key] for key in keys if key in held}
        return record

    @property
    def _every(self) -> Sequence[Other]:
        return Other(self.source, np.arange(len(self.source))), *self.others

    def _of(self, target: str) -> Other:
        """The source that has `target`."""
        found = [each for each in self._every if target in each.source.targets]
        if not found:
            raise AttributeError(target)
        return found[0]

    def _truth(self, target: str, method: str, index: int, absent: Any) -> Any:
        of = self._of(target)
        row = int(of.rows[index])
        return getattr(of.source, method)(row) if row >= 0 else absent


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    """Those of the source of the images; `load` says which of the others lacks one."""
    return tuple(sources.splits(sources.within(_specs(argument)[0], data_dir)))


def load(argument: str, split: str, data_dir: str, masks: bool = False) -> Join:
    specs = _specs(argument)
    first, *others = (sources.load(sources.within(spec, data_dir, masks), split) for spec in specs)
    where = f"join:{argument} {split}"
    owner = Counter(name for source in (first, *others) for name in source.targets)
    twice = [name for name, count in owner.items() if count > 1]
    if twice:
        raise UserError(f"{where}: {twice[0]} in more than one of its sources; leave one of them out")
    wanted, found, odd = _stems(first, specs[0], where), [], []
    for spec, source in zip(specs[1:], others, strict=True):
        known = _stems(source, spec, where)
        rows = np.array([known.get(stem, ABSENT) for stem in wanted], np.int64)
        if not (rows >= 0).any():
            raise UserError(
                f"{where}: {spec} has no image of the names of {specs[0]}, such as {next(iter(wanted))!r}; {FORM}"
            )
        lacking, unused = int((rows < 0).sum()), len(known.keys() - wanted.keys())
        counts = ((lacking, "images without its truths"), (unused, "images that are not used"))
        odd += [f"{spec}: {count:,} {what}" for count, what in counts if count]
        found.append(Other(source, rows))
    return Join(first, found, odd)


def _specs(argument: str) -> list[str]:
    specs = [each.strip() for each in argument.split(" + ")]
    if len(specs) < 2 or not all(specs):
        raise UserError(f"config.data.source is 'join:{argument}'; {FORM}")
    return specs


def _stems(source: Source, spec: str, where: str) -> dict[str, int]:
    """The record of each file name, without folders and suffix. Raises UserError for two images of one name."""
    found: dict[str, int] = {}
    for row, name in enumerate(names(source)):
        stem = os.path.splitext(os.path.basename(os.fsdecode(name)))[0]
        if found.setdefault(stem, row) != row:
            raise UserError(f"{where}: {spec} has two images called {stem!r}; rename one")
    return found
