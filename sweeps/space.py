"""The space of a sweep: which fields of its configuration vary, and over which values.

A space is a function `space(trial)` that asks `trial.suggest_float`, `suggest_int` and `suggest_categorical` for
values, as in Optuna, and returns the fields that it sets: {"optimizer.learning_rate": 0.1}.
"""

import hashlib
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict
from optuna import distributions
from optuna.distributions import BaseDistribution

from morphism.errors import UserError, did_you_mean, one_line
from morphism.experiments.fields import leaves
from morphism.runtime.resume import set_fields
from morphism.runtime.scripts import execute, find
from morphism.runtime.validation import check_config

Overrides = dict[str, Any]  # dotted field -> value
Chooser = Callable[[str, BaseDistribution], Any]  # name, distribution -> value
PROBES = 32  # draws that describe a space


class Draw:
    """What a space function gets as `trial`: each value that it asks for is chosen by `choose`."""

    def __init__(self, choose: Chooser, number: int = 0):
        self._choose, self.number = choose, number
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return self._suggest(name, distributions.FloatDistribution(low, high, log=log, step=step))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._suggest(name, distributions.IntDistribution(low, high, log=log, step=step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._suggest(name, distributions.CategoricalDistribution(choices))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self.params:
            self.params[name] = self._choose(name, distribution)
            self.distributions[name] = distribution
        return self.params[name]


@dataclass(frozen=True)
class Space:
    """`function` maps a trial to overrides; `source` says where it is from, for messages: "experiments/x.py:space"."""

    function: Callable[[Any], Mapping[str, Any]]
    source: str

    def suggest(self, trial: Any) -> Overrides:
        """The overrides of `trial`, an Optuna trial or a Draw. Raises UserError if the function fails."""
        try:
            found = self.function(trial)
        except Exception as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)[1:]]
            position = f"line {lines[0]}: " if lines else ""
            raise UserError(f"{self.source}: {position}{type(error).__name__}: {one_line(error)}") from error
        if not isinstance(found, Mapping) or not found or not all(isinstance(name, str) for name in found):
            raise UserError(
                f"{self.source}: returns {one_line(repr(found))[:80]}; return the fields that it sets, such as "
                '{"optimizer.learning_rate": trial.suggest_float("learning_rate", 0.01, 1.0, log=True)}'
            )
        return dict(found)


def grid(values: Mapping[str, Sequence[Any]]) -> Space:
    """The space of all combinations of the `values` of fields. Raises UserError if a field has none, or one twice."""
    if not values:
        raise UserError("--grid is empty; give fields with values, such as --grid optimizer.learning_rate=0.1,0.2")
    for field, choices in values.items():
        if not choices:
            raise UserError(f"--grid {field}: no values; give some, such as --grid optimizer.learning_rate=0.1,0.2")
        twice = next((each for i, each in enumerate(choices) if each in choices[:i]), None)
        if twice is not None:
            raise UserError(f"--grid {field}: {twice!r} is there twice; leave one out")
    options = {field: {_plain(each): each for each in choices} for field, choices in values.items()}

    def function(trial: Any) -> Overrides:
        return {field: known[trial.suggest_categorical(field, list(known))] for field, known in options.items()}

    return Space(function, "--grid")


def _plain(value: Any) -> Any:
    """A value as Optuna stores choices: numbers and texts as they are, anything else as its text."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def load(argument: str) -> Space:
    """The space that "FILE.py:function" names. Raises UserError if there is no such file or function."""
    file, _, name = argument.rpartition(":")
    if not file:
        file, name = argument, "space"
    path = find(file)
    if not path.is_file():
        raise UserError(f"--space: {file}: no such file; give an experiment's, such as experiments/quickstart.py:space")
    try:
        module = execute(path, "space")
    except Exception as error:
        raise UserError(f"--space {argument}: {type(error).__name__}: {one_line(error)}") from error
    function = vars(module).get(name)
    if not callable(function):
        names = [each for each, value in vars(module).items() if callable(value)]
        raise UserError(f"--space: {file} has no function {name}(trial){did_you_mean(name, names)}")
    return Space(function, argument)


def configured(base: ConfigDict, overrides: Mapping[str, Any], source: str = "the space") -> ConfigDict:
    """`base` with the `overrides`, checked as any configuration is. Raises UserError naming the first wrong field."""
    config = base.copy_and_resolve_references()
    known = leaves(base)
    typed = {}
    for name, value in overrides.items():
        *parents, last = name.split(".")
        node: Any = config
        for each in parents:
            node = node[each] if isinstance(node, ConfigDict) and each in node else None
        if not isinstance(node, ConfigDict) or (last not in node and parents[-1:] != ["options"]):
            raise UserError(f"{source}: config.{name}: no such field{_meant(name, known)}")
        before = node.get(last)
        if isinstance(before, ConfigDict):
            raise UserError(f"{source}: config.{name}: a group of fields; set one of them")
        value = float(value) if isinstance(before, float) and type(value) is int else value
        typed[name] = tuple(value) if isinstance(value, list) else value
    try:
        set_fields(config, typed)
    except (TypeError, ValueError) as error:
        wrong = ", ".join(f"config.{name}={value!r}" for name, value in typed.items())
        raise UserError(f"{source}: {wrong}: {one_line(error)}") from error
    try:
        check_config(config)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return config.lock()


def _meant(name: str, known: Sequence[str]) -> str:
    last = name.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == last]
    return f"; did you mean config.{same[0]}?" if len(same) == 1 else did_you_mean(name, known)


def identity(overrides: Mapping[str, Any], seed: int) -> str:
    """The name of a trial: 12 hexadecimal digits over its overrides and its seed."""
    text = json.dumps({**overrides, "seed": seed}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def described(space: Space, chooser: Callable[[int], Chooser]) -> dict[str, Any]:
    """What tells a space from another: its distributions, and a fingerprint of what it returns.

    `chooser`: probe -> how that probe chooses. Raises UserError if the function draws numbers of its own.
    """
    found: dict[str, set[str]] = {}
    returned = []
    for probe in range(PROBES):
        first, again = Draw(chooser(probe), probe), Draw(chooser(probe), probe)
        overrides = space.suggest(first)
        if space.suggest(again) != overrides:
            raise UserError(f"{space.source}: returns other fields when it is called again; draw with trial.suggest_*")
        for name, distribution in first.distributions.items():
            found.setdefault(name, set()).add(str(distribution))
        returned.append(overrides)
    text = json.dumps(returned, sort_keys=True, default=str, allow_nan=False)
    return {
        "parameters": {name: " | ".join(sorted(each)) for name, each in sorted(found.items())},
        "returns": hashlib.sha256(text.encode()).hexdigest()[:16],
    }
