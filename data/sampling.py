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


class Draw(NamedTuple):
    index: int  # of the record
    count: int  # different for each draw of a record: its number of earlier draws; with repeats, possibly more


Sampler = Callable[[int], Draw]  # position -> draw


@dataclass(frozen=True, eq=False)
class Plan:
    """step -> the canvas of its batch, and the draws of some of its rows.

    A batch holds records of one canvas, and each canvas has a sampler of its own. By the end of epoch e a canvas with n
    records has had floor(n e / batch_size) batches; those that an epoch adds come in random order. So no record is left
    out.

    A source may consist of parts that are drawn in given proportions: it has `part_of`, the part of each record, and
    `weights`, one per part. Then n is the sum of what falls to the canvas's records if each part's draws are spread
    evenly over its records. So the proportions hold over all canvases, and all records of a part are drawn as often.
    """

    source: Source
    data: ConfigDict
    seed: int
    batch_size: int
    canvases: Int[np.ndarray, "records"]

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

    @cached_property
    def weights(self) -> list[Fraction]:
        """The weights of the parts of the source; empty for a source without parts."""
        return list(getattr(self.source, "weights", ()))

    @cached_property
    def part_of(self) -> Int[np.ndarray, "records"]:
        """The part of the source that each record belongs to."""
        return self.source.part_of if self.weights else np.zeros(len(self.canvases), np.int64)

    @cached_property
    def part_sizes(self) -> list[int]:
        return np.bincount(self.part_of, minlength=len(self.weights)).tolist()

    @cached_property
    def shares(self) -> list[dict[int, Fraction]]:
        """For each canvas and each part that has records there: the draws per epoch."""
        weights, total = self.weights or [Fraction(1)], len(self.canvases)
        per_record = [total * w / sum(weights) / count for w, count in zip(weights, self.part_sizes, strict=True)]
        counts = [np.bincount(self.part_of[each], minlength=len(weights)).tolist() for each in self.members]
        return [{part: count * per_record[part] for part, count in enumerate(held) if count} for held in counts]

    @cached_property
    def draws(self) -> list[Fraction]:
        """The draws per epoch of each canvas: as many as it has records, unless the source has parts."""
        return [sum(each.values()) for each in self.shares]

    @cached_property
    def members(self) -> list[np.ndarray]:
        """The records of each canvas."""
        return [np.flatnonzero(self.canvases == canvas) for canvas in range(self.canvases.max() + 1)]

    @cached_property
    def samplers(self) -> list[Sampler]:
        if self.data.balanced:
            return [Balanced(np.asarray(self.source.labels)[each], self.seed) for each in self.members]
        if self.weights:
            return [self._mixed(*each) for each in zip(self.members, self.shares, strict=True)]
        return [Shuffled(len(each), self.data.repeats, self.seed) for each in self.members]

    def _mixed(self, members: Int[np.ndarray, "n"], shares: dict[int, Fraction]) -> "Mixed":
        rows = {part: np.flatnonzero(self.part_of[members] == part) for part in shares}
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
        epoch = step * self.batch_size // len(self.canvases)
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
    def order(self) -> grain.MapDataset:
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

    labels: Int[np.ndarray, "records"]
    seed: int

    @cached_property
    def members(self) -> list[np.ndarray]:
        """The records of each class that has any."""
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


def _shuffled(count: int, seed: int) -> grain.MapDataset:
    """position -> 0..count-1, in another order on every pass."""
    return grain.MapDataset.range(count).seed(seed).shuffle()


def spread(rows: int, repeats: int) -> Int[np.ndarray, "rows"]:
    """An order of a batch's draws that keeps repeats of a record apart: 0, r, 2r, ..., 1, r + 1, ...

    So mixing pairs different records, and the batch norm of a device sees as many records as possible. It is the order
    of RASampler, which hands each process every n-th draw.
    """
    return np.concatenate([np.arange(first, rows, repeats) for first in range(min(repeats, rows))])
