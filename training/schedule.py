"""How the learning rate moves over the steps."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from morphism.training.hyper import ScheduleValues, schedule_values


def make_schedule(config: ConfigDict, steps_per_epoch: float) -> optax.Schedule:
    """step (0-based) -> learning rate, by the numbers of the whole `config`."""
    return partial(learning_rate, config=config.schedule, values=schedule_values(config, steps_per_epoch))


def learning_rate(step: Any, config: ConfigDict, values: ScheduleValues) -> Any:
    """The rate of a step, counted from 0: the warm-up, then the decay that config.schedule names, a new rate each step.

    step: times `factor` at each boundary, counted from step 0, of the warm-up too. cosine: 1 to final_factor by half a
    cosine (Loshchilov & Hutter 2016), and polynomial: 1 to final_factor by (1 - t)^power, both over the steps between
    the warm-up and the last ones, `hold`. They are torch's MultiStepLR, CosineAnnealingLR and PolynomialLR, with a
    warm-up behind its LinearLR in SequentialLR, which for MultiStepLR counts the boundaries from the warm-up's end. A
    warm-up rises by its share to the power of warmup_power, or with the method "constant" stays at warmup_factor until
    its end. One by the square from 0, a cosine and a hold are YOLOX's yoloxwarmcos (yolox/utils/lr_scheduler.py).
    """
    rate, start, left = 1.0 if values.peak is None else values.peak, values.warmup_factor, values.final_factor
    if config.warmup_method == "constant":
        rate *= start.value + start.rest * (step >= values.warmup)
    elif values.per_warmup is not None:
        rate *= start.value + start.rest * jnp.clip(step * values.per_warmup, 0, 1) ** config.warmup_power
    share = jnp.clip((step - values.warmup) * values.per_decay, 0, 1)
    decay = {
        "constant": lambda: 1.0,
        "step": lambda: values.factor ** jnp.sum(step >= values.boundaries),
        "cosine": lambda: left.value + left.rest * 0.5 * (1 + jnp.cos(jnp.pi * share)),
        "polynomial": lambda: left.value + left.rest * (1 - share) ** config.power,
    }[config.name]()
    return rate * decay
