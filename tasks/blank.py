"""A source without records, for whatever depends on shapes alone: costs can be known before there is any data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism import tasks
from morphism.data.records import Record
from morphism.errors import UserError
from morphism.tasks.composed import Composed
from morphism.tasks.task import Counts, by_part


@dataclass(frozen=True)
class Blank:
    """A split of `count` records that cannot be read; class k has the name "k"."""

    targets: Mapping[str, Sequence[str]]
    count: int

    @property
    def classes(self) -> Sequence[str]:
        return next(iter(self.targets.values()))

    @property
    def labels(self) -> Int[np.ndarray, "records"]:
        return np.arange(self.count, dtype=np.int32) % len(self.classes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        raise UserError(f"there is no record {index}: this stands for data that has not been read")


def blank(config: ConfigDict, classes: Counts, count: int) -> Blank:
    """A source of `count` records with that many `classes` in the targets that `config` learns from."""
    task = tasks.of(config)
    counts = by_part(classes)
    parts = {part.name: part.targets for part in task.parts} if isinstance(task, Composed) else {"": task.targets}
    if parts.keys() != counts.keys():
        raise UserError(f"classes are given for {', '.join(counts)}, the parts are {', '.join(parts)}")
    return Blank(
        {target: [str(k) for k in range(counts[name])] for name, targets in parts.items() for target in targets}, count
    )


def without_rules(config: ConfigDict, classes: Counts) -> ConfigDict:
    """`config` with a weight of 1 for each class where a rule would find them in the data: it costs the same."""
    counts, found = by_part(classes), config.copy_and_resolve_references()
    with found.unlocked(), found.ignore_type():
        for name, count in counts.items():
            own = found.parts[name] if name else found
            if "loss" in own and "class_weights" in own.loss and isinstance(own.loss.class_weights, str):
                own.loss.class_weights = (1.0,) * count
    return found
