"""config.loss.class_weights: (), a rule for the train split, or a number per class, such as (1.0, 0.5, 2.0)."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from morphism.data.records import Source
from morphism.errors import UserError


def resolved(config: ConfigDict, source: Source, rule: str, find: Callable[[], Float[np.ndarray, "k"]]) -> ConfigDict:
    """`config` with a number per class, which `find` computes if the class weights are `rule`.

    Raises UserError if there are not K numbers.
    """
    weights, count = config.loss.class_weights, len(source.classes)
    if weights == rule:
        weights = tuple(find().tolist())
    elif weights and len(weights) != count:
        raise UserError(
            f"config.loss.class_weights has {len(weights)} numbers, {config.data.source} {count} classes; "
            f'write one for each, or "{rule}"'
        )
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.loss.class_weights = weights
    return config


def of(loss: ConfigDict) -> Float[Array, "k"] | None:
    """The class weights of a resolved config.loss, or None."""
    return jnp.array(loss.class_weights, float) if loss.class_weights else None
