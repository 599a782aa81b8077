"""Lengths of time in configurations: steps or epochs."""

from morphism.errors import UserError
from morphism.experiments.fields import STEPS_OR_EPOCHS

MOST = 2**31 - 1  # steps: a run counts them in int32


def to_steps(length: str, steps_per_epoch: float, field: str) -> int:
    """`exact_steps`, rounded."""
    return round(exact_steps(length, steps_per_epoch, field))


def exact_steps(length: str, steps_per_epoch: float, field: str) -> float:
    """The steps in a `length`: "500" or "64k" are steps, "90ep" or "0.5ep" epochs; an epoch may end within a step.

    Raises UserError naming `field` for anything else, and for a length above 0 that rounds to 0 steps.
    """
    match = STEPS_OR_EPOCHS.fullmatch(length.strip())
    if not match:
        raise UserError(f'config.{field} is {length!r}: write steps as "500" or "64k", epochs as "90ep"')
    number, unit = float(match[1]), match[2]
    steps = number * {"": 1, "k": 1000, "ep": steps_per_epoch}[unit]
    if (number if unit == "ep" else steps) > MOST:
        raise UserError(f"config.{field} is {length:.30}, more than the {MOST:,} steps that can be counted; write less")
    if round(steps) == 0 and number > 0 and unit == "ep" and steps_per_epoch < 1:
        raise UserError(
            f"config.batch_size is larger than the number of examples: an epoch has {steps_per_epoch:.3g} steps, and "
            f"config.{field} is {length!r}, less than a step; lower config.batch_size to that number at most"
        )
    if round(steps) == 0 and number > 0:
        raise UserError(
            f"config.{field} is {length!r}, less than a step, where an epoch has {steps_per_epoch:.3g} steps; "
            'write more, or "0" for none at all, or lower config.batch_size'
        )
    return steps


def due(step: int, every: float) -> bool:
    """Whether `step` is a multiple of `every` steps, rounded; never if that is 0.

    What is due every 2 epochs is thus due exactly at the end of 4, even if an epoch is not a whole number of steps.
    """
    return every > 0 and step == round(max(round(step / every), 1) * every)
