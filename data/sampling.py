"""The endless sequence of training examples: which record is at which position, as pure functions of (seed, position).

An epoch is as many draws as the source has records, so that lengths in epochs mean the same number of steps with every
sampler. A draw is a record and how many times it was drawn before, so that no augmentation is repeated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism.data.records import Source
from morphism.errors import UserError

FEW = 512  # the order of fewer records, or classes, is drawn as a whole


class Draw(NamedTuple):
    index: int  # of the record
    count: int  # different for each draw of a record: its number of earlier draws; with repeats, possibly more


Sampler = Callable[[int], Draw]  # position -> draw


Members = range | Int[np.ndarray, "_"]  # the records of a canvas, in ascending order; a range if they are all there are


def members_of(canvases: Int[np.ndarray, "records"]) -> list[Members]:
    """The records of each canvas, from the canvas of each record. All records on one canvas take no memory."""
    count = int(canvases.max(initial=-1)) + 1
    if count == 1:
        return [range(len(canvases))]
    return [np.flatnonzero(canvases == canvas).astype(np.int32) for canvas in range(count)]


def of_members(column: np.ndarray, members: Members) -> np.ndarray:
    """The rows of `column` that belong to `members`; without a copy if they are all."""
    return column[members.start : members.stop] if isinstance(members, range) else column[members]


@dataclass(frozen=True, eq=False)
class Plan:
    """step -> the canvas of its batch, and the draws of some of its rows.

    A batch holds records of one canvas, and each canvas has a sampler of its own. By the end of epoch e a canvas with n
    records has had floor(n e / batch_size) batches; those that an epoch adds come in random order. So no record is left
    out.

    A source may consist of parts that are drawn in given proportions: it has `part_of`, the part of each record, and
    `weights`, one per part. Then n is the sum of what falls to the canvas's records if each part's draws are spread
    evenly over its records. So the proportions hold over all canvases, and all records of a part are drawn as often.

    The tables that a plan needs are made at once, before it is sent to worker processes (data/shipping.py): of a source
    without labels or parts to balance, on one canvas, there are none.
    """

    source: Source
    data: ConfigDict
    seed: int
    batch_size: int
    members: Sequence[Members]  # of each canvas

    def __post_init__(self) -> None:
        if self.data.balanced and "label" not in self.source.targets:
            raise UserError(
                f"config.data.balanced: {self.data.source} has no label per record, but "
                f"{' and '.join(self.source.targets)}; set it to False"
            )
        if self.data.balanced and self.weights:
            raise UserError(
                f"config.data.balanced: {self.data.source} is drawn from in proportions of its own; set it to False"
            )
        lost = [part for part, count in enumerate(self.part_sizes) if not count]
        if lost:
            raise UserError(
                f"{self.data.source}: no record of its source number {lost[0] + 1} is left in this split; remove that "
                "source, or take a larger part of the split"
            )
        _ = self.samplers

    @cached_property
    def records(self) -> int:
        return sum(map(len, self.members))

    @cached_property
    def weights(self) -> list[Fraction]:
        """The weights of the parts of the source; empty for a source without parts."""
        return list(getattr(self.source, "weights", ()))

    @cached_property
    def part_sizes(self) -> list[int]:
        """The number of records of each part; empty for a source without parts."""
        return np.bincount(self.source.part_of, minlength=len(self.weights)).tolist() if self.weights else []

    @cached_property
    def shares(self) -> list[dict[int, Fraction]]:
        """For each canvas and each part that has records there: the draws per epoch."""
        if not self.weights:
            return [{0: Fraction(len(each))} for each in self.members]
        weights = self.weights
        per_record = [
            self.records * w / sum(weights) / count for w, count in zip(weights, self.part_sizes, strict=True)
        ]
        parts = [of_members(self.source.part_of, each) for each in self.members]
        counts = [np.bincount(each, minlength=len(weights)).tolist() for each in parts]
        return [{part: count * per_record[part] for part, count in enumerate(held) if count} for held in counts]

    @cached_property
    def draws(self) -> list[Fraction]:
        """The draws per epoch of each canvas: as many as it has records, unless the source has parts."""
        return [sum(each.values()) for each in self.shares]

    @cached_property
    def samplers(self) -> list[Sampler]:
        if self.data.balanced:
            labels = np.asarray(self.source.labels)
            return [Balanced.of(of_members(labels, each), self.seed) for each in self.members]
        if self.weights:
            return [self._mixed(*each) for each in zip(self.members, self.shares, strict=True)]
        return [Shuffled(len(each), self.data.repeats, self.seed) for each in self.members]

    def _mixed(self, members: Members, shares: dict[int, Fraction]) -> "Mixed":
        part_of = of_members(self.source.part_of, members)
        rows = {part: np.flatnonzero(part_of == part).astype(np.int32) for part in shares}
        seeds = np.random.SeedSequence(self.seed).generate_state(len(self.weights)).tolist()
        samplers = [Shuffled(len(each), self.data.repeats, seeds[part]) for part, each in rows.items()]
        return Mixed(list(rows.values()), samplers, list(shares.values()))

    def __call__(self, step: int, rows: slice) -> tuple[int, list[Draw]]:
        canvas, turn = self._place(step)
        members = self.members[canvas]
        positions = turn * self.batch_size + spread(self.batch_size, self.data.repeats)[rows]
        draws = [self.samplers[canvas](position) for position in positions.tolist()]
        return canvas, [Draw(int(members[index]), count) for index, count in draws]

    def _place(self, step: int) -> tuple[int, int]:
        """The canvas of batch `step`, and how many batches of that canvas came before it."""
        if len(self.members) == 1:
            return 0, step
        epoch = step * self.batch_size // self.records
        while self._until(epoch + 1).sum() <= step:
            epoch += 1
        before = self._until(epoch)
        canvases, turns = _batches(self.seed, epoch, tuple((self._until(epoch + 1) - before).tolist()))
        canvas = canvases[step - before.sum()]
        return int(canvas), int(before[canvas] + turns[step - before.sum()])

    def _until(self, epoch: int) -> Int[np.ndarray, "canvases"]:
        """How many batches each canvas has had when `epoch` starts."""
        return np.array([each * epoch // self.batch_size for each in self.draws])


@lru_cache(maxsize=4)
def _batches(seed: int, epoch: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The canvas of each batch that an epoch adds, and how many batches of that canvas come before it in the epoch.

    counts: batches per canvas. The result is cached because every step of the epoch needs it.
    """
    canvases = np.random.default_rng((seed, epoch)).permutation(np.repeat(np.arange(len(counts)), counts))
    turns = np.empty_like(canvases)
    for canvas, count in enumerate(counts):
        turns[canvases == canvas] = np.arange(count)
    return canvases, turns


