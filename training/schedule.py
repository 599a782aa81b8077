"""How the learning rate moves over the steps."""

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from morphism.errors import UserError
from morphism.lengths import to_steps


def make_schedule(config: ConfigDict, steps_per_epoch: float) -> optax.Schedule:
    """step (0-based) -> learning rate: the warm-up, then the named decay, a new rate each step.

    step: times `factor` at each boundary, counted from step 0, of the warm-up too. cosine: 1 to final_factor by half a
    cosine (Loshchilov & Hutter 2016), and polynomial: 1 to final_factor by (1 - t)^power, both over the steps between
    the warm-up and the last ones, `hold`. They are torch's MultiStepLR, CosineAnnealingLR and PolynomialLR, with a
    warm-up behind its LinearLR in SequentialLR, which for MultiStepLR counts the boundaries from the warm-up's end. A
    warm-up rises by its share to the power of warmup_power, or with the method "constant" stays at warmup_factor until
    its end. One by the square from 0, a cosine and a hold are YOLOX's yoloxwarmcos (yolox/utils/lr_scheduler.py).
    """
    schedule = config.schedule
    total = to_steps(config.duration, steps_per_epoch, "duration")
    warmup = to_steps(schedule.warmup, steps_per_epoch, "schedule.warmup")
    hold = to_steps(schedule.hold, steps_per_epoch, "schedule.hold")
    if warmup > total:
        raise UserError(f"config.schedule.warmup is {warmup} steps, longer than config.duration's {total}")
    if hold and warmup + hold > total:
        raise UserError(
            f"config.schedule.hold is {hold} steps, with the warm-up's {warmup} more than config.duration's {total}"
        )
    boundaries = [to_steps(b, steps_per_epoch, "schedule.boundaries") for b in schedule.boundaries]
    peak = config.optimizer.learning_rate
    if config.optimizer.reference_batch > 0:
        peak *= config.batch_size / config.optimizer.reference_batch

    def decay(step):
        share = jnp.clip((step - warmup) / max(total - warmup - hold, 1), 0, 1)
        if schedule.name == "step":
            return schedule.factor ** jnp.sum(step >= jnp.array(boundaries, jnp.int32))
        if schedule.name == "cosine":
            return schedule.final_factor + (1 - schedule.final_factor) * 0.5 * (1 + jnp.cos(jnp.pi * share))
        if schedule.name == "polynomial":
            return schedule.final_factor + (1 - schedule.final_factor) * (1 - share) ** schedule.power
        return 1.0

    def learning_rate(step):
        rise = jnp.clip(step / max(warmup, 1), 0, 1) ** schedule.warmup_power if warmup else 1.0
        if schedule.warmup_method == "constant":
            rise = step >= warmup
        return peak * (schedule.warmup_factor + (1 - schedule.warmup_factor) * rise) * decay(step)

    return learning_rate
