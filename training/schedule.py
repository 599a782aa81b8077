"""Lengths of time, and how the learning rate moves over them."""

import re

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from errors import UserError, check_choice


def to_steps(length: str, steps_per_epoch: float, field: str) -> int:
    """ "500" or "64k" are steps, "90ep" or "0.5ep" epochs.

    Raises UserError naming `field` for anything else, and for a length that is not zero and yet no step long.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k|ep|)", length.strip())
    if not match:
        raise UserError(f'config.{field} is {length!r}: write steps as "500" or "64k", epochs as "90ep"')
    number, unit = float(match[1]), match[2]
    steps = round(number * {"": 1, "k": 1000, "ep": steps_per_epoch}[unit])
    if steps == 0 and number > 0:
        raise UserError(
            f"config.{field} is {length!r}, less than a step, where an epoch has {steps_per_epoch:.3g} steps; "
            'write more, or "0" for none at all, or lower config.batch_size'
        )
    return steps


def make_schedule(config: ConfigDict, steps_per_epoch: float) -> optax.Schedule:
    """step (0-based) -> learning rate: linear warm-up, then the named decay, a new rate each step.

    step: times `factor` at each boundary, counted from step 0, of the warm-up too. cosine: 1 to final_factor by half a
    cosine (Loshchilov & Hutter 2016), and polynomial: 1 to final_factor by (1 - t)^power, both over the steps that
    follow the warm-up. They are torch's MultiStepLR, CosineAnnealingLR and PolynomialLR, with a warm-up behind its
    LinearLR in SequentialLR, which for MultiStepLR counts the boundaries from the warm-up's end.
    """
    schedule = config.schedule
    check_choice("config.schedule.name", schedule.name, ("constant", "step", "cosine", "polynomial"))
    total = to_steps(config.duration, steps_per_epoch, "duration")
    warmup = to_steps(schedule.warmup, steps_per_epoch, "schedule.warmup")
    if warmup > total:
        raise UserError(f"config.schedule.warmup is {warmup} steps, longer than config.duration's {total}")
    boundaries = [to_steps(b, steps_per_epoch, "schedule.boundaries") for b in schedule.boundaries]
    peak = config.optimizer.learning_rate
    if config.optimizer.reference_batch > 0:
        peak *= config.batch_size / config.optimizer.reference_batch

    def decay(step):
        share = jnp.clip((step - warmup) / max(total - warmup, 1), 0, 1)
        if schedule.name == "step":
            return schedule.factor ** jnp.sum(step >= jnp.array(boundaries, jnp.int32))
        if schedule.name == "cosine":
            return schedule.final_factor + (1 - schedule.final_factor) * 0.5 * (1 + jnp.cos(jnp.pi * share))
        if schedule.name == "polynomial":
            return schedule.final_factor + (1 - schedule.final_factor) * (1 - share) ** schedule.power
        return 1.0

    def learning_rate(step):
        rise = jnp.clip(step / max(warmup, 1), 0, 1) if warmup else 1.0
        return peak * (schedule.warmup_factor + (1 - schedule.warmup_factor) * rise) * decay(step)

    return learning_rate
