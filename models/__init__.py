"""The architectures, one per file, each with MODELS: name -> constructor(num_classes=, dtype=, norm=, remat=, ...).

A model is a linen module of the class Model (models/base.py), called as model(images [B, H, W, 3], train=) -> outputs.
`Model.reads` names what else the call takes, and `Model.has_features` says whether it takes features=True, which
returns a backbone's feature maps {name: [B, h, w, C]} instead, one per stride, under the names of torchvision's layers.

- A classifier returns logits [B, K].
- A detector returns what its own `loss` and `detect` read: models/detection.py.
- A segmenter returns logits of the images' size: models/segmentation.py.

`norm` makes the batch norms (models/layers.py); an architecture without them takes none. The constructor's fields with
a plain value as their default are its options, which a config may set in config.model.options; so are the fields of a
dataclass among them. Fields that are None by default take modules, which replace parts of the network, in Python only.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from morphism.errors import UserError, check_choice, did_you_mean
from morphism.models.base import Model
from morphism.models.layers import BatchNorm

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PLAIN = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a tuple"}
ARGUMENTS = ("num_classes", "dtype", "norm", "remat")  # of a constructor, which are fields of config.model themselves
UNUSED = {  # field of config.model -> the argument that it sets, and its value where an architecture has no such one
    "dtype": ("dtype", "float32"),
    "remat": ("remat", False),
    "sync_bn": ("norm", False),
    "frozen_bn": ("norm", False),
}


def create(config: ConfigDict, num_classes: int, axis: str) -> Model:
    """The module that `config` (config.model) describes; `axis` is the mesh axis that sync_bn averages over.

    Raises UserError for an unknown name, dtype or option, and for one that the architecture has no use for.
    """
    check_choice("config.model.name", config.name, models())
    check_choice("config.model.dtype", config.dtype, DTYPES)
    arguments = inspect.signature(models()[config.name]).parameters
    _check_fields(config, arguments)
    dtype = DTYPES[config.dtype]
    norm = partial(BatchNorm, axis_name=axis if config.sync_bn else None, frozen=config.frozen_bn, dtype=dtype)
    given = {"num_classes": num_classes, "dtype": dtype, "norm": norm, "remat": config.remat}
    given = {name: given[name] for name in ARGUMENTS if name in arguments}
    return models()[config.name](**given, **_grouped(dict(config.options), arguments))


def build(name: str, num_classes: int = 1000, **options: Any) -> Model:
    """The architecture `name` in float32, with some of its `options`; batch norms are each device's own.

    Raises UserError for an unknown name or option.
    """
    plain = {field: unused for field, (_, unused) in UNUSED.items()}
    if name in models() and (unknown := _unknown(name, options)):
        raise UserError(f"{unknown[0]}: {name} has no such option{unknown[1]}")
    return create(ConfigDict({"name": name, "options": options, **plain}), num_classes, axis="")


def options(name: str) -> dict[str, Any]:
    """The options of an architecture, with their defaults."""
    found = {}
    for argument, parameter in inspect.signature(models()[name]).parameters.items():
        if argument not in ARGUMENTS:
            group = _group(parameter.default)
            found |= group or {argument: parameter.default}
    return {option: default for option, default in found.items() if type(default) in PLAIN}


def _group(default: Any) -> dict[str, Any]:
    """The fields of a dataclass that is an argument's default; of any other default none."""
    if not is_dataclass(default) or isinstance(default, type):
        return {}
    return {field.name: getattr(default, field.name) for field in fields(default)}


def _grouped(given: dict[str, Any], arguments: Any) -> dict[str, Any]:
    """Options as arguments, lists as tuples: those that are fields of an argument's dataclass go there."""
    result = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    for argument, parameter in arguments.items():
        inside = {name: result.pop(name) for name in _group(parameter.default).keys() & result.keys()}
        if inside:
            result[argument] = replace(parameter.default, **inside)
    return result


def _check_fields(config: ConfigDict, arguments: Any) -> None:
    """Raises UserError for unknown fields and options, for options of a wrong type, and for fields without a use."""
    known = options(config.name)
    if unknown := _unknown(config.name, config.options):
        option, hint = unknown
        kept = {name: given for name, given in config.options.items() if name in known}
        leave = "" if hint.startswith("; did") else f'; leave it out: --config.model.options="{kept}"'
        raise UserError(f"config.model.options.{option}: {config.name} has no such option{hint}{leave}")
    for option, value in config.options.items():
        _check_type(f"config.model.options.{option}", value, known[option])
    for field in sorted(set(config) - {"name", "options", *UNUSED}):
        near = f"; an option of {config.name} is config.model.options.{field}" if field in known else ""
        raise UserError(f"config.model.{field}: no such field{near or did_you_mean(field, ['name', *UNUSED])}")
    for field, (argument, unused) in UNUSED.items():
        if config[field] != unused and argument not in arguments:
            raise UserError(f"config.model.{field}: {config.name} has no use for it; set it to {unused}")
    if config.sync_bn and config.frozen_bn:
        raise UserError("config.model.sync_bn: frozen batch norms have no use for it; set it to False")


def _unknown(name: str, given: Iterable[str]) -> tuple[str, str] | None:
    """The first of the `given` options that the architecture does not have, and what was meant or what it has."""
    known = options(name)
    for option in given:
        if option not in known:
            return option, did_you_mean(option, known) or f"; it has {', '.join(known) or 'none'}"
    return None


def _check_type(field: str, value: Any, default: Any) -> None:
    """Raises UserError unless an option has the type of its default; a whole number is fine as any number."""
    accepted = {float: (int, float), tuple: (tuple, list)}.get(type(default), (type(default),))
    if type(value) not in accepted:
        raise UserError(f"{field} is {value!r}; it must be {PLAIN[type(default)]}, such as {default!r}")


def init(model: nn.Module, key: Key[Array, ""], image_size: int | tuple[int, int]) -> dict[str, Any]:
    """Initial variables: the collections params and, for models with batch norm, batch_stats.

    `image_size` is height and width in pixels, or one number for both.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return model.init(key, jnp.zeros((1, height, width, 3)), train=False)


def inputs(model: nn.Module, batch: Mapping[str, Array | np.ndarray]) -> dict[str, Any]:
    """The keyword arguments of the model's call that are made of a batch: those of its `reads`.

    targets: all of the batch but its images. sizes: its `size`, int32 [B, 2], what of each canvas is image.
    """
    made = {
        "targets": lambda: {name: value for name, value in batch.items() if name != "image"},
        "sizes": lambda: jnp.asarray(batch["size"]),
    }
    return {name: made[name]() for name in model.reads}


@cache
def models() -> dict[str, Callable[..., Model]]:
    """Every architecture by name."""
    files = [importlib.import_module(f"morphism.models.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {name: make for file in files for name, make in getattr(file, "MODELS", {}).items()}
