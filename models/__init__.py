"""The architectures, one a file, each with MODELS: name -> constructor(num_classes=, dtype=, bn_axis=, remat=, ...)."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from errors import UserError, check_choice, did_you_mean

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def create(config: ConfigDict, num_classes: int, axis: str) -> nn.Module:
    """The module that `config` (config.model) describes; `axis` is the mesh axis that sync_bn averages over.

    Raises UserError for an unknown name, dtype or option.
    """
    check_choice("config.model.name", config.name, models())
    check_choice("config.model.dtype", config.dtype, DTYPES)
    constructor = models()[config.name]
    known = inspect.signature(constructor).parameters
    for option in config.options:
        if option not in known:
            raise UserError(
                f"config.model.options.{option}: {config.name} has no such option{did_you_mean(option, known)}"
            )
    return constructor(
        num_classes=num_classes,
        dtype=DTYPES[config.dtype],
        bn_axis=axis if config.sync_bn else None,
        remat=config.remat,
        **config.options,
    )


def init(model: nn.Module, key: Key[Array, ""], image_size: int) -> dict[str, Any]:
    """Fresh variables: the collections params and, for models with batch norm, batch_stats."""
    return model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)


@cache
def models() -> dict[str, Callable[..., nn.Module]]:
    """Every architecture by name."""
    files = [importlib.import_module(f"models.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {name: make for file in files for name, make in getattr(file, "MODELS", {}).items()}
