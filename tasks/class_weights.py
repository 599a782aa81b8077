"""config.loss.class_weights: "", a rule that needs the train split, or a number per class, such as "1,0.5,2"."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from morphism.data.records import Source
from morphism.errors import UserError


def resolved(config: ConfigDict, source: Source, rule: str, find: Callable[[], Float[np.ndarray, "k"]]) -> ConfigDict:
    """`config` with a number per class where its class weights name `rule`, by which `find` finds them.

    Raises UserError for other than K numbers.
    """
    text, count = config.loss.class_weights, len(source.classes)
    if text == rule:
        text = ",".join(map(repr, find().tolist()))
    elif text and text.count(",") + 1 != count:
        raise UserError(
            f"config.loss.class_weights has {text.count(',') + 1} numbers, {config.data.source} {count} classes; "
            f'write one for each, or "{rule}"'
        )
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.loss.class_weights = text
    return config


def of(loss: ConfigDict) -> Float[Array, "k"] | None:
    """The numbers of a resolved config.loss; None where it has none."""
    return jnp.array([float(number) for number in loss.class_weights.split(",")]) if loss.class_weights else None
