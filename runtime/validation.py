"""What a configuration may say: every field's range, and the combinations that make no sense.

Choices of a name (a model, an optimiser, a split) are checked where the choices are listed.
"""

import math
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from morphism import tasks
from morphism.data import examples, intensity, targets
from morphism.data.canvases import EXACT
from morphism.errors import UserError, check_choice
from morphism.lengths import to_steps


def at_least(low: float) -> tuple[str, Callable[[Any], bool]]:
    return f"a number of at least {low}", lambda x: _is_number(x) and x >= low


def above(low: float) -> tuple[str, Callable[[Any], bool]]:
    return f"a number above {low}", lambda x: _is_number(x) and x > low


def between(low: float, high: float) -> tuple[str, Callable[[Any], bool]]:
    return f"a number from {low} to {high}", lambda x: _is_number(x) and low <= x <= high


def below(low: float, high: float) -> tuple[str, Callable[[Any], bool]]:
    return f"a number of at least {low} and below {high}", lambda x: _is_number(x) and low <= x < high


def interval(low: float, high: float) -> tuple[str, Callable[[Any], bool]]:
    return (
        f"two numbers above {low}, at most {high}, the smaller first",
        lambda x: _are_numbers(x, 2) and low < x[0] <= x[1] <= high,
    )


TEXTS = ("a tuple of texts", lambda x: isinstance(x, (tuple, list)) and all(isinstance(each, str) for each in x))
YES_OR_NO = ("True or False", lambda x: isinstance(x, bool))
CHANNELS = "three numbers, one a channel"
RULES = {
    "seed": between(0, 2**32 - 1),
    "batch_size": at_least(1),
    "eval_batch_size": at_least(0),
    "accumulate": at_least(1),
    "keep": at_least(1),
    "init_rename": TEXTS,
    "model.remat": YES_OR_NO,
    "model.sync_bn": YES_OR_NO,
    "model.frozen_bn": YES_OR_NO,
    "data.strict": YES_OR_NO,
    "data.val_fraction": below(0, 1),
    "data.split_seed": at_least(0),
    "data.repeats": at_least(1),
    "data.balanced": YES_OR_NO,
    "data.pixels": ('"auto", "uint8" or "float32"', lambda x: x in ("auto", "uint8", "float32")),
    "data.intensity": (
        "() or the stored values that become black and white, such as (-160, 240), the smaller first",
        lambda x: _is_sequence(x) and (not x or (_are_numbers(x, 2) and x[0] < x[1])),
    ),
    "data.intensity_rule": (f"one of {', '.join(intensity.RULES)}", lambda x: x in intensity.RULES),
    "data.targets": (
        f'one or several of {", ".join(targets.names())}, such as ("boxes", "segmentation")',
        lambda x: _are_texts(x) and len(x) > 0 and set(x) <= set(targets.names()),
    ),
    "data.window_rule": (f"one of {', '.join(examples.FIELDS)}", lambda x: x in examples.FIELDS),
    "data.workers": at_least(0),
    "data.threads": at_least(0),
    "data.prefetch": at_least(1),
    "data.timeout": above(0),
    "augment.mean": (CHANNELS, lambda x: _are_numbers(x, 3)),
    "augment.std": (f"{CHANNELS}, all above 0", lambda x: _are_numbers(x, 3) and min(x) > 0),
    "augment.flip_probability": between(0, 1),
    "optimizer.learning_rate": above(0),
    "optimizer.reference_batch": at_least(0),
    "optimizer.momentum": below(0, 1),
    "optimizer.rms_decay": below(0, 1),
    "optimizer.beta1": below(0, 1),
    "optimizer.beta2": below(0, 1),
    "optimizer.epsilon": above(0),
    "optimizer.trust_coefficient": above(0),
    "optimizer.weight_decay": at_least(0),
    "optimizer.clip_norm": at_least(0),
    "optimizer.freeze": ('patterns of parameters, such as ("conv1.*", "layer1.*")', lambda x: _are_texts(x)),
    "optimizer.lr_multipliers": (
        'pairs of a pattern and a factor above 0, such as (("fc.*", 10.0),)',
        lambda x: _is_sequence(x) and all(_is_sequence(pair) and len(pair) == 2 and _is_factor(*pair) for pair in x),
    ),
    "schedule.warmup_method": ("linear or constant", lambda x: x in ("linear", "constant")),
    "schedule.warmup_factor": between(0, 1),
    "schedule.warmup_power": above(0),
    "schedule.factor": above(0),
    "schedule.final_factor": between(0, 1),
    "schedule.power": above(0),
    "ema.decay": below(0, 1),
}
CANVASES = (
    "pairs of a height and a width, such as ((800, 1344), (1344, 800))",
    lambda x: _is_sequence(x) and all(map(_is_shape, x)),
)
NUMBER = r"(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?"
CLASS_WEIGHTS = (
    'a text: "", "balanced", or a number above 0 for each class, such as "1,0.5,2"',
    lambda x: x in ("", "balanced") or _are_weights(x),
)
TASK_RULES = {
    "classification": {
        "data.image_size": at_least(1),
        "data.eval_size": at_least(0),
        "data.resize_size": at_least(1),
        "data.crop_scale": interval(0, 1),
        "data.crop_ratio": interval(0, math.inf),
        "augment.crop_padding": at_least(0),
        "augment.auto_operations": at_least(1),
        "augment.auto_magnitude": between(0, 30),
        "augment.brightness": at_least(0),
        "augment.contrast": at_least(0),
        "augment.saturation": at_least(0),
        "augment.hue": between(0, 0.5),
        "augment.lighting": at_least(0),
        "augment.erase_probability": between(0, 1),
        "augment.mixup_alpha": at_least(0),
        "augment.cutmix_alpha": at_least(0),
        "loss.label_smoothing": below(0, 1),
        "loss.class_weights": CLASS_WEIGHTS,
        "loss.bce_threshold": below(0, 1),
        "loss.focal_alpha": ("a number of at most 1", lambda x: _is_number(x) and x <= 1),
        "loss.focal_gamma": at_least(0),
    },
    "detection": {
        "data.image_size": at_least(1),
        "data.max_size": at_least(1),
        "data.train_sizes": ("a tuple of sizes of at least 1", lambda x: _is_sequence(x) and all(map(_is_size, x))),
        "data.canvases": CANVASES,
        "data.multi_scale": ("a tuple of sizes of at least 1", lambda x: _is_sequence(x) and all(map(_is_size, x))),
        "data.max_boxes": at_least(1),
        "augment.zoom_out": between(0, 1),
        "augment.iou_crop": YES_OR_NO,
        "augment.scale_jitter": (
            "() or two numbers above 0, the smaller first",
            lambda x: _is_sequence(x) and (not x or (_are_numbers(x, 2) and 0 < x[0] <= x[1])),
        ),
        "augment.photometric": YES_OR_NO,
        "augment.fill": between(-1, 255),
        "augment.mosaic": between(0, 1),
        "augment.degrees": between(0, 180),
        "augment.translate": between(0, 1),
        "augment.scale": interval(0, math.inf),
        "augment.shear": below(0, 45),
        "augment.mixup": between(0, 1),
        "augment.mixup_scale": interval(0, math.inf),
        "augment.hsv": (
            "three numbers from 0 to 255, of hue, saturation and value",
            lambda x: _are_numbers(x, 3) and 0 <= min(x) and max(x) <= 255,
        ),
    },
    "segmentation": {
        "data.image_size": at_least(1),
        "data.max_size": at_least(1),
        "data.antialias": YES_OR_NO,
        "data.scale": interval(0, math.inf),
        "data.crop": ("a height and a width, such as (512, 1024)", lambda x: _is_shape(x)),
        "data.cat_max_ratio": ("a number above 0, at most 1", lambda x: _is_number(x) and 0 < x <= 1),
        "data.border_weight": at_least(0),
        "data.border_sigma": above(0),
        "data.canvases": CANVASES,
        "data.window": (
            "() or a height and a width, such as (769, 769)",
            lambda x: _is_sequence(x) and (not x or _is_shape(x)),
        ),
        "data.view_scales": (
            "a tuple of one or more numbers above 0",
            lambda x: _is_sequence(x) and len(x) > 0 and all(_is_number(each) and each > 0 for each in x),
        ),
        "augment.photometric": YES_OR_NO,
        "augment.fill": between(-1, 255),
        "augment.elastic": at_least(0),
        "loss.aux_weight": at_least(0),
        "loss.class_weights": (
            'a text: "", "median_frequency", or a number above 0 for each class, such as "1,0.5,2"',
            lambda x: x in ("", "median_frequency") or _are_weights(x),
        ),
        "loss.focal_gamma": at_least(0),
        "loss.ohem_threshold": between(0, 1),
        "loss.ohem_pixels": at_least(0),
        "loss.dice_weight": at_least(0),
    },
}
LENGTHS = (
    *("duration", "log_every", "eval_every", "checkpoint_every"),
    *("schedule.warmup", "schedule.hold", "ema.every", "ema.ramp"),
)
TASK_LENGTHS = {"classification": (), "detection": ("augment.closing",), "segmentation": ()}
POSITIVE_LENGTHS = ("duration", "ema.every")
AUTO = ("", "randaugment", "trivialaugment")
LOSSES = {  # a detector brings its own
    "classification": ("cross_entropy", "bce", "focal"),
    "segmentation": ("cross_entropy", "focal", "ohem", "lovasz", "dice"),
}


