"""Checks a configuration: each field against its declaration, then the combinations of fields."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from morphism import tasks
from morphism.data import examples, targets
from morphism.errors import UserError, check_choice, did_you_mean
from morphism.experiments.base import FIELDS, declared
from morphism.experiments.fields import Field, leaves


def check_config(config: ConfigDict) -> None:
    """Raises UserError naming the first field that is missing or out of its range, and what it must be.

    Names of models, sources and splits are checked where they are looked up.
    """
    check_choice("config.task", _value(config, "task"), FIELDS)
    fields = declared(config)
    for name, field in fields.items():
        check_field(name, field, _value(config, name))
    _check_parts(config, fields)
    for name in config.data.targets:
        check_choice("config.data.targets", name, targets.names())
    for name in examples.needed_fields(config.data):
        _value(config, name)
    if config.data.balanced and config.data.repeats > 1:
        raise UserError(
            f"config.data.repeats is {config.data.repeats}, which balanced sampling has no use for; set it to 1"
        )
    task = tasks.of(config)
    task.check(config)
    for name, metric in {"best": config.best, "stop.metric": config.stop.metric}.items():
        if metric.rpartition("/")[2] == "loss" and metric not in task.headline:
            raise UserError(
                f"config.{name} is {metric!r}, which evaluation of {task.name} computes only with "
                "config.data.eval_loss=True; set that too"
            )
        if metric:
            check_choice(f"config.{name}", metric, task.headline)
    if config.stop.patience > 0 and not (config.stop.metric or config.best):
        raise UserError(
            "config.stop.patience: there is no metric to wait for; set config.stop.metric to one of "
            f"{', '.join(task.headline)}"
        )


def _check_parts(config: ConfigDict, fields: Mapping[str, Field]) -> None:
    """Raises UserError if a multitask configuration has no parts, and for a field of one that is none of its own."""
    if "parts" not in fields:
        return
    if not config.parts:
        raise UserError('config.parts: empty; start from get_base("multitask", parts={"objects": "detection", ...})')
    for name in leaves(config.parts, "parts."):
        _, part, field = name.split(".", 2) if name.count(".") > 1 else (*name.split("."), "")
        if name in fields or field.startswith("targets."):
            continue
        if field in fields:
            raise UserError(f"config.{name}: the parts share config.{field}; set that, and leave this out")
        own = [each.removeprefix(f"parts.{part}.") for each in fields if each.startswith(f"parts.{part}.")]
        raise UserError(f"config.{name}: no such field{did_you_mean(field, own)}")


def check_field(name: str, field: Field, value: Any) -> None:
    """Raises UserError if `value` is out of the range of `field`, which is called `name`."""
    if field.range.choices and isinstance(value, str):
        check_choice(f"config.{name}", value, field.range.choices)
    if not field.range.holds(value):
        raise UserError(f"config.{name} is {value!r}; it must be {field.range.words}")


def _value(config: ConfigDict, name: str) -> Any:
    """The value of the field `name`. Raises UserError if it, or its group, is missing or None."""
    node, path = config, "config"
    for each in name.split("."):
        if not isinstance(node, ConfigDict) or each not in node:
            made = 'get_base("multitask", parts=...) makes the fields of parts' if name.startswith("parts.") else ""
            raise UserError(
                f"config.{name}: missing; {made or 'is the configuration of another version? See experiments/base.py'}"
            )
        node, path = node[each], f"{path}.{each}"
        if node is None:
            raise UserError(f"{path} is None; give it a value, see experiments/base.py")
    return node
