"""The training step for every task, on any number of devices.

Gradients are written for one device and its share of the batch, and mapped over the mesh by shard_map. The update is
written for whole arrays: the compiler splits it as the state is split, norms of arrays included.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Integer, Key
from ml_collections import ConfigDict

from morphism import models
from morphism.ops.platform import scan
from morphism.runtime.arithmetic import compiled
from morphism.runtime.mesh import AXIS, gathered, mean_gradients, placed, specs, varying
from morphism.tasks import Task
from morphism.tasks.task import Counts
from morphism.training.hyper import EmaValues, HyperParameters
from morphism.training.optimizer import make_optimizer
from morphism.training.parameters import Params, merge, split
from morphism.training.schedule import learning_rate
from morphism.training.state import TrainState

Batch = dict[str, Array]
Scalars = dict[str, Array]
TrainStep = Callable[[TrainState, Batch, HyperParameters], tuple[TrainState, Scalars]]
StackedStep = Callable[[list[TrainState], list[Batch], list[HyperParameters]], list[tuple[TrainState, Scalars]]]


def make_train_step(*, model: nn.Module, task: Task, config: ConfigDict, classes: Counts, mesh: Mesh) -> TrainStep:
    """(state, batch, hyper) -> (state, scalars): the loss, the task's own scalars and the gradient's norm.

    The state is donated, and stays where runtime/mesh.py lays it out. Gradients are means over micro-batches and
    devices; so are the running statistics, which are
    therefore the same on all devices. Without sync_bn each device normalises by its own batch statistics; each
    micro-batch always does. Parameters that config.optimizer.freeze names get no gradient.

    config: as the task resolves it; the fields in `hyper` are not read.
    """
    step = Step(model=model, task=task, config=config, classes=classes, mesh=mesh)
    return compiled(step, config, donate_argnums=0)


def make_stacked_step(*, model: nn.Module, task: Task, config: ConfigDict, classes: Counts, mesh: Mesh) -> StackedStep:
    """The training step of several independent trainings in one program; arguments as those of make_train_step.

    States, batches and hyper-parameters are lists of equal length, each of trees of equal shapes. Convolutions of all
    trainings are one grouped convolution, which may round in another order than single ones.
    """
    step = Step(model=model, task=task, config=config, classes=classes, mesh=mesh)

    def stacked(*lists: list) -> list[tuple[TrainState, Scalars]]:
        whole = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *each) for each in lists]
        results = jax.vmap(step)(*whole)
        single = (jax.tree.map(lambda x: x[index], results) for index in range(len(lists[0])))  # noqa: B023
        return [(placed(state, mesh), scalars) for state, scalars in single]

    return compiled(stacked, config, donate_argnums=0)


@dataclass(frozen=True, eq=False)
class Step:
    """The step over all devices of `mesh`."""

    model: nn.Module
    task: Task
    config: ConfigDict
    classes: Counts
    mesh: Mesh

    def __call__(self, state: TrainState, batch: Batch, hyper: HyperParameters) -> tuple[TrainState, Scalars]:
        augment_key, model_key = keys_of(hyper.seed)
        keys = augment_key, jax.random.fold_in(model_key, state.step)
        halves = split(state.params, self.config.optimizer.freeze)
        layouts = specs(halves, self.mesh)
        gradients, stats, scalars = jax.shard_map(
            partial(self._gradients, layouts),
            mesh=self.mesh,
            in_specs=(layouts, P(), P(AXIS), P()),
            out_specs=(layouts[0], P(), P()),
        )(halves, state.batch_stats, batch, keys)

        optimizer = optimizer_of(self.config, hyper)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=merge(optax.apply_updates(halves[0], updates), halves[1]),
            batch_stats=stats,
            opt_state=opt_state,
        )
        state = placed(update_ema(state, hyper.ema), self.mesh)
        return state, {**scalars, "grad_norm": optax.tree.norm(gradients)}

    def _gradients(
        self, layouts: Any, halves: tuple[Params, Params], batch_stats: Params, batch: Batch, keys: tuple[Array, Array]
    ) -> tuple[Params, Params, Scalars]:
        """On one device: gradients of the trained half of `halves`, running statistics and scalars.

        They are means over all devices. Parameters and gradients are shards, as `layouts` says.
        """
        # Each device's own gradient; the mean below is explicit.
        (trained, frozen), before = varying(halves, layouts), jax.lax.pcast(batch_stats, AXIS, to="varying")

        def loss(trained: Params, *rest: Any) -> Any:
            return self.loss(*gathered((trained, frozen), layouts), *rest)

        def micro_step(carry, micro_batch):
            total, stats = carry
            gradients, (stats, scalars) = jax.grad(loss, has_aux=True)(trained, stats, micro_batch, keys)
            return (jax.tree.map(jnp.add, total, gradients), stats), scalars

        count = self.config.accumulate

        def mean(rows: Array) -> Array:  # rows per micro-batch
            return jax.lax.pmean(jnp.sum(rows) / count, AXIS)

        batch = self.task.shared(batch, mean)
        parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
        zeros = jax.tree.map(jnp.zeros_like, trained)
        (total, stats), scalars = scan(micro_step, (zeros, before), parts, count)
        scalars = jax.tree.map(jnp.mean, scalars)
        gradients = jax.tree.map(lambda g: g / count, total)
        # The mean of changes, not of values: a statistic that no device changed keeps its bits.
        changes = jax.tree.map(jnp.subtract, stats, before)
        gradients = mean_gradients(gradients, layouts[0])
        changes, scalars = jax.lax.pmean((changes, scalars), AXIS)
        return gradients, jax.tree.map(jnp.add, batch_stats, changes), scalars

    def loss(
        self, trained: Params, frozen: Params, batch_stats: Params, batch: Batch, keys: tuple[Array, Array]
    ) -> tuple[Array, tuple[Params, Scalars]]:
        """The loss of a micro-batch, with the running statistics and the scalars to report."""
        augment_key, model_key = keys
        batch = self.task.augment(augment_key, batch, self.config.augment, self.classes)
        outputs, updates = self.model.apply(
            {"params": merge(trained, frozen), "batch_stats": batch_stats},
            batch["image"],
            train=True,
            **models.inputs(self.model, batch),
            mutable=["batch_stats"],
            # A detector derives a key per image from "sampling": the same samples on any number of devices.
            rngs={"dropout": jax.random.fold_in(model_key, batch["id"][0]), "sampling": model_key},
        )
        value, scalars = self.task.loss(self.model, outputs, batch, self.config)
        return value, (updates.get("batch_stats", {}), {"loss": value, **scalars})


def keys_of(seed: Integer[Array, ""]) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """The keys of augmentation and model. The first is the same in every step: what is augmented of an example depends
    only on its record and draw.
    """
    augment_key, model_key = jax.random.split(jax.random.key(seed))
    return augment_key, model_key


def optimizer_of(config: ConfigDict, hyper: HyperParameters) -> optax.GradientTransformation:
    """The optimiser of `config` with the values of `hyper`, which may be traced."""
    schedule = partial(learning_rate, config=config.schedule, values=hyper.schedule)
    return make_optimizer(config.optimizer, schedule, hyper.optimizer)


def update_ema(state: TrainState, values: EmaValues) -> TrainState:
    """Moves the averages of parameters and running statistics towards their current values, every `every` steps.

    The first update copies the values, and so do all updates up to the first one after the `warmup` steps: as
    torchvision's ExponentialMovingAverage with its reference script, which however restarts the count of `every` in
    each epoch. With a `ramp` no update copies, and the decay of step s, from 1, is decay (1 - exp(-s / ramp)): YOLOX's
    ModelEMA.
    """
    if state.ema is None:
        return state
    due = state.step % values.every == 0
    if values.per_ramp is None:
        weight, copies = values.decay.rest, due & (state.step - values.every <= values.warmup)
    else:
        weight, copies = 1 + values.decay.value * jnp.expm1(-state.step * values.per_ramp), False
    weight = jnp.where(due, weight, 0.0)

    def moved(average: Array, x: Array) -> Array:
        return jnp.where(copies, x, average + weight * (x - average))

    return state.replace(ema=jax.tree.map(moved, state.ema, state.variables))
