"""One training step, for every task, on any number of devices.

It is written for one device with its share of the batch, and mapped over the mesh by jit(shard_map).
"""

from collections.abc import Callable
from types import ModuleType

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
from ml_collections import ConfigDict

from morphism.ops.platform import scan
from morphism.runtime.mesh import AXIS, compiler_options
from morphism.training.parameters import merge, split
from morphism.training.state import TrainState

Batch = dict[str, Array]
Scalars = dict[str, Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Scalars]]


def make_train_step(
    model: nn.Module,
    task: ModuleType,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    classes: int,
    ema_every: int,
    mesh: Mesh,
    warmup: int = 0,
    ema_ramp: int = 0,
) -> TrainStep:
    """(state, batch) -> (state, scalars): loss, the task's own scalars and the gradient's norm. The state is donated.

    Gradients are means over micro-batches and devices; so are the running statistics, which are therefore the same
    everywhere. Without sync_bn each device, and always each micro-batch, normalises by its own batch statistics.
    Parameters that config.optimizer.freeze names get no gradient. The moving averages, where they are kept, follow
    every `ema_every` steps, and are copies through the learning rate's `warmup` steps, or begin by `ema_ramp`.
    """

    def loss(trained, frozen, batch_stats, batch, augment_key, model_key):
        batch = task.augment(augment_key, batch, config.augment, classes)
        outputs, updates = model.apply(
            {"params": merge(trained, frozen), "batch_stats": batch_stats},
            batch["image"],
            train=True,
            **task.inputs(model, batch),
            mutable=["batch_stats"],
            # A detector makes a picture's own key of "sampling", for the same samples on any number of devices.
            rngs={"dropout": jax.random.fold_in(model_key, batch["id"][0]), "sampling": model_key},
        )
        value, scalars = task.loss(model, outputs, batch, config)
        return value, (updates.get("batch_stats", {}), {"loss": value, **scalars})

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        # The same key in every step: an example's augmentation depends on its record and draw alone.
        augment_key, model_key = jax.random.split(jax.random.key(config.seed))
        model_key = jax.random.fold_in(model_key, state.step)
        # Marked as differing by device, parameters get each device's own gradient, and the mean below is explicit.
        halves = split(state.params, config.optimizer.freeze)
        trained, frozen, batch_stats = jax.lax.pcast((*halves, state.batch_stats), AXIS, to="varying")

        def micro_step(carry, micro_batch):
            total, stats = carry
            gradients, (stats, scalars) = jax.grad(loss, has_aux=True)(
                trained, frozen, stats, micro_batch, augment_key, model_key
            )
            return (jax.tree.map(jnp.add, total, gradients), stats), scalars

        parts = jax.tree.map(lambda x: x.reshape(config.accumulate, -1, *x.shape[1:]), batch)
        zeros = jax.tree.map(jnp.zeros_like, trained)
        (total, stats), scalars = scan(micro_step, (zeros, batch_stats), parts, config.accumulate)
        scalars = jax.tree.map(jnp.mean, scalars)
        gradients = jax.tree.map(lambda g: g / config.accumulate, total)
        # The mean of changes, not of values: a statistic that no device moved stays as it was, to the bit.
        moved = jax.tree.map(jnp.subtract, stats, batch_stats)
        gradients, moved, scalars = jax.lax.pmean((gradients, moved, scalars), AXIS)
        stats = jax.tree.map(jnp.add, state.batch_stats, moved)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=merge(optax.apply_updates(halves[0], updates), halves[1]),
            batch_stats=stats,
            opt_state=opt_state,
        )
        state = update_ema(state, config.ema.decay, ema_every, warmup, ema_ramp)
        return state, {**scalars, "grad_norm": optax.tree.norm(gradients)}

    return jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=(P(), P())),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )


def update_ema(state: TrainState, decay: float, every: int, warmup: int, ramp: int = 0) -> TrainState:
    """Moves the averages, of parameters and running statistics, towards the present values every `every` steps.

    The first update copies, and so do those of the `warmup` steps and the first behind them: torchvision's
    ExponentialMovingAverage with its reference script, which counts `every` anew in each epoch, here they run through.
    With a `ramp` none copies, and the decay of step s, counted from 1, is decay (1 - exp(-s / ramp)): YOLOX's ModelEMA.
    """
    if state.ema is None:
        return state
    due = state.step % every == 0
    weight = jnp.where(due, 1 - decay * (-jnp.expm1(-state.step / ramp) if ramp else 1), 0.0)
    copies = due & (state.step - every <= warmup) & (ramp == 0)
    present = {"params": state.params, "batch_stats": state.batch_stats}
    return state.replace(
        ema=jax.tree.map(lambda average, x: jnp.where(copies, x, average + weight * (x - average)), state.ema, present)
    )