@dataclass(frozen=True)
class OfFew:
    """position -> 0..count-1, in another order on every pass, each of which is drawn as a whole."""

    count: int
    seed: int

    def __getitem__(self, position: int) -> int:
        turn, within = divmod(position, self.count)
        return int(_permutation(self.count, self.seed, turn)[within])


@lru_cache(maxsize=4096)
def _permutation(count: int, seed: int, turn: int) -> Int[np.ndarray, "count"]:
    return np.random.default_rng((seed, turn)).permutation(count)


Order = OfFew | grain.MapDataset


def _shuffled(count: int, seed: int) -> Order:
    """position -> 0..count-1, in another order on every pass.

    Grain's shuffle makes one value at a time: many records take no memory, but a value of few takes 30 ms / count.
    """
    return OfFew(count, seed) if count < FEW else grain.MapDataset.range(count).seed(seed).shuffle()


@dataclass(frozen=True)
class Shuffled:
    """Shuffles every epoch separately, draws each record `repeats` times in a row, and stops after `records` draws.

    So an epoch holds each record once, or with repeats one of `repeats` records, that many times each: repeated
    augmentation (Hoffer et al. 2020, "Augment your batch"; Berman et al. 2019, "MultiGrain"), as in RASampler of
    torchvision's references/classification/sampler.py, which also drops what exceeds a multiple of 256.
    """

    records: int
    repeats: int
    seed: int

    @cached_property
    def order(self) -> Order:
        return _shuffled(self.records, self.seed)

    def __call__(self, position: int) -> Draw:
        epoch, within = divmod(position, self.records)
        turn, repeat = divmod(within, self.repeats)
        return Draw(int(self.order[epoch * self.records + turn]), epoch * self.repeats + repeat)


@dataclass(frozen=True, eq=False)
class Balanced:
    """Rounds that hold each class once, in shuffled order. Each class cycles through its records, shuffled every time.

    Classes without records are left out.
    """

    by_class: Int[np.ndarray, "records"]  # the records of each class that has any, one class after another
    ends: Int[np.ndarray, "classes"]  # where those of each class end
    seed: int

    @classmethod
    def of(cls, labels: Int[np.ndarray, "records"], seed: int) -> "Balanced":
        by_class = np.argsort(labels, kind="stable").astype(np.int32)
        last = np.flatnonzero(np.diff(labels[by_class]))
        return cls(by_class, np.append(last + 1, len(labels)), seed)

    @cached_property
    def starts(self) -> list[int]:
        return [0, *self.ends[:-1].tolist()]

    @cached_property
    def round_order(self) -> Order:
        return _shuffled(len(self.ends), self.seed)

    @cached_property
    def member_orders(self) -> list[Order]:
        seeds = np.random.SeedSequence(self.seed).generate_state(len(self.ends))
        counts = np.diff(self.ends, prepend=0)
        return [_shuffled(int(count), int(seed)) for count, seed in zip(counts, seeds, strict=True)]

    def __call__(self, position: int) -> Draw:
        which, turn = int(self.round_order[position]), position // len(self.ends)
        start, order = self.starts[which], self.member_orders[which]
        return Draw(int(self.by_class[start + order[turn]]), turn // (int(self.ends[which]) - start))


@dataclass(frozen=True, eq=False)
class Mixed:
    """Draws from several samplers in the proportions of `shares`, evenly spread.

    Of the first n positions, sampler 0 has floor(n s), where s is its share of the sum; what remains is divided between
    the others in the same way. So with two samplers their draws never deviate from the proportions by one or more, and
    with m by m - 1 or more, however long the run; over any window, by twice that.

    rows: what each sampler's records are among those of the mix.
    """

    rows: Sequence[Int[np.ndarray, "_"]]
    samplers: Sequence[Sampler]
    shares: Sequence[Fraction]

    def __call__(self, position: int) -> Draw:
        remaining = sum(self.shares)
        for rows, sampler, share in zip(self.rows, self.samplers, self.shares, strict=True):
            before = position * share // remaining
            if (position + 1) * share // remaining > before:
                index, count = sampler(int(before))
                return Draw(int(rows[index]), count)
            position, remaining = position - before, remaining - share
        raise AssertionError("the last share is all that remains")


def spread(rows: int, repeats: int) -> Int[np.ndarray, "rows"]:
    """An order of a batch's draws that keeps repeats of a record apart: 0, r, 2r, ..., 1, r + 1, ...

    So mixing pairs different records, and the batch norm of a device sees as many records as possible. It is the order
    of RASampler, which hands each process every n-th draw.
    """
    return np.concatenate([np.arange(first, rows, repeats) for first in range(min(repeats, rows))])
