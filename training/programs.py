"""The compiled programs of a training. Another one that differs only in hyper-parameters runs the same programs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Integer
from ml_collections import ConfigDict, FrozenConfigDict

from morphism import models, tasks
from morphism.evaluation.step import make_eval_step
from morphism.models import cost
from morphism.runtime.arithmetic import compiled
from morphism.runtime.mesh import AXIS, placed
from morphism.tasks import Task
from morphism.tasks.task import Counts
from morphism.training.hyper import HyperParameters
from morphism.training.state import TrainState, init_state, restarted
from morphism.training.step import StackedStep, TrainStep, keys_of, make_stacked_step, make_train_step, optimizer_of

# The fields of a configuration that programs depend on; those in hyper.py are arguments of the programs.
WHOLE = ("task", "precision", "deterministic", "accumulate", "model", "data", "augment", "loss", "parts", "fusion")
PARTS = {"optimizer": ("name", "decay", "freeze"), "schedule": ("name", "warmup_method", "warmup_power", "power")}
KEPT = 8  # sets of programs that a process keeps: the most recently used


@dataclass(frozen=True)
class Programs:
    """Functions of arrays only, compiled at their first call.

    init: (hyper, whether moving averages are kept) -> a random state
    restart: (fresh state, variables, hyper) -> the state with these variables
    train_step: (state, batch, hyper) -> (state, scalars); the state is donated
    stacked_step: lists of those of several trainings -> a list of (state, scalars); the states are donated
    train_flops: (state, batch, hyper) -> floating-point operations of the step's convolutions and matrix products, over
      all devices; it traces the step, as the first call would
    eval_step: (variables, batch) -> predictions
    augment: (seed, rows of a batch on one device) -> the rows as the training step augments them
    """

    task: Task
    model: nn.Module
    init: Callable[[HyperParameters, bool], TrainState]
    restart: Callable[[TrainState, dict[str, Any], HyperParameters], TrainState]
    train_step: TrainStep
    stacked_step: StackedStep
    train_flops: Callable[[TrainState, dict[str, Any], HyperParameters], int]
    eval_step: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
    augment: Callable[[np.uint32, dict[str, Any]], dict[str, Any]]


def programs(config: ConfigDict, classes: Counts, mesh: Mesh) -> Programs:
    """The programs of `config`, as its task resolves it; configs with the same `static` part share them."""
    return _programs(static(config), classes, mesh)


def static(config: ConfigDict) -> FrozenConfigDict:
    """Only the fields that programs depend on: reading any other field raises an error."""
    whole = {name: config[name] for name in WHOLE if name in config}
    parts = {group: {name: config[group][name] for name in names} for group, names in PARTS.items()}
    return FrozenConfigDict(whole | parts)


def kind(config: ConfigDict) -> tuple[FrozenConfigDict, int, bool]:
    """What two configurations must have in common so that a stacked step may train both."""
    return static(config), config.batch_size, config.ema.decay > 0


@lru_cache(maxsize=KEPT)
def _programs(config: FrozenConfigDict, classes: Counts, mesh: Mesh) -> Programs:
    task = tasks.of(config)
    model = models.create(config.model, classes, AXIS)

    def init(hyper: HyperParameters, ema: bool) -> TrainState:
        state = init_state(
            model, optimizer_of(config, hyper), image_size=config.data.image_size, seed=hyper.seed, ema=ema
        )
        return placed(state, mesh)

    def restart(state: TrainState, variables: dict[str, Any], hyper: HyperParameters) -> TrainState:
        return placed(restarted(state, variables, optimizer_of(config, hyper)), mesh)

    def augment(seed: Integer[Array, ""], batch: dict[str, Any]) -> dict[str, Any]:
        return task.augment(keys_of(seed)[0], batch, config.augment, classes)

    described = {"model": model, "task": task, "config": config, "classes": classes, "mesh": mesh}
    train_step = make_train_step(**described)

    def train_flops(*arguments: Any) -> int:
        traced = train_step.trace(*arguments)
        return 2 * mesh.size * cost.of_program(traced.jaxpr.jaxpr)  # it is the program of one device

    return Programs(
        task=task,
        model=model,
        init=compiled(init, config, once=True, static_argnums=1),
        restart=jax.jit(restart),
        train_step=train_step,
        stacked_step=make_stacked_step(**described),
        train_flops=train_flops,
        eval_step=make_eval_step(model, task, config, mesh),
        augment=compiled(augment, config, once=True),
    )
