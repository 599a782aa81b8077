"""The architectures, one a file, each with MODELS: name -> constructor(num_classes=, dtype=, norm=, remat=, ...).

A model is called as model(images [B,H,W,3], train=) -> its outputs; one that serves as a backbone also as
model(images, train=, features=True) -> {name: [B,h,w,C]}, a feature map a stride, under the names of
torchvision's own layers. A detector's outputs are for its own loss and detect: models/detection.py; one with two stages
takes targets= as well. A segmenter's are of the images' size, and one that pools over the whole map takes sizes=:
models/segmentation.py.
`norm` makes its batch norms (models/layers.py); an architecture without them takes none.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from morphism.errors import UserError, check_choice, did_you_mean
from morphism.models.layers import BatchNorm

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
ARGUMENTS = ("num_classes", "dtype", "norm", "remat")  # of a constructor; all others are its options
FLAXS = ("parent", "name")  # but these, which every module has
UNUSED = {  # field of config.model -> the argument that it is for, and its value where an architecture takes none
    "dtype": ("dtype", "float32"),
    "remat": ("remat", False),
    "sync_bn": ("norm", False),
    "frozen_bn": ("norm", False),
}


def create(config: ConfigDict, num_classes: int, axis: str) -> nn.Module:
    """The module that `config` (config.model) describes; `axis` is the mesh axis that sync_bn averages over.

    Raises UserError for an unknown name, dtype or option, and for one that the architecture has no use for.
    """
    check_choice("config.model.name", config.name, models())
    check_choice("config.model.dtype", config.dtype, DTYPES)
    constructor = models()[config.name]
    known = inspect.signature(constructor).parameters
    options = [name for name in known if name not in (*ARGUMENTS, *FLAXS)]
    for option, value in config.options.items():
        if option not in options:
            kept = {name: given for name, given in config.options.items() if name in options}
            meant = did_you_mean(option, options) or f'; leave it out: --config.model.options="{kept}"'
            raise UserError(f"config.model.options.{option}: {config.name} has no such option{meant}")
        _check_type(f"config.model.options.{option}", value, known[option].default)
    for field in sorted(set(config) - {"name", "options", *UNUSED}):
        near = f"; an option of {config.name} is config.model.options.{field}" if field in options else ""
        raise UserError(f"config.model.{field}: no such field{near or did_you_mean(field, ['name', *UNUSED])}")
    for field, (argument, unused) in UNUSED.items():
        if config[field] != unused and argument not in known:
            raise UserError(f"config.model.{field}: {config.name} has no use for it; set it to {unused}")
    if config.sync_bn and config.frozen_bn:
        raise UserError("config.model.sync_bn: frozen batch norms have no use for it; set it to False")
    dtype = DTYPES[config.dtype]
    norm = partial(BatchNorm, axis_name=axis if config.sync_bn else None, frozen=config.frozen_bn, dtype=dtype)
    given = {"num_classes": num_classes, "dtype": dtype, "norm": norm, "remat": config.remat}
    return constructor(**{name: given[name] for name in ARGUMENTS if name in known}, **config.options)


def _check_type(field: str, value: Any, default: Any) -> None:
    """Raises UserError unless an option is of its default's kind; a whole number will do for any number."""
    kinds = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a tuple"}
    accepted = {float: (int, float), tuple: (tuple, list)}.get(type(default), (type(default),))
    if type(default) in kinds and type(value) not in accepted:
        raise UserError(f"{field} is {value!r}; it must be {kinds[type(default)]}, such as {default!r}")


def init(model: nn.Module, key: Key[Array, ""], image_size: int | tuple[int, int]) -> dict[str, Any]:
    """Fresh variables: the collections params and, for models with batch norm, batch_stats.

    `image_size` is height and width, or one number for both.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return model.init(key, jnp.zeros((1, height, width, 3)), train=False)


@cache
def models() -> dict[str, Callable[..., nn.Module]]:
    """Every architecture by name."""
    files = [importlib.import_module(f"morphism.models.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {name: make for file in files for name, make in getattr(file, "MODELS", {}).items()}
