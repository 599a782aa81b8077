"""The architectures, one per file, each with MODELS: name -> constructor(num_classes=, dtype=, norm=, remat=, ...).

A model is a linen module of the class Model (models/base.py), called as model(images [B, H, W, 3], train=) -> outputs.
`Model.reads` names what else the call takes, and `Model.has_features` says whether it takes features=True, which
returns a backbone's feature maps {name: [B, h, w, C]} instead, one per stride, under the names of torchvision's layers.

- A classifier returns logits [B, K].
- A detector returns what its own `loss` and `detect` read: models/detection.py.
- A segmenter returns logits of the images' size: models/segmentation.py.
- A network of several parts returns {part: outputs of that part}: models/multitask.py.

`norm` makes the batch norms (models/layers.py); an architecture without them takes none. The constructor's fields with
a plain value as their default are its options, which a config may set in config.model.options; so are the fields of a
dataclass among them. Fields that are None by default take modules, which replace parts of the network, in Python only.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from morphism.errors import UserError, check_choice, did_you_mean
from morphism.models.arguments import check_options, grouped, options_of, unknown
from morphism.models.base import Model
from morphism.models.layers import REMAT, BatchNorm
from morphism.ops.moments import Axis

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Classes = int | Mapping[str, int]  # the number of classes; of a network of several parts by part

# Arguments of a constructor that are fields of config.model themselves, or come from the data.
ARGUMENTS = ("num_classes", "dtype", "norm", "remat", "heads")
UNUSED = {  # field of config.model -> the argument that it sets, and its value where an architecture has no such one
    "dtype": ("dtype", "float32"),
    "remat": ("remat", False),
    "remat_policy": ("remat", "blocks"),
    "sync_bn": ("norm", False),
    "frozen_bn": ("norm", False),
    "heads": ("heads", {}),
}


def create(config: ConfigDict, num_classes: Classes, axis: Axis) -> Model:
    """The module that `config` (config.model) describes; sync_bn averages over `axis` of the mesh.

    num_classes: a mapping from parts for a network of several parts; an int is that of all parts.

    Raises UserError for an unknown name, dtype, head or option, and for one that the architecture has no use for.
    """
    check_choice("config.model.name", config.name, models())
    check_choice("config.model.dtype", config.dtype, DTYPES)
    check_choice("config.model.remat_policy", config.get("remat_policy", "blocks"), REMAT)
    make = models()[config.name]
    arguments = inspect.signature(make).parameters
    _check_fields(config, arguments)
    if isinstance(num_classes, Mapping) and "heads" not in arguments:
        raise UserError(
            f"config.model.name: {config.name} learns one thing, the task has the parts {', '.join(num_classes)}; take "
            "multitask"
        )
    dtype = DTYPES[config.dtype]
    norm = partial(BatchNorm, axis_name=axis if config.sync_bn else None, frozen=config.frozen_bn, dtype=dtype)
    given = {"num_classes": num_classes, "dtype": dtype, "norm": norm}
    given["remat"] = config.get("remat_policy", "blocks") if config.remat else ""
    if config.get("heads"):
        given["heads"] = config.heads.to_dict()
    given = {name: given[name] for name in ARGUMENTS if name in arguments and name in given}
    model = make(**given, **grouped(dict(config.options), make))
    model.check_parts()
    return model


def build(name: str, num_classes: Classes = 1000, heads: Mapping[str, Any] | None = None, **options: Any) -> Model:
    """The architecture `name` in float32, with some of its `options`; batch norms are each device's own.

    heads: of a network of several parts, as in config.model.heads.

    Raises UserError for an unknown name or option.
    """
    plain = {field: unused for field, (_, unused) in UNUSED.items()}
    if name in models() and (found := unknown(options, options_of(models()[name], without=ARGUMENTS))):
        raise UserError(f"{found[0]}: {name} has no such option{found[1]}")
    fields = plain | {"heads": dict(heads or {})}
    return create(ConfigDict({"name": name, "options": options, **fields}), num_classes, axis="")


def options(name: str) -> dict[str, Any]:
    """The options of an architecture, with their defaults."""
    return options_of(models()[name], without=ARGUMENTS)


def _check_fields(config: ConfigDict, arguments: Any) -> None:
    """Raises UserError for unknown fields and options, for options of a wrong type, and for fields without a use."""
    known = options(config.name)
    check_options("config.model.options", config.name, dict(config.options), known)
    for field in sorted(set(config) - {"name", "options", *UNUSED}):
        near = f"; an option of {config.name} is config.model.options.{field}" if field in known else ""
        raise UserError(f"config.model.{field}: no such field{near or did_you_mean(field, ['name', *UNUSED])}")
    for field, (argument, unused) in UNUSED.items():
        if (config.get(field) or unused) != unused and argument not in arguments:
            raise UserError(f"config.model.{field}: {config.name} has no use for it; set it to {unused}")
    if config.get("remat_policy", "blocks") != "blocks" and not config.remat:
        raise UserError(
            f"config.model.remat_policy is {config.remat_policy!r}, which has no effect without remat; set "
            "config.model.remat to True, or leave it out"
        )
    if config.sync_bn and config.frozen_bn:
        raise UserError("config.model.sync_bn: frozen batch norms have no use for it; set it to False")


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
