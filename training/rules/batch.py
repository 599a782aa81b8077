"""Images per step, and the threads that load them."""

import os

from morphism import tasks
from morphism.training.rules.case import Case, Choice
from morphism.training.rules.sizes import shape

STEPS_PER_EPOCH, STEPS = 20, 100  # at least, of an epoch and of a training in a time


def batch_size(case: Case) -> Choice:
    """A power of two: the recipe's batch as the largest on CPU, four times that elsewhere; as fits in memory."""
    config, images = case.config, case.images.records
    recipe, share = config.optimizer.reference_batch or config.batch_size, _share(case)
    limits = {
        "the recipe's" + ("; on CPU larger ones are no faster" if case.on_cpu else ", times 4"): recipe
        * (1 if case.on_cpu else 4),
        f"an epoch of {images:,} images then has at least {STEPS_PER_EPOCH} steps": images / STEPS_PER_EPOCH,
    }
    if case.affordable is not None:
        height, width = config.data.crop if config.data.window_rule == "crop" else shape(config.data.image_size, case)
        limits[f"the budget then has about {STEPS} steps"] = case.affordable(height, width) / STEPS
    reason = min(limits, key=limits.get)
    size = share
    while size * 2 <= limits[reason]:
        size *= 2
    if size > limits[reason]:
        devices = f"{case.devices} device{'s' * (case.devices > 1)}"
        reason = f"the least for {devices}, though less would suit: {reason}"
    return Choice(size, reason)


def smaller_batch(case: Case, needed: int, limit: int) -> int:
    """A batch whose step may fit into `limit` bytes where one of case.config.batch_size needs `needed`.

    A half at most; less where even that is too much, if all of the memory is the batch's. The least stays.
    """
    size, share = case.config.batch_size, _share(case)
    half = size // 2
    while half > share and needed * half / size > limit:
        half //= 2
    return max(half, share)


def _share(case: Case) -> int:
    """The least batch: two images, or the group that is mixed, per device and micro-batch."""
    mixed = tasks.of(case.config).mixed(case.config.augment)
    return case.devices * case.config.accumulate * max(mixed, 2)


def threads(case: Case) -> Choice:
    cores = os.cpu_count()
    return Choice(min(max(cores, 2), 16), f"{cores} core{'s' * (cores > 1)}")
