"""The training step for every task, on any number of devices.

It is written for one device and its share of the batch; jit(shard_map) maps it over the mesh.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
from morphism.runtime.mesh import AXIS
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


def make_train_step(*, model: nn.Module, task: Task, config: ConfigDict, classes: Counts, mesh: Mesh) -> TrainStep:
    """(state, batch, hyper) -> (state, scalars): the loss, the task's own scalars and the gradient's norm.

    The state is donated. Gradients are means over micro-batches and devices; so are the running statistics, which are
    therefore the same on all devices. Without sync_bn each device normalises by its own batch statistics; each
    micro-batch always does. Parameters that config.optimizer.freeze names get no gradient.

    config: as the task resolves it; the fields in `hyper` are not read.
    """
    step = _Step(model=model, task=task, config=config, classes=classes)
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(AXIS), P()), out_specs=(P(), P()))
    return compiled(mapped, config, donate_argnums=0)


@dataclass(frozen=True)
class _Step:
    """The step on one device."""

    model: nn.Module
    task: Task
    config: ConfigDict
    classes: Counts

    def __call__(self, state: TrainState, batch: Batch, hyper: HyperParameters) -> tuple[TrainState, Scalars]:
        augment_key, model_key = keys_of(hyper.seed)
        keys = augment_key, jax.random.fold_in(model_key, state.step)
        halves = split(state.params, self.config.optimizer.freeze)
        gradients, stats, scalars = self._gradients(halves, state.batch_stats, batch, keys)

        optimizer = optimizer_of(self.config, hyper)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=merge(optax.apply_updates(halves[0], updates), halves[1]),
            batch_stats=stats,
            opt_state=opt_state,
        )
        return update_ema(state, hyper.ema), {**scalars, "grad_norm": optax.tree.norm(gradients)}

    def _gradients(
        self, halves: tuple[Params, Params], batch_stats: Params, batch: Batch, keys: tuple[Array, Array]
    ) -> tuple[Params, Params, Scalars]:
        """Gradients of the trained half of `halves`, running statistics and scalars: means over all devices."""
        # Marked as varying by device, parameters get each device's own gradient; the mean below is explicit.
        trained, frozen, before = jax.lax.pcast((*halves, batch_stats), AXIS, to="varying")

        def micro_step(carry, micro_batch):
            total, stats = carry
            gradients, (stats, scalars) = jax.grad(self._loss, has_aux=True)(trained, frozen, stats, micro_batch, keys)
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
        gradients, changes, scalars = jax.lax.pmean((gradients, changes, scalars), AXIS)
        return gradients, jax.tree.map(jnp.add, batch_stats, changes), scalars

    def _loss(
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
