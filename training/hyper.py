"""Hyper-parameters that change no shape: arguments of the compiled step, so that a new value needs no compilation.

A value is None if the part of the step that uses it is absent: without momentum, weight decay, clipping or a warm-up
the step is another program. Exponents are not arguments: XLA replaces a constant power by products, which round
differently. XLA replaces a division by a constant by a product with its inverse; here the inverses are the arguments,
for the same bits.
"""

from typing import Any, NamedTuple

import flax
import jax
import numpy as np
from jax import dtypes
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism.errors import UserError
from morphism.lengths import to_steps
from morphism.runtime.mesh import replicated

Number = Any  # a Python number, or an array, traced inside the step


class Share(NamedTuple):
    """x and 1 - x, each rounded once: computed in float32, 1 - x would inherit the rounding of x."""

    value: Number
    rest: Number

    @classmethod
    def of(cls, value: float) -> "Share":
        return cls(value, 1 - value)


@flax.struct.dataclass
class OptimizerValues:
    """The values of config.optimizer; `patterns` and `factors` are the two halves of lr_multipliers."""

    momentum: Number | None
    rms_decay: Share
    beta1: Share
    beta2: Share
    epsilon: Number
    trust_coefficient: Number
    weight_decay: Number | None
    clip_norm: Number | None
    factors: tuple[Number, ...]
    patterns: tuple[str, ...] = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class ScheduleValues:
    """The values of config.schedule, lengths in steps; `peak` is the highest learning rate, for config.batch_size."""

    peak: Number | None  # None: 1, so no product
    warmup: Number
    per_warmup: Number | None  # 1 / warmup
    warmup_factor: Share
    per_decay: Number  # 1 / the steps between the warm-up and `hold`
    final_factor: Share
    boundaries: Any  # int32 [n]
    factor: Number


@flax.struct.dataclass
class EmaValues:
    """The values of config.ema, lengths in steps."""

    decay: Share
    every: Number
    warmup: Number  # of the learning rate
    per_ramp: Number | None  # 1 / ramp


@flax.struct.dataclass
class HyperParameters:
    """The arguments of a training step next to its state and batch."""

    seed: Number
    optimizer: OptimizerValues
    schedule: ScheduleValues
    ema: EmaValues


def hyper_parameters(config: ConfigDict, steps_per_epoch: float) -> HyperParameters:
    """The hyper-parameters of `config`, as numbers on the host. Raises UserError if its lengths make no schedule."""
    every, ramp = (to_steps(config.ema[name], steps_per_epoch, f"ema.{name}") for name in ("every", "ramp"))
    schedule = schedule_values(config, steps_per_epoch)
    return HyperParameters(
        seed=np.uint32(config.seed),
        optimizer=optimizer_values(config.optimizer),
        schedule=schedule,
        ema=ema_values(config.ema.decay, every=every, warmup=schedule.warmup, ramp=ramp),
    )


def on_devices(hyper: HyperParameters, mesh: Mesh) -> HyperParameters:
    """The same values as float32, int32 or uint32 arrays on every device, so that no step has to send them."""

    def put(number: float | np.generic | np.ndarray) -> jax.Array:
        array = np.asarray(number, dtypes.canonicalize_dtype(np.result_type(number)))
        return jax.make_array_from_callback(array.shape, replicated(mesh), array.__getitem__)

    return jax.tree.map(put, hyper)


def optimizer_values(config: ConfigDict) -> OptimizerValues:
    """The values of `config`, which is config.optimizer. An optimiser ignores those that it does not use."""
    return OptimizerValues(
        momentum=_unless_zero(config.momentum),
        rms_decay=Share.of(config.rms_decay),
        beta1=Share.of(config.beta1),
        beta2=Share.of(config.beta2),
        epsilon=config.epsilon,
        trust_coefficient=config.trust_coefficient,
        weight_decay=_unless_zero(config.weight_decay),
        clip_norm=_unless_zero(config.clip_norm),
        factors=tuple(factor for _, factor in config.lr_multipliers),
        patterns=tuple(pattern for pattern, _ in config.lr_multipliers),
    )


def _unless_zero(value: float) -> float | None:
    return value if value > 0 else None


def schedule_values(config: ConfigDict, steps_per_epoch: float) -> ScheduleValues:
    """The schedule of the whole `config`. Raises UserError for lengths that make no schedule."""
    schedule = config.schedule
    total = to_steps(config.duration, steps_per_epoch, "duration")
    warmup = to_steps(schedule.warmup, steps_per_epoch, "schedule.warmup")
    hold = to_steps(schedule.hold, steps_per_epoch, "schedule.hold")
    if warmup > total:
        raise UserError(
            f"config.schedule.warmup is {warmup} steps, longer than config.duration's {total}; shorten it, such as to "
            f'"{total // 10}", or lengthen config.duration'
        )
    if hold and warmup + hold > total:
        raise UserError(
            f"config.schedule.hold is {hold} steps, with the warm-up's {warmup} more than config.duration's {total}; "
            "shorten one of them, or lengthen config.duration"
        )
    boundaries = [to_steps(b, steps_per_epoch, "schedule.boundaries") for b in schedule.boundaries]
    peak, reference = config.optimizer.learning_rate, config.optimizer.reference_batch
    if reference > 0:
        peak *= config.batch_size / reference
    return ScheduleValues(
        peak=None if peak == 1 else peak,
        warmup=warmup,
        per_warmup=1 / warmup if warmup else None,
        warmup_factor=Share.of(schedule.warmup_factor),
        per_decay=1 / max(total - warmup - hold, 1),
        final_factor=Share.of(schedule.final_factor),
        boundaries=np.array(boundaries, np.int32),
        factor=schedule.factor,
    )


def ema_values(decay: float, *, every: int = 1, warmup: int = 0, ramp: int = 0) -> EmaValues:
    """The values of config.ema, with its lengths in steps; `warmup` is that of the learning rate."""
    return EmaValues(Share.of(decay), every, warmup, 1 / ramp if ramp else None)
