"""Successive halving that pauses and promotes: pure decisions about trials that wait at rungs.

A trial that reaches a rung pauses there. It is promoted, and goes on, once it is among the best of those that reached
the rung; how many of them go on is the pruner's quota. It is pruned once no future of the sweep can promote it.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA), algorithm 2. There a promoted
trial trains again or resumes, as the program likes; here it always resumes, to the bit.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from morphism.errors import UserError
from morphism.experiments.fields import STEPS_OR_EPOCHS
from morphism.sweeps.trials import Record

PRUNERS = ("none", "median", "asha")


@dataclass(frozen=True)
class Halving:
    """The rules of a sweep's rungs.

    rungs: lengths of training, such as "3ep", after which trials pause; () where none do.
    pruner: asha promotes the best 1/eta of the trials that have reached a rung, median the better half, rounded up.
    eta: of asha.
    lower: whether low values are good.
    """

    rungs: tuple[str, ...] = ()
    pruner: str = "none"
    eta: int = 3
    lower: bool = False

    def quota(self, reached: int) -> int:
        """How many of `reached` trials at a rung may go on."""
        return (reached + 1) // 2 if self.pruner == "median" else reached // self.eta


def ranking(trials: Iterable[Record], rung: int, lower: bool) -> list[Record]:
    """Those of `trials` that have reached `rung`, the best first; of equal ones the lower number."""
    reached = [each for each in trials if each.rung > rung]
    return sorted(reached, key=lambda each: (_at(each, rung) * (1 if lower else -1), each.number))


def _at(trial: Record, rung: int) -> float:
    return list(trial.values.values())[rung]


def promotable(trials: Sequence[Record], total: int, rules: Halving) -> list[Record]:
    """The paused trials that may go on now: those at the highest rung first, there the best first.

    `total` is how many trials the sweep will have. A rung that no other trial can reach any more promotes at least one.
    """
    found: list[Record] = []
    for rung, most in enumerate(_most(trials, total, rules)):
        ranked = ranking(trials, rung, rules.lower)
        quota = rules.quota(len(ranked))
        if len(ranked) == most:
            quota = max(quota, 1)
        found = [each for each in ranked[:quota] if _waits_at(each, rung)] + found
    return found


def hopeless(trials: Sequence[Record], total: int, rules: Halving) -> list[tuple[Record, str]]:
    """The paused trials that cannot be promoted any more, whatever the others will do, each with the reason.

    More trials at its rung can only lower a trial's rank, and the quota is at most that of all that may reach it.
    """
    found = []
    for rung, most in enumerate(_most(trials, total, rules)):
        quota = max(rules.quota(most), 1)
        for rank, each in enumerate(ranking(trials, rung, rules.lower)):
            if rank >= quota and _waits_at(each, rung):
                found.append((each, f"rank {rank + 1} at rung {rung + 1}, which promotes {quota} of {most}"))
    return found


def _most(trials: Sequence[Record], total: int, rules: Halving) -> list[int]:
    """For each rung, how many trials have reached it or may yet do so."""
    found: list[int] = []
    coming = max(total - len(trials), 0)  # trials that may reach the rung and have not
    below = [each for each in trials if each.rung == 0 and not each.over]
    for rung in range(len(rules.rungs)):
        coming += len(below)
        ranked = ranking(trials, rung, rules.lower)
        most = len(ranked) + coming
        found.append(most)
        quota = max(rules.quota(most), 1)
        stuck = {each.number for rank, each in enumerate(ranked) if rank >= quota and _waits_at(each, rung)}
        below = [each for each in ranked if each.rung == rung + 1 and not each.over and each.number not in stuck]
    return found


def _waits_at(trial: Record, rung: int) -> bool:
    return trial.state == "paused" and trial.rung == rung + 1


def to_evict(trials: Sequence[Record], sizes: dict[str, int], limit: int, lower: bool) -> list[Record]:
    """The trials whose checkpoints are deleted so that all together have at most `limit` bytes.

    Pruned and failed ones first; then paused ones, from the lowest rung and the worst there; then complete ones, the
    worst first and never the best. `sizes`: workdir -> bytes. Those that run keep theirs.
    """
    sign = 1 if lower else -1

    def order(each: Record) -> tuple[int, int, float, int]:
        group = {"pruned": 0, "failed": 0, "paused": 1}.get(each.state, 2)
        return group, each.rung if group == 1 else 0, -sign * (each.value or 0.0), -each.number

    complete = [each for each in trials if each.state == "complete"]
    best = min(complete, key=lambda each: (sign * (each.value or 0.0), each.number), default=None)
    candidates = [each for each in trials if (each.over or each.state == "paused") and each is not best]
    excess, found = sum(sizes.values()) - limit, []
    for each in sorted(candidates, key=order):
        if excess <= 0:
            break
        if sizes.get(each.workdir, 0):
            found.append(each)
            excess -= sizes[each.workdir]
    return found


def default_rungs(duration: str, eta: int, count: int = 2) -> tuple[str, ...]:
    """`count` rungs before a `duration`, each `eta` times as long as the one before."""
    number, unit = split_length(duration, "config.duration")
    return tuple(f"{number / eta ** (count - index):.6g}{unit}" for index in range(count))


def check_rungs(rungs: Sequence[str], duration: str, steps_per_epoch: float | None) -> None:
    """Raises UserError unless the rungs ascend and lie before the end of `duration`.

    `steps_per_epoch` is needed where steps and epochs are mixed; None: such pairs are not compared.
    """
    lengths = [(rung, *split_length(rung, "--rungs")) for rung in rungs]
    for (before, low, unit), (after, high, other) in itertools.pairwise(lengths):
        if _compared(low, unit, other, steps_per_epoch) >= high:
            raise UserError(
                f"--rungs: {after} does not come after {before}; give ascending lengths, such as 1ep,3ep,9ep"
            )
    end, end_unit = split_length(duration, "config.duration")
    for rung, number, unit in lengths:
        if number <= 0:
            raise UserError(f"--rungs: {rung} is before the first step; give 1 or more steps, or epochs")
        if _compared(number, unit, end_unit, steps_per_epoch) >= end:
            raise UserError(
                f"--rungs: {rung} is not before the end, config.duration={duration}; give shorter rungs, or a longer "
                "--config.duration"
            )


def _compared(number: float, unit: str, other: str, steps_per_epoch: float | None) -> float:
    """`number` of `unit` in the unit `other`; minus infinity if that is not known."""
    if unit == other:
        return number
    if steps_per_epoch is None:
        return float("-inf")
    return number * steps_per_epoch if unit else number / steps_per_epoch


def split_length(length: str, field: str) -> tuple[float, str]:
    """A length as a number of steps and "", or of epochs and "ep". Raises UserError if it is none."""
    match = STEPS_OR_EPOCHS.fullmatch(length.strip())
    if not match:
        raise UserError(f'{field} is {length!r}: write steps as "500" or "64k", epochs as "90ep"')
    return float(match[1]) * (1000 if match[2] == "k" else 1), "ep" if match[2] == "ep" else ""
