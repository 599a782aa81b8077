"""Bilinear resizing as torch.nn.functional.interpolate(mode="bilinear", align_corners=False) does it.

Each axis is a product with a matrix that has at most two numbers a row. That is little work beside a network, it is
what accelerators are made for, and its gradient is the transposed product: no scattering.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SCOPE = "bilinear"  # its products are marked with this name: models/cost.py leaves them out, as torchvision does


def resize_bilinear(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """Without antialiasing, also where it shrinks."""
    if x.shape[1:3] == (height, width):
        return x
    to = (height, width)
    rows, columns = (_weights(*each, xp=np) for each in zip(x.shape[1:3], x.shape[1:3], to, to, strict=True))
    return _product("hi,bijc->bhjc", "wj,bhjc->bhwc", rows, columns, x)


def resize_parts(
    x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"], to: Int[Array, "b 2"], height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """Of each example the part of `sizes` at the top left, resized to `to` at the top left of height x width.

    What lies beyond `to` repeats its border.
    """
    sizes, to = sizes.astype(jnp.float32), to.astype(jnp.float32)
    rows = jax.vmap(lambda size, end: _weights(size, x.shape[1], end, height))(sizes[:, 0], to[:, 0])
    columns = jax.vmap(lambda size, end: _weights(size, x.shape[2], end, width))(sizes[:, 1], to[:, 1])
    return _product("bhi,bijc->bhjc", "bwj,bhjc->bhwc", rows, columns, x)


def _weights(size: Any, length: int, to: Any, count: int, xp: Any = jnp) -> Float[Array, "{count} {length}"]:
    """How much each of `length` pixels, of which `size` are there, weighs in each of `count` that `to` make of them."""
    place = xp.clip((xp.arange(count) + 0.5) * (size / to) - 0.5, 0, size - 1)
    return xp.maximum(0, 1 - xp.abs(place[:, None] - xp.arange(length)))


def _product(down: str, across: str, rows: Array, columns: Array, x: Array) -> Array:
    """In x's own type, at its full precision, which TPUs would reduce."""
    rows, columns = (jnp.asarray(weights, x.dtype) for weights in (rows, columns))
    with jax.named_scope(SCOPE):
        x = jnp.einsum(down, rows, x, precision="highest")
        return jnp.einsum(across, columns, x, precision="highest")
