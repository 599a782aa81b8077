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
    task.check(config)
    if config.best:
        check_choice("config.best", config.best, task.higher_is_better)


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
            raise UserError(f"config.{name}: missing; is the configuration of another version? See experiments/base.py")
        node, path = node[each], f"{path}.{each}"
        if node is None:
            raise UserError(f"{path} is None; give it a value, see experiments/base.py")
    return node
