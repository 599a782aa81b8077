"""Lookup tables and histograms of small whole numbers, such as the levels of pixels.

TPUs read and add at computed addresses one scalar at a time. There, comparisons and a matrix product replace both;
the values are the same to the bit.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from morphism.ops.platform import on_tpu


def look_up(tables: Float[Array, "c v"], indices: Int[Array, "n c"]) -> Float[Array, "n c"]:
    """tables[j, indices[i, j]] for every i, j; indices are in 0..v-1."""
    if on_tpu():
        # Exact: each sum has one term that is not 0.
        return jnp.einsum("ncv,cv->nc", _one_hot(indices, tables), tables, precision=jax.lax.Precision.HIGHEST)
    return jnp.take_along_axis(tables, indices.T, axis=1).T


def histograms(indices: Int[Array, "n c"], length: int) -> Int[Array, "c {length}"]:
    """How often each of the numbers 0..length-1 occurs in each column of `indices`."""
    if on_tpu():
        return jnp.sum(indices[..., None] == jnp.arange(length), axis=0)
    return jax.vmap(lambda column: jnp.zeros(length, int).at[column].add(1), in_axes=1)(indices)


def _one_hot(indices: Int[Array, "n c"], tables: Float[Array, "c v"]) -> Float[Array, "n c v"]:
    return jax.nn.one_hot(indices, tables.shape[-1], dtype=tables.dtype)