def check_config(config: ConfigDict) -> None:
    """Raises UserError naming the first field that is out of its range, and what it must be."""
    _check_given(config, "config")
    task = tasks.get(_field(config, "task"))
    for field, (meaning, holds) in {**RULES, **TASK_RULES[config.task]}.items():
        value = _field(config, field)
        if not holds(value):
            raise UserError(f"config.{field} is {value!r}; it must be {meaning}")
    for field in examples.needed_fields(config.data):
        _field(config, field)
    for field in (*LENGTHS, *TASK_LENGTHS[config.task]):
        _check_length(field, _field(config, field))
    for length in config.schedule.boundaries:
        _check_length("schedule.boundaries", length)
    if config.data.balanced and config.data.repeats > 1:
        raise UserError(
            f"config.data.repeats is {config.data.repeats}, which balanced sampling has no use for; set it to 1"
        )
    _CHECKS[config.task](config)
    if _field(config, "best"):
        check_choice("config.best", config.best, task.higher_is_better)


def _check_given(node: ConfigDict, path: str) -> None:
    for name, value in node.items():
        if value is None:
            raise UserError(f"{path}.{name} is None; give it a value, see experiments/base.py")
        if isinstance(value, ConfigDict) and name != "options":
            _check_given(value, f"{path}.{name}")


