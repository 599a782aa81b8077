"""Which record stands at which place of the endless sequence of training examples: pure functions of (seed, position).

An epoch is as many draws as the source has records, whatever is drawn: lengths in epochs mean the same number of steps
with every sampler. A draw is a record and how many times it was drawn before, so that no augmentation comes twice.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import grain
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from data.sources import Source


class Draw(NamedTuple):
    index: int  # of the record
    count: int  # its earlier draws; with repeats, at least as many: different for each draw of a record


class Sampler(Protocol):
    def __call__(self, position: int) -> Draw: ...


def make_sampler(source: Source, data: ConfigDict, seed: int) -> Sampler:
    """The sampler of `data`; a balanced one asks for all of the source's labels at once."""
    if data.balanced:
        return Balanced(np.asarray(source.labels), seed)
    return Shuffled(len(source), data.repeats, seed)


@dataclass(frozen=True)
class Shuffled:
    """Each epoch is a shuffle of its own, with every record `repeats` times in a row, cut off after `records` draws.

    So an epoch sees each record once, or with repeats one out of `repeats` of them, that often: repeated augmentation
    (Hoffer et al. 2020, "Augment your batch"; Berman et al. 2019, "MultiGrain") as the RASampler of torchvision's
    references/classification/sampler.py has it, but that it also drops what exceeds a multiple of 256.
    """

    records: int
    repeats: int
    seed: int

    @cached_property
    def order(self) -> grain.MapDataset:
        return _shuffled(self.records, self.seed)

    def __call__(self, position: int) -> Draw:
        epoch, place = divmod(position, self.records)
        turn, repeat = divmod(place, self.repeats)
        return Draw(int(self.order[epoch * self.records + turn]), epoch * self.repeats + repeat)


@dataclass(frozen=True, eq=False)
class Balanced:
    """Rounds that hold each class once, in shuffled order; a class gives its records in shuffled order, then anew.

    Classes without a record have no place in a round.
    """

    labels: Int[np.ndarray, "records"]
    seed: int

    @cached_property
    def members(self) -> list[np.ndarray]:
        """The records of each class that has some."""
        by_class = np.argsort(self.labels, kind="stable")
        return np.split(by_class, np.flatnonzero(np.diff(self.labels[by_class])) + 1)

    @cached_property
    def round_order(self) -> grain.MapDataset:
        return _shuffled(len(self.members), self.seed)

    @cached_property
    def member_orders(self) -> list[grain.MapDataset]:
        seeds = np.random.SeedSequence(self.seed).generate_state(len(self.members))
        return [_shuffled(len(each), int(seed)) for each, seed in zip(self.members, seeds, strict=True)]

    def __call__(self, position: int) -> Draw:
        which = int(self.round_order[position])
        turn = position // len(self.members)
        members = self.members[which]
        return Draw(int(members[self.member_orders[which][turn]]), turn // len(members))


def _shuffled(count: int, seed: int) -> grain.MapDataset:
    """position -> 0..count-1, in another order on every pass."""
    return grain.MapDataset.range(count).seed(seed).shuffle()


def spread(rows: int, repeats: int) -> Int[np.ndarray, "rows"]:
    """The order of a batch's draws in which repeats of a record stand apart: 0, r, 2r, ..., 1, r + 1, ...

    RASampler's, which hands each process every n-th draw. So mixing pairs different records, and a device's batch norm
    sees as many as it can.
    """
    return np.concatenate([np.arange(first, rows, repeats) for first in range(min(repeats, rows))])
