"""Replaces the fields that config.derive names by values from the data, the budget and the device.

The rules are in training/rules/. What results is a configuration like any other, with nothing left to derive: a run
stores it, and a run that continues takes the stored values.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from morphism import models, tasks
from morphism.data.proportions import measure
from morphism.errors import UserError, check_choice
from morphism.ops.platform import on_cpu
from morphism.runtime.manifest import has_steps, read_config
from morphism.runtime.mesh import AXIS
from morphism.runtime.paths import AnyPath
from morphism.runtime.processes import time_limit
from morphism.runtime.validation import check_config
from morphism.tasks.task import counts
from morphism.training import trial
from morphism.training.begin import opened
from morphism.training.budget import Budget, in_words
from morphism.training.build import Data, Parts, build, load
from morphism.training.rules import RULES, TIMED, apply
from morphism.training.rules.batch import smaller_batch
from morphism.training.rules.case import Case, Timing
from morphism.weights.opening import Weights, holds_heads, variables_like
from morphism.weights.public import PublicDetector

ENDING = 2.0  # seconds that the end of a run takes besides its last evaluation
SEEN = 0.6  # share of a time that is expected for steps, before anything is measured


class Derived(NamedTuple):
    """A configuration without anything to derive, and the reasons of what was derived.

    data, weights: what was opened for that.
    """

    config: ConfigDict
    reasons: dict[str, str]
    data: Data | None = None
    weights: Weights | None = None


def derived(config: ConfigDict, workdir: AnyPath, started: float, say: Callable[[str], None]) -> Derived:
    """Derives the fields that `config` names in config.derive, or takes them from the run that `workdir` holds.

    Args:
      config: the whole configuration; it is not changed.
      workdir: the folder of the run.
      started: when the command started, in seconds of time.time(): a time in config.budget counts from there.
      say: gets a line for each field, with its reason.

    Raises UserError for data that cannot be used, and for a time in config.budget that is over before the first step.
    """
    check_config(config)
    if not config.derive:
        return Derived(config, {})
    for name in config.derive:
        check_choice("config.derive", name, (*RULES, *TIMED))
    if has_steps(workdir):
        return Derived(_as_stored(config, read_config(workdir)), {})
    if not config.data.source:
        raise UserError(
            "config.data.source is empty: give your data with --data PATH, or as --config.data.source=KIND:PATH, of "
            "which `morphism list sources` has the kinds"
        )
    data = _loaded(config)
    classes = counts(tasks.of(config).class_names(data.train))
    weights = opened(config, variables_like(models.create(config.model, classes, AXIS), config), workdir)
    case = Case(
        config=config,
        images=measure(data.train),
        budget=Budget.of(config.budget),
        on_cpu=on_cpu(),
        devices=jax.device_count(),
        whole=weights is not None and holds_heads(weights, config),
        options=dict(weights.public.options) if weights and isinstance(weights.public, PublicDetector) else {},
    )
    end = None if case.budget.seconds is None else started + case.budget.seconds
    if end is not None:
        case = replace(case, affordable=_affordable(case, data, end - time.time()))
    case, reasons = apply(RULES, case)
    case, parts, reasons = _fitted(case, data, reasons)
    if end is not None:
        case = replace(case, timing=_timing(parts, case, end))
    case, more = apply(TIMED, case)
    reasons |= more
    for name, reason in reasons.items():
        say(f"derived {name}={_value(case.config, name)!r}: {reason}")
    config = case.config.copy_and_resolve_references()
    config.derive = ()
    return Derived(config, reasons, data, weights)


def _loaded(config: ConfigDict) -> Data:
    """The data, with as many boxes per image as there are if config.data.max_boxes is to be derived from them."""
    if "data.max_boxes" in config.derive:
        config = config.copy_and_resolve_references()
        config.data.max_boxes = np.iinfo(np.int32).max
    return load(config)


def _as_stored(config: ConfigDict, stored: ConfigDict) -> ConfigDict:
    """`config` with the values that the fields of config.derive, and a budget, have in the configuration of its run."""
    config = config.copy_and_resolve_references()
    config.budget = config.budget or stored.budget
    flat = {name: _value(stored, name) for name in config.derive}
    config.update_from_flattened_dict({name: value for name, value in flat.items() if value is not None})
    config.derive = ()
    return config


def _value(config: ConfigDict, name: str) -> Any:
    """The value of a dotted field; None if there is no such field."""
    node = config
    for each in name.split("."):
        if each not in node:
            return None
        node = node[each]
    return node


def _affordable(case: Case, data: Data, seconds: float) -> Callable[[int, int], float]:
    """Height, width -> an estimate of the images of that size that can be trained on in `seconds`."""
    plain, _ = apply({name: rule for name, rule in RULES.items() if name.startswith("model.")}, case)
    slots = {"data.max_boxes": RULES["data.max_boxes"]} if "data.max_boxes" in case.config.derive else {}
    plain, _ = apply(slots, plain)
    rate = trial.images_per_second(build(plain.config, data))
    return lambda height, width: _agreed(max(SEEN * seconds, 0.0) * rate(height, width))


def _fitted(case: Case, data: Data, reasons: dict[str, str]) -> tuple[Case, Parts, dict[str, str]]:
    """The case with the largest batch, up to the chosen one, whose step fits into the memory; and what it describes."""
    limit = trial.memory_limit()
    while True:
        # Without a time all lengths are known by now, and the programs that depend on them are the training's own.
        whole = case if case.affordable else apply(TIMED, case)[0]
        parts = build(whole.config, data)
        if "batch_size" not in case.config.derive:
            return case, parts, reasons
        needed, size = trial.memory_needed(parts), case.config.batch_size
        shown = f"its step needs {needed / 2**30:.1f} of {limit / 2**30:.1f} GiB"
        if needed <= limit or (smaller := smaller_batch(case, needed, limit)) == size:
            return case, parts, reasons | {"batch_size": f"{reasons['batch_size']}; {shown}"}
        config = case.config.copy_and_resolve_references()
        config.batch_size = smaller
        case = replace(case, config=config)
        reasons = reasons | {"batch_size": f"the largest that fits: a step of {size} needs {shown.split('needs ')[1]}"}


def _timing(parts: Parts, case: Case, end: float) -> Timing:
    """Measures a step and an evaluation. Raises UserError if less than a step is left until `end`."""
    step, compiling = trial.seconds_per_step(parts)
    evaluation = trial.seconds_per_evaluation(parts)
    # Mosaics end at a step that is known only now: another program, which is compiled again.
    again = compiling if "augment.closing" in case.config.derive else 0.0
    left = end - time.time() - ENDING - again
    timing = Timing(_agreed(step), _agreed(evaluation), -_agreed(-left))
    if timing.left < timing.step + timing.evaluation:
        spent = case.budget.seconds - timing.left
        raise UserError(
            f"config.budget={parts.config.budget}: reading the data and compiling took {in_words(spent)}, a step takes "
            f"{in_words(timing.step)} and an evaluation {in_words(timing.evaluation)}; give more, such as "
            f"--budget {math.ceil((1.2 * spent + 100 * timing.step + timing.evaluation) / 60)}min, or a smaller "
            "--config.data.image_size"
        )
    return timing


def _agreed(value: float) -> float:
    """The largest of all processes' values, so that all derive the same."""
    if jax.process_count() == 1:
        return value
    with time_limit("agreeing on what was measured"):
        return float(multihost_utils.process_allgather(np.array(value)).max())
