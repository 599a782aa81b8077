"""The precision of statistics, losses and box arithmetic."""

import jax.numpy as jnp
from jaxtyping import Array


def full_precision(x: Array) -> Array:
    """`x` as float32, or as float64 where it already is: whatever the model's compute dtype."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