def _check_classification(config: ConfigDict) -> None:
    data, loss = config.data, config.loss
    check_choice("config.augment.auto", config.augment.auto, AUTO)
    check_choice("config.data.train_crop", data.train_crop, ("random_resized", "center"))
    evaluated = "eval_size" if data.eval_size else "image_size"
    for size in {evaluated, "image_size"} if data.train_crop == "center" else {evaluated}:
        if data[size] > data.resize_size:
            raise UserError(
                f"config.data.{size} is {data[size]}, larger than config.data.resize_size={data.resize_size}, "
                "out of whose middle it is cut; enlarge resize_size"
            )
    check_choice("config.loss.name", loss.name, LOSSES[config.task])
    if loss.class_weights and loss.name == "focal":
        raise UserError('config.loss.class_weights: focal has no use for it, it has focal_alpha; set it to ""')
    if loss.bce_threshold > 0 and loss.name != "bce":
        raise UserError(f"config.loss.bce_threshold: {loss.name} has no use for it; set it to 0.0, or name to 'bce'")


def _check_detection(config: ConfigDict) -> None:
    check_choice("config.data.resize", config.data.resize, ("shorter", "stretch", "fit"))
    if config.data.balanced:
        raise UserError("config.data.balanced: a picture of several objects is of no one class; set it to False")
    if config.data.resize != "shorter" and config.data.train_sizes:
        raise UserError(
            f"config.data.train_sizes: resize={config.data.resize} makes every picture as large as its canvas; set it "
            'to (), or resize to "shorter"'
        )
    data, augment = config.data, config.augment
    if data.multi_scale and (data.resize == "shorter" or data.canvases):
        raise UserError(
            "config.data.multi_scale: it is itself the canvas, of pictures that are fitted into it; set "
            'config.data.resize to "fit" or "stretch", and canvases to ()'
        )
    if augment.mixup > 0 and augment.mosaic == 0:
        raise UserError("config.augment.mixup: only mosaics are mixed; set it to 0.0, or mosaic to a probability")
    if augment.mosaic > 0 and (augment.zoom_out > 0 or augment.iou_crop or augment.scale_jitter):
        raise UserError(
            "config.augment.mosaic: it takes whole pictures; set zoom_out to 0.0, iou_crop to False and scale_jitter "
            "to ()"
        )


