"""Which values trial n of a sweep tries: a pure function of the sampler's seed, n, and what is known of other trials.

random, qmc and grid ignore the other trials, so that the trials of a sweep are the same for any number of workers,
whatever was interrupted. tpe reads them: its trials are reproducible with one worker only.
"""

import hashlib
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import qmc

from morphism.errors import UserError
from morphism.sweeps.space import Chooser, Draw, Overrides, Space

SAMPLERS = ("tpe", "random", "grid", "qmc")
DIMENSIONS = 64  # of the Sobol sequence: the first values that a trial asks for; further ones are random
MOST_POINTS = 1_000_000


def seeded(*key: Any) -> int:
    """A seed from 0 to 2^32 - 1, of anything with a text."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "little")


def from_unit(distribution: BaseDistribution, unit: float) -> Any:
    """The value of `distribution` at a quantile from 0, included, to 1, excluded."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(unit * len(distribution.choices))]
    low, high, step = distribution.low, distribution.high, distribution.step
    if isinstance(distribution, IntDistribution):
        if distribution.log:
            return min(round(math.exp(math.log(low - 0.5) + unit * math.log((high + 0.5) / (low - 0.5)))), high)
        return low + step * int(unit * ((high - low) // step + 1))
    if step is not None:
        return low + step * int(unit * (round((high - low) / step) + 1))
    if distribution.log:
        return min(max(math.exp(math.log(low) + unit * math.log(high / low)), low), high)
    return low + unit * (high - low)


def random_chooser(*key: Any) -> Chooser:
    """Chooses each value independently, by `key` and its name."""
    return lambda name, distribution: from_unit(distribution, np.random.default_rng(seeded(*key, name)).random())


def _qmc_chooser(seed: int, number: int) -> Chooser:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequence = qmc.Sobol(DIMENSIONS, scramble=True, rng=np.random.default_rng(seed))
        point = (sequence.fast_forward(number) if number else sequence).random(1)[0]
    dimensions = itertools.count()

    def choose(name: str, distribution: BaseDistribution) -> Any:
        dimension = next(dimensions)
        if dimension >= DIMENSIONS:
            return random_chooser(seed, number)(name, distribution)
        return from_unit(distribution, min(float(point[dimension]), math.nextafter(1.0, 0.0)))

    return choose


def points(space: Space) -> list[Draw]:
    """All points of a finite space, in the order of its values; a space may ask for other values in each branch.

    Raises UserError if a distribution is continuous.
    """
    found: list[Draw] = []
    path: list[tuple[int, int]] = []  # of each value that was asked for: its index, and how many there are
    while len(found) < MOST_POINTS:
        depth = itertools.count()

        def choose(name: str, distribution: BaseDistribution, depth: Any = depth) -> Any:
            at = next(depth)
            values = _values(name, distribution, space)
            if at == len(path):
                path.append((0, len(values)))
            return values[path[at][0]]

        draw = Draw(choose, len(found))
        space.suggest(draw)
        found.append(draw)
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return found
        path[-1] = (path[-1][0] + 1, path[-1][1])
    raise UserError(f"{space.source}: more than {MOST_POINTS:,} points; use --sampler random")


def _values(name: str, distribution: BaseDistribution, space: Space) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        raise UserError(f"{space.source}: {name} is continuous, which --sampler grid cannot list; give it a step")
    if distribution.log:
        return range(distribution.low, distribution.high + 1)
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return [distribution.low + distribution.step * index for index in range(count)]


class Sampler:
    """`name` is one of SAMPLERS."""

    def __init__(self, name: str, seed: int, space: Space, lower: bool):
        self._name, self._seed, self._space = name, seed, space
        self._direction = "minimize" if lower else "maximize"
        self._points = points(space) if name == "grid" else []

    @property
    def count(self) -> int | None:
        """How many points there are; None if not finite."""
        return len(self._points) if self._name == "grid" else None

    def sample(
        self, number: int, history: Callable[[], Sequence[FrozenTrial]], attempt: int = 0
    ) -> tuple[Any, Overrides]:
        """The draw (its params and distributions) and the overrides of trial `number`.

        history: the other trials, in order; called only by samplers that read them.
        attempt: counts up where the point was tried before.
        """
        if self._name == "grid":
            known = self._points[number].params
            draw: Any = Draw(lambda name, _: known[name], number)
        elif self._name == "random":
            draw = Draw(random_chooser(self._seed, number, attempt), number)
        elif self._name == "qmc":
            draw = Draw(
                _qmc_chooser(self._seed, number) if not attempt else random_chooser(self._seed, number, attempt)
            )
        else:
            draw = self._ask(number, history(), attempt)
        return draw, self._space.suggest(draw)

    def _ask(self, number: int, history: Sequence[FrozenTrial], attempt: int) -> Any:
        """A trial of Optuna's sampler, in a study in memory that holds the history."""
        sampler = optuna.samplers.TPESampler(seed=seeded(self._seed, number, attempt))
        study = optuna.create_study(sampler=sampler, direction=self._direction)
        study.add_trials(list(map(_remembered, history)))
        return study.ask()


def _remembered(trial: FrozenTrial) -> FrozenTrial:
    """A trial for the sampler: one that waits at a rung counts as pruned there, with its value."""
    waits = trial.state == TrialState.WAITING and trial.intermediate_values
    return create_trial(
        state=TrialState.PRUNED if waits else TrialState.RUNNING if not trial.state.is_finished() else trial.state,
        values=trial.values if trial.state == TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
    )
