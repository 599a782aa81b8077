"""config.loss.class_weights: (), a rule that needs the train split, or a number per class, such as (1.0, 0.5, 2.0)."""

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
    """The numbers of a resolved config.loss; None where it has none."""
    return jnp.array(loss.class_weights, float) if loss.class_weights else None