def _check_segmentation(config: ConfigDict) -> None:
    data, loss = config.data, config.loss
    check_choice("config.data.resize", data.resize, ("shorter", "none"))
    check_choice("config.data.exact", data.exact, EXACT)
    check_choice("config.loss.name", loss.name, LOSSES[config.task])
    if data.balanced:
        raise UserError("config.data.balanced: a picture of several classes is of no one; set it to False")
    if loss.class_weights and loss.name in ("lovasz", "dice"):
        raise UserError(f'config.loss.class_weights: {loss.name} has no use for it; set it to ""')
    if data.border_weight > 0 and loss.name != "cross_entropy":
        raise UserError(
            f"config.data.border_weight: {loss.name} has no use for it; set it to 0.0, or loss.name to 'cross_entropy'"
        )
    if loss.dice_weight > 0 and loss.name == "dice":
        raise UserError("config.loss.dice_weight: the loss is Dice's already; set it to 0.0")


_CHECKS = {
    "classification": _check_classification,
    "detection": _check_detection,
    "segmentation": _check_segmentation,
}


def _check_length(field: str, length: Any) -> None:
    if not isinstance(length, str):
        raise UserError(f'config.{field} is {length!r}; it must be a text, such as "500" or "64k" steps or "90ep"')
    steps = to_steps(length, steps_per_epoch=1e9, field=field)
    if steps == 0 and field in POSITIVE_LENGTHS:
        raise UserError(f"config.{field} is {length!r}; it must be at least one step")


def _field(config: ConfigDict, path: str) -> Any:
    node = config
    for name in path.split("."):
        if not isinstance(node, ConfigDict) or name not in node:
            raise UserError(f"config.{path}: missing; is the configuration of another version? See experiments/base.py")
        node = node[name]
    return node


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 1


def _is_shape(value: Any) -> bool:
    return _are_numbers(value, 2) and all(map(_is_size, value))


def _are_weights(value: Any) -> bool:
    if not isinstance(value, str) or not re.fullmatch(f"{NUMBER}(,{NUMBER})+", value):
        return False
    return min(map(float, value.split(","))) > 0


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _is_factor(pattern: Any, factor: Any) -> bool:
    return isinstance(pattern, str) and _is_number(factor) and factor > 0


def _are_texts(values: Any) -> bool:
    return _is_sequence(values) and all(isinstance(value, str) for value in values)


def _are_numbers(values: Any, count: int) -> bool:
    return _is_sequence(values) and len(values) == count and all(map(_is_number, values))
