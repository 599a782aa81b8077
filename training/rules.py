"""The rules by which fields of a configuration are derived from data, budget and device: config.derive names them.

A rule is a pure function: case -> value and reason. RULES has them in the order in which they are applied: a rule sees
the values of those before it, derived or written by hand. Those of TIMED depend on what a step takes.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from morphism.data.proportions import Proportions
from morphism.lengths import to_steps
from morphism.training.budget import Budget, in_words

STRIDE = 32  # pixels: sides are multiples, as the networks' strides require
SIDES = (64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512, 640, 768, 1024)  # of derived images, the shorter
OBJECT = 20  # pixels that a small object should have in the network's input
LARGEST = {"classification": 224, "detection": 640, "instances": 640, "segmentation": 512}  # sides that images need
ON_CPU = {"classification": 128, "detection": 640, "instances": 640, "segmentation": 256}  # where no time is given
ANCHORS = (4, 8, 12, 16, 24, 32, 48, 64)
PASSES, FEWEST, ENOUGH = 5, 1000, 50_000  # over the data; images that a training should see at least; that suffice
FEW = 10_000  # images, below which what the weights know of images is kept
STEPS_PER_EPOCH, STEPS = 20, 100  # at least, of an epoch and of a training in a time
EVALUATIONS = 10  # of a training
EVALUATING = 0.2  # of the time, at most
DEFAULT_EPOCHS, LEAST_STEPS, MOST_STEPS = 20, 500, 20_000  # of a training without a budget
WARMUP_SHARE, WARMUP_MOST = 0.1, 500
SCRATCH = {"momentum": 10.0, "adamw": 5.0}  # factors of the learning rate without weights
NARROW = {"channels": 128, "head_width": 512, "mask_width": 128}  # heads on CPU
FEWER = {"train_candidates": 500, "candidates": 300, "train_proposals": 500, "proposals": 300, "box_samples": 128}


class Choice(NamedTuple):
    value: Any
    reason: str


@dataclass(frozen=True)
class Timing:
    """What was measured: seconds of a step and of one evaluation; those that are left when the training starts."""

    step: float
    evaluation: float
    left: float


@dataclass(frozen=True)
class Case:
    """What rules see.

    config: with the values derived so far.
    affordable: height, width -> how many images of that size can be trained on in the budget; None without a time.
    whole: whether the weights hold the heads, too.
    options: of the model, that its public weights were trained with.
    timing: None before a step was measured.
    """

    config: ConfigDict
    images: Proportions
    budget: Budget
    on_cpu: bool
    devices: int
    affordable: Callable[[int, int], float] | None = None
    whole: bool = False
    options: Mapping[str, float] = field(default_factory=dict)
    timing: Timing | None = None

    @property
    def weights(self) -> bool:
        return bool(self.config.init_from)

    @property
    def epoch(self) -> float:
        """In steps."""
        return self.images.records / self.config.batch_size

    @property
    def steps(self) -> int:
        return to_steps(self.config.duration, self.epoch, "duration")


# Before the first step.


def threads(case: Case) -> Choice:
    cores = os.cpu_count()
    return Choice(min(max(cores, 2), 16), f"{cores} core{'s' * (cores > 1)}")


def max_boxes(case: Case) -> Choice:
    most = case.images.most_boxes
    if case.config.augment.mosaic > 0:
        return Choice(max(2 * most, 20), f"an image has up to {most} boxes, a mosaic those of four, not all within it")
    return Choice(max(most, 1), f"an image has up to {most} boxes")


def detections(case: Case) -> Choice:
    most = case.images.most_boxes
    return Choice(max(100, 2 * most), f"an image has up to {most} boxes; COCO's measure counts 100")


def freeze(case: Case) -> Choice:
    if case.weights and case.images.records < FEW:
        return Choice(case.config.optimizer.freeze, f"the first layers keep the weights: {_few(case)}")
    return Choice((), "all is trained: " + (_many(case) if case.weights else "there are no weights to keep"))


def frozen_bn(case: Case) -> Choice:
    if case.weights and case.images.records < FEW:
        return Choice(True, f"statistics of the weights are better than those of few images: {_few(case)}")
    return Choice(False, _many(case) if case.weights else "random weights need their own statistics")


def lr_multipliers(case: Case) -> Choice:
    if case.weights:
        return Choice(case.config.optimizer.lr_multipliers, "heads start untrained, the rest does not")
    return Choice((), "all starts untrained")


def _few(case: Case) -> str:
    return f"{case.images.records:,} images are fewer than {FEW:,}"


def _many(case: Case) -> str:
    return f"{case.images.records:,} images are enough"


def bn_epsilon(case: Case) -> Choice:
    if "bn_epsilon" in case.options:
        return Choice(dict(case.options)["bn_epsilon"], "as these public weights were trained")
    return Choice(case.config.model.options.bn_epsilon, "as ResNets are trained")


def narrow(option: str) -> Callable[[Case], Choice]:
    """Halves the width of untrained heads on CPU."""

    def rule(case: Case) -> Choice:
        own = case.config.model.options[option]
        if case.whole:
            return Choice(own, "as the weights have it")
        if case.on_cpu:
            why = "heads start untrained, and narrow ones learn more per minute on CPU"
            return Choice(min(own, NARROW[option]), why)
        return Choice(own, "the network's own")

    return rule


def fewer(option: str) -> Callable[[Case], Choice]:
    """Reduces on CPU what the second stage has to look at; `proposals` stay above the objects that there can be."""

    def rule(case: Case) -> Choice:
        own, least = case.config.model.options[option], 2 * case.images.most_boxes
        if case.on_cpu:
            return Choice(min(own, max(FEWER[option], least)), "on CPU fewer boxes per image learn more per minute")
        return Choice(own, "the network's own")

    return rule


def image_size(case: Case) -> Choice:
    """The largest side that data and budget ask for.

    Data: as large as the images are, up to LARGEST; larger, up to twice as large as the images, where small objects
    (the 5th percentile) would have less than OBJECT pixels. On CPU without a time: as small as small objects, or
    ON_CPU, allow. Time: the largest for which it suffices to see enough images, PASSES times all of them.
    """
    top, why = _wanted(case)
    sides = [side for side in SIDES if side <= top] or [SIDES[0]]
    if case.affordable is None:
        return Choice(sides[-1], why)
    needed = min(max(PASSES * case.images.records, FEWEST), ENOUGH)
    least = SIDES[1] if case.images.shorter >= SIDES[1] else SIDES[0]
    sides = [side for side in sides if side >= least] or sides[-1:]
    for side in reversed(sides):
        if case.affordable(*_shape(side, case)) >= needed:
            break
    seen = case.affordable(*_shape(side, case))
    if side == sides[-1] and seen >= needed:
        return Choice(side, f"{why}; the budget suffices for {_round(seen)} of that size")
    size = "the smallest" if seen < needed else "the largest"
    wish = f"of {needed:,} that are wanted" if seen < needed else f"(wanted: {needed:,}; the data asks for {sides[-1]})"
    return Choice(side, f"{size} size, of which the budget suffices for {_round(seen)} {wish}")


def _wanted(case: Case) -> tuple[float, str]:
    task, native = case.config.task, case.images.shorter
    if task == "classification":
        top = LARGEST[task] if native >= LARGEST[task] / 2 else max(2 * native, SIDES[0])
        why = f"images have {native:.0f} pixels, {LARGEST[task]} is what networks are trained on"
    else:
        top, why = min(native, LARGEST[task]), f"images have {native:.0f} pixels"
    needed = OBJECT / case.images.small() if len(case.images.objects) else 0.0
    if needed > top:
        top = min(needed, 2 * native, SIDES[-1])
        why = f"images have {native:.0f} pixels, and small objects then {top * case.images.small():.0f}"
    if case.on_cpu and case.budget.seconds is None:
        low = min(max(needed, SIDES[2]), top) if needed else min(top, ON_CPU[task])
        if low < top:
            aim = f"small objects then have {low * case.images.small():.0f} pixels" if needed else "on CPU"
            # Rounded up, so that objects keep these pixels.
            return next(side for side in SIDES if side >= low), f"without minutes as a budget, on CPU: {aim}"
    return top, why


def _round(images: float) -> str:
    return f"{images:,.0f} images"


def _shape(side: int, case: Case) -> tuple[int, int]:
    """Height and width of a canvas whose shorter side is `side`."""
    if case.config.task == "classification":
        return side, side
    aspect = case.images.aspect
    height, width = (side, side / aspect) if aspect < 1 else (side * aspect, side)
    if aspect == 1:  # images of all orientations: the longer side counts
        long = side * float((case.images.sizes.max(axis=1) / case.images.sizes.min(axis=1)).mean())
        height = width = long if case.config.data.window_rule == "canvas" else side
    return tuple(max(round(each / STRIDE), 1) * STRIDE for each in (height, width))


def canvases(case: Case) -> Choice:
    shape = _shape(case.config.data.image_size, case)
    ratio = "images of both orientations fit in" if case.images.aspect == 1 else "the shape of most images"
    return Choice((shape,), f"{ratio}, one program for all")


def resize_size(case: Case) -> Choice:
    side = case.config.data.image_size
    if case.images.shorter < side * 8 / 7:
        return Choice(side, "images are small: evaluation sees all of them")
    return Choice(round(side * 8 / 7), "evaluation sees the central 7/8, as ImageNet's")


def crop(case: Case) -> Choice:
    height, width = (min(each, LARGEST["segmentation"]) for each in _shape(case.config.data.image_size, case))
    return Choice((height, width), f"a whole image, at most {LARGEST['segmentation']} pixels per side")


def anchor_size(case: Case) -> Choice:
    pixels = case.images.small() * case.config.data.image_size
    size = max((each for each in ANCHORS if each <= pixels), default=ANCHORS[0])
    return Choice(size, f"small objects (5 %) have up to {pixels:.0f} pixels at this image_size")


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
        shape = config.data.crop if config.data.window_rule == "crop" else _shape(config.data.image_size, case)
        limits[f"the budget then has about {STEPS} steps"] = case.affordable(*shape) / STEPS
    reason = min(limits, key=limits.get)
    size = share
    while size * 2 <= limits[reason]:
        size *= 2
    return Choice(
        size, reason if size <= limits[reason] else f"the least of {case.devices} device(s); {reason}, if less"
    )


def _share(case: Case) -> int:
    group = 4 if case.config.augment.get("mosaic", 0) > 0 else 1
    return case.devices * case.config.accumulate * group * (1 if group > 1 else 2)


def smaller_batch(case: Case, needed: int, limit: int) -> int:
    """A batch whose step may fit into `limit` bytes where one of case.config.batch_size needs `needed`.

    A half at most; less where even that is too much, if all of the memory is the batch's. The least stays.
    """
    size, share = case.config.batch_size, _share(case)
    half = size // 2
    while half > share and needed * half / size > limit:
        half //= 2
    return max(half, share)


# When the batch is known, and where there is a time, what a step takes.


def learning_rate(case: Case) -> Choice:
    config = case.config.optimizer
    ratio = case.config.batch_size / config.reference_batch if config.reference_batch else 1.0
    adaptive = config.name in ("adam", "adamw")
    factor = (ratio**0.5 if adaptive else ratio) * (1.0 if case.weights else SCRATCH.get(config.name, 1.0))
    rule = "the root of the batch" if adaptive else "the batch"
    start = "" if case.weights else ", from random weights"
    reason = f"{config.learning_rate:g} for batches of {config.reference_batch}, in proportion to {rule}{start}"
    return Choice(float(f"{config.learning_rate * factor:.3g}"), reason)


def reference_batch(case: Case) -> Choice:
    return Choice(0, "learning_rate is for this batch_size")


def duration(case: Case) -> Choice:
    if case.timing is not None:
        evaluations, each = _evaluations(case.timing), case.timing
        steps = max(int((each.left - evaluations * each.evaluation) / each.step), 1)
        measured = f"a step takes {in_words(each.step) if each.step >= 10 else f'{each.step:.2f} s'}"
        looks = f"{evaluations} evaluation{'s' * (evaluations > 1)} of {each.evaluation:.1f} s"
        seen = f"{steps * case.config.batch_size / case.images.records:.2g} times all images"
        return Choice(str(steps), f"{measured}, and {in_words(each.left)} are left for steps and {looks}: {seen}")
    if case.budget.length:
        return Choice(case.budget.length, "the budget")
    steps = round(min(max(DEFAULT_EPOCHS * case.epoch, LEAST_STEPS), MOST_STEPS))
    return Choice(
        str(steps), f"no --budget: {DEFAULT_EPOCHS} epochs, at least {LEAST_STEPS} steps and at most {MOST_STEPS:,}"
    )


def _evaluations(timing: Timing) -> int:
    return max(min(int(EVALUATING * timing.left / timing.evaluation), EVALUATIONS), 1)


def eval_every(case: Case) -> Choice:
    count = EVALUATIONS if case.timing is None else _evaluations(case.timing)
    every = -(-case.steps // count)
    if case.timing is None and every < case.epoch:
        return Choice("1ep", "after every epoch")
    cost = "" if case.timing is None else f": at most {EVALUATING:.0%} of the time"
    return Choice(str(every), f"{count} time{'s' * (count > 1)} in all{cost}")


def checkpoint_every(case: Case) -> Choice:
    return Choice(case.config.eval_every, "with each evaluation")


def log_every(case: Case) -> Choice:
    return Choice(str(min(max(case.steps // 50, 1), 50)), "some 50 lines, or every 50 steps")


def warmup(case: Case) -> Choice:
    steps = min(round(WARMUP_SHARE * case.steps), WARMUP_MOST)
    return Choice(str(max(steps, 1)), f"{WARMUP_SHARE:.0%} of the steps, at most {WARMUP_MOST}")


def hold(case: Case) -> Choice:
    return Choice(str(max(case.steps // 8, 1)), "the last eighth of the steps")


def closing(case: Case) -> Choice:
    return Choice(str(max(case.steps // 5, 1)), "the last fifth of the steps is without mosaics")


def ema_decay(case: Case) -> Choice:
    return Choice(float(f"{min(max(1 - 10 / case.steps, 0.5), 0.9998):.4g}"), "an average over a tenth of the steps")


def ema_ramp(case: Case) -> Choice:
    return Choice(str(max(case.steps // 20, 1)), "a twentieth of the steps")


Rules = Mapping[str, Callable[[Case], Choice]]

RULES: Rules = {
    "data.threads": threads,
    "data.max_boxes": max_boxes,
    "model.options.detections": detections,
    "model.options.bn_epsilon": bn_epsilon,
    **{f"model.options.{option}": narrow(option) for option in NARROW},
    **{f"model.options.{option}": fewer(option) for option in FEWER},
    "model.frozen_bn": frozen_bn,
    "optimizer.freeze": freeze,
    "optimizer.lr_multipliers": lr_multipliers,
    "data.image_size": image_size,
    "data.canvases": canvases,
    "data.resize_size": resize_size,
    "data.crop": crop,
    "model.options.anchor_size": anchor_size,
    "batch_size": batch_size,
}
TIMED: Rules = {
    "optimizer.learning_rate": learning_rate,
    "optimizer.reference_batch": reference_batch,
    "duration": duration,
    "eval_every": eval_every,
    "checkpoint_every": checkpoint_every,
    "log_every": log_every,
    "schedule.warmup": warmup,
    "schedule.hold": hold,
    "augment.closing": closing,
    "ema.decay": ema_decay,
    "ema.ramp": ema_ramp,
}


def apply(rules: Rules, case: Case) -> tuple[Case, dict[str, str]]:
    """The case with the values of those fields of config.derive that have one of `rules`, and the reason of each."""
    config, reasons = case.config.copy_and_resolve_references(), {}
    for name, rule in rules.items():
        if name in config.derive:
            value, reasons[name] = rule(replace(case, config=config))
            config.update_from_flattened_dict({name: value})
    return replace(case, config=config), reasons
