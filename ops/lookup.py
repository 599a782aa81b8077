"""Lookup tables and histograms of small whole numbers, such as the levels of pixels, and cells of masks.

TPUs read and add at computed addresses one scalar at a time. There, comparisons and a matrix product replace both;
the values are the same to the bit.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from morphism.ops.platform import on_tpu

MASKS = 4  # that products look up at a time


def look_up(tables: Float[Array, "c v"], indices: Int[Array, "n c"]) -> Float[Array, "n c"]:
    """tables[j, indices[i, j]] for every i, j; indices are in 0..v-1."""
    if on_tpu():
        # Exact: each sum has one term that is not 0.
        return jnp.einsum("ncv,cv->nc", _one_hot(indices, tables), tables, precision=jax.lax.Precision.HIGHEST)
    return jnp.take_along_axis(tables, indices.T, axis=1).T


def look_up_cells(
    masks: UInt8[Array, "n h w"], rows: Int[Array, "n i j"], columns: Int[Array, "n i j"]
) -> UInt8[Array, "n i j"]:
    """masks[k, rows[k, i, j], columns[k, i, j]] for every k, i, j."""
    if not on_tpu():
        return jax.vmap(lambda mask, rows, columns: mask[rows, columns])(masks, rows, columns)

    def of_one(each: tuple[Array, Array, Array]) -> UInt8[Array, "i j"]:
        # bfloat16 holds 0..255 exactly, and each sum has one term that is not 0.
        mask, row, column = each[0].astype(jnp.bfloat16), *each[1:]
        across = jnp.einsum("ijw,hw->ijh", jax.nn.one_hot(column, mask.shape[1], dtype=mask.dtype), mask)
        return jnp.sum(jnp.where(row[..., None] == jnp.arange(mask.shape[0]), across, 0), axis=-1).astype(jnp.uint8)

    return jax.lax.map(of_one, (masks, rows, columns), batch_size=MASKS)


def histograms(indices: Int[Array, "n c"], length: int) -> Int[Array, "c {length}"]:
    """How often each of the numbers 0..length-1 occurs in each column of `indices`."""
    if on_tpu():
        return jnp.sum(indices[..., None] == jnp.arange(length), axis=0)
    return jax.vmap(lambda column: jnp.zeros(length, int).at[column].add(1), in_axes=1)(indices)


def _one_hot(indices: Int[Array, "n c"], tables: Float[Array, "c v"]) -> Float[Array, "n c v"]:
    return jax.nn.one_hot(indices, tables.shape[-1], dtype=tables.dtype)
