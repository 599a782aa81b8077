"""What a training compiles. A later one that differs in hyper-parameters alone runs the same programs again."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from morphism import models, tasks
from morphism.evaluation.step import make_eval_step
from morphism.runtime.mesh import AXIS, compiler_options, replicated
from morphism.tasks import Task
from morphism.training.hyper import HyperParameters
from morphism.training.state import TrainState, init_state, restarted
from morphism.training.step import TrainStep, make_train_step, optimizer_of

# All of a configuration that a program is made of: what hyper.py takes out of it is no part.
WHOLE = ("task", "accumulate", "model", "data", "augment", "loss", "parts")
PARTS = {"optimizer": ("name", "decay", "freeze"), "schedule": ("name", "warmup_method", "warmup_power", "power")}
KEPT = 8  # sets of programs that a process keeps, those used last


@dataclass(frozen=True)
class Programs:
    """Functions of arrays alone, compiled at their first call.

    init: (hyper, whether averages are kept) -> a fresh state
    restart: (fresh state, variables, hyper) -> the same with these variables
    train_step: (state, batch, hyper) -> (state, scalars); the state is donated
    eval_step: (variables, batch) -> predictions
    """

    task: Task
    model: nn.Module
    init: Callable[[HyperParameters, bool], TrainState]
    restart: Callable[[TrainState, dict[str, Any], HyperParameters], TrainState]
    train_step: TrainStep
    eval_step: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


def programs(config: ConfigDict, classes: int, mesh: Mesh) -> Programs:
    """Those of `config`, as its task resolves it: the same ones for the same `static` part of it."""
    return _programs(static(config), classes, mesh)


def static(config: ConfigDict) -> FrozenConfigDict:
    """The fields that change programs, and none beside them: to read another of these is an error."""
    whole = {name: config[name] for name in WHOLE if name in config}
    parts = {group: {name: config[group][name] for name in names} for group, names in PARTS.items()}
    return FrozenConfigDict(whole | parts)


@lru_cache(maxsize=KEPT)
def _programs(config: FrozenConfigDict, classes: int, mesh: Mesh) -> Programs:
    task = tasks.of(config)
    model = models.create(config.model, classes, AXIS)

    def init(hyper: HyperParameters, ema: bool) -> TrainState:
        return init_state(
            model, optimizer_of(config, hyper), image_size=config.data.image_size, seed=hyper.seed, ema=ema
        )

    def restart(state: TrainState, variables: dict[str, Any], hyper: HyperParameters) -> TrainState:
        return restarted(state, variables, optimizer_of(config, hyper))

    once = {"out_shardings": replicated(mesh), "compiler_options": compiler_options(once=True)}
    return Programs(
        task=task,
        model=model,
        init=jax.jit(init, static_argnums=1, **once),
        restart=jax.jit(restart, out_shardings=replicated(mesh)),
        train_step=make_train_step(model=model, task=task, config=config, classes=classes, mesh=mesh),
        eval_step=make_eval_step(model, task, config, mesh),
    )
