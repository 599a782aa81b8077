"""The learning rate as a function of the step."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from morphism.training.hyper import ScheduleValues, schedule_values


def make_schedule(config: ConfigDict, steps_per_epoch: float) -> optax.Schedule:
    """Step, from 0 -> learning rate; `config` is the whole configuration."""
    return partial(learning_rate, config=config.schedule, values=schedule_values(config, steps_per_epoch))


def learning_rate(step: Any, config: ConfigDict, values: ScheduleValues) -> Any:
    """The learning rate of a step, counted from 0: the peak, times the warm-up, times the decay.

    The warm-up rises from warmup_factor to 1 by its completed share to the power of warmup_power; with the method
    "constant" it stays at warmup_factor until its end. The decay is one of
      constant: 1;
      step: multiplied by `factor` at each boundary, counted from step 0;
      cosine: from 1 to final_factor by half a cosine (Loshchilov & Hutter 2016);
      polynomial: from 1 to final_factor by (1 - t)^power.
    Cosine and polynomial extend over the steps between the warm-up and the last `hold` steps.

    The decays are torch's MultiStepLR, CosineAnnealingLR and PolynomialLR, after a warm-up by LinearLR in SequentialLR;
    there MultiStepLR counts the boundaries from the end of the warm-up. A quadratic warm-up from 0, a cosine and a hold
    are YOLOX's yoloxwarmcos (yolox/utils/lr_scheduler.py).
    """
    value, start, final = 1.0 if values.peak is None else values.peak, values.warmup_factor, values.final_factor
    if config.warmup_method == "constant":
        value *= start.value + start.rest * (step >= values.warmup)
    elif values.per_warmup is not None:
        value *= start.value + start.rest * jnp.clip(step * values.per_warmup, 0, 1) ** config.warmup_power
    share = jnp.clip((step - values.warmup) * values.per_decay, 0, 1)
    decay = {
        "constant": lambda: 1.0,
        "step": lambda: values.factor ** jnp.sum(step >= values.boundaries),
        "cosine": lambda: final.value + final.rest * 0.5 * (1 + jnp.cos(jnp.pi * share)),
        "polynomial": lambda: final.value + final.rest * (1 - share) ** config.power,
    }[config.name]()
    return value * decay
