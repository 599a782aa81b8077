"""Checks a configuration: each field against its declaration, then the combinations of fields."""

from typing import Any

from ml_collections import ConfigDict

from morphism import tasks
from morphism.data import examples, targets
from morphism.errors import UserError, check_choice
from morphism.experiments.base import FIELDS
from morphism.experiments.fields import Field, flat


def check_config(config: ConfigDict) -> None:
    """Raises UserError naming the first field that is missing or out of its range, and what it must be.

    Names of models, sources and splits are checked where they are looked up.
    """
    task = tasks.get(_value(config, "task"))
    for name, field in flat(FIELDS[config.task]).items():
        check_field(name, field, _value(config, name))
    for name in config.data.targets:
        check_choice("config.data.targets", name, targets.names())
    for name in examples.needed_fields(config.data):
        _value(config, name)
    if config.data.balanced and config.data.repeats > 1:
        raise UserError(
            f"config.data.repeats is {config.data.repeats}, which balanced sampling has no use for; set it to 1"
        )
    _CHECKS[config.task](config)
    if config.best:
        check_choice("config.best", config.best, task.higher_is_better)


def check_field(name: str, field: Field, value: Any) -> None:
    """Raises UserError if `value` is out of the range of `field`, which is called `name`."""
    if field.range.choices and isinstance(value, str):
        check_choice(f"config.{name}", value, field.range.choices)
    if not field.range.holds(value):
        raise UserError(f"config.{name} is {value!r}; it must be {field.range.words}")


def _check_classification(config: ConfigDict) -> None:
    data, loss = config.data, config.loss
    evaluated = "eval_size" if data.eval_size else "image_size"
    for size in {evaluated, "image_size"} if data.train_crop == "center" else {evaluated}:
        if data[size] > data.resize_size:
            raise UserError(
                f"config.data.{size} is {data[size]}, larger than config.data.resize_size={data.resize_size}, "
                "from whose middle it is cut; enlarge resize_size"
            )
    if loss.class_weights and loss.name == "focal":
        raise UserError("config.loss.class_weights: focal has no use for it, it has focal_alpha; set it to ()")
    if loss.bce_threshold > 0 and loss.name != "bce":
        raise UserError(f"config.loss.bce_threshold: {loss.name} has no use for it; set it to 0.0, or name to 'bce'")


def _check_detection(config: ConfigDict) -> None:
    if config.data.balanced:
        raise UserError("config.data.balanced: an image of several objects has no single class; set it to False")
    if config.data.resize != "shorter" and config.data.train_sizes:
        raise UserError(
            f"config.data.train_sizes: resize={config.data.resize} makes every image as large as its canvas; set it "
            'to (), or resize to "shorter"'
        )
    data, augment = config.data, config.augment
    if data.multi_scale and (data.resize == "shorter" or data.canvases):
        raise UserError(
            "config.data.multi_scale: it is itself the canvas into which images are fitted; set "
            'config.data.resize to "fit" or "stretch", and canvases to ()'
        )
    if augment.mixup > 0 and augment.mosaic == 0:
        raise UserError("config.augment.mixup: only mosaics are mixed; set it to 0.0, or mosaic to a probability")
    if augment.mosaic > 0 and (augment.zoom_out > 0 or augment.iou_crop or augment.scale_jitter):
        raise UserError(
            "config.augment.mosaic: it takes whole images; set zoom_out to 0.0, iou_crop to False and scale_jitter "
            "to ()"
        )


def _check_segmentation(config: ConfigDict) -> None:
    data, loss = config.data, config.loss
    if data.balanced:
        raise UserError("config.data.balanced: an image of several classes has no single one; set it to False")
    if loss.class_weights and loss.name in ("lovasz", "dice"):
        raise UserError(f"config.loss.class_weights: {loss.name} has no use for it; set it to ()")
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


def _value(config: ConfigDict, name: str) -> Any:
    """The value of the field `name`. Raises UserError if it, or its group, is missing or None."""
    node, path = config, "config"
    for each in name.split("."):
        if not isinstance(node, ConfigDict) or each not in node:
            raise UserError(f"config.{name}: missing; is the configuration of another version? See experiments/base.py")
        node, path = node[each], f"{path}.{each}"
        if node is None:
            raise UserError(f"{path} is None; give it a value, see experiments/base.py")
    return node
