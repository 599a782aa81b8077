"""Bilinear resizing as torch.nn.functional.interpolate(mode="bilinear", align_corners=False) does it.

Each axis is a product with a matrix that has at most two numbers a row. That is what accelerators are made for, and its
gradient is the transposed product: no scattering. On CPU, where nearly all of the product would be zeros, the two
numbers are looked up.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from morphism.ops.platform import on_cpu

SCOPE = "bilinear"  # its products are marked with this name: models/cost.py leaves them out, as torchvision does
STRIP = 2**24  # numbers, 64 MiB of float32, that are resized at a time where only their highest is wanted


def resize_bilinear(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """Without antialiasing, also where it shrinks."""
    if x.shape[1:3] == (height, width):
        return x
    rows, columns = (_places(*each, xp=np) for each in zip(x.shape[1:3], (height, width), (height, width), strict=True))
    return jax.vmap(_resize, (0, None, None))(x, rows, columns)


def resize_parts(
    x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"], to: Int[Array, "b 2"], height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """Of each example the part of `sizes` at the top left, resized to `to` at the top left of height x width.

    What lies beyond `to` repeats its border.
    """
    sizes, to = sizes.astype(jnp.float32), to.astype(jnp.float32)
    rows, columns = (
        jax.vmap(lambda size, end, count=count: _places(size, end, count))(sizes[:, axis], to[:, axis])
        for axis, count in enumerate((height, width))
    )
    return jax.vmap(_resize)(x, rows, columns)


def argmax_of_parts(
    x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"], to: Int[Array, "b 2"], height: int, width: int
) -> UInt8[Array, "b {height} {width}"]:
    """The channel, one of at most 256, of the highest number of each pixel of `resize_parts`: of equal ones the first.

    An example at a time and a strip of rows at a time, so that never more than about STRIP resized numbers exist.
    """
    rows = max(1, min(height, STRIP // (width * x.shape[-1])))
    strips = -(-height // rows)

    def example(parts: tuple[Array, Array, Array]) -> Array:
        x, size, to = parts
        down, across = (_places(size[axis], to[axis], count) for axis, count in enumerate((strips * rows, width)))

        def strip(down: Array) -> Array:
            return jnp.argmax(_resize(x, down, across), axis=-1).astype(jnp.uint8)

        return _each(strip, down.reshape(strips, rows)).reshape(-1, width)[:height]

    return _each(example, (x, sizes.astype(jnp.float32), to.astype(jnp.float32)))


def _each(function: Callable, parts: Any) -> Any:
    """lax.map; without a loop where there is one part."""
    if len(jax.tree.leaves(parts)[0]) > 1:
        return jax.lax.map(function, parts)
    return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], parts)))


def _places(size: Any, to: Any, count: int, xp: Any = jnp) -> Float[Array, "{count}"]:
    """Where among `size` pixels each of `count` lies, of which `to` are made of them."""
    return xp.clip((xp.arange(count) + 0.5) * (size / to) - 0.5, 0, size - 1)


def _resize(x: Float[Array, "h w c"], rows: Float[Array, "h2"], columns: Float[Array, "w2"]) -> Float[Array, "h2 w2 c"]:
    """The pixels at `rows` and `columns`, in x's own type."""
    return _looked_up(x, rows, columns) if on_cpu() else _product(x, rows, columns)


def _product(x: Array, rows: Array, columns: Array) -> Array:
    """At the full precision of x's type, which TPUs would reduce."""
    down, across = (_weights(*each).astype(x.dtype) for each in ((rows, x.shape[0]), (columns, x.shape[1])))
    with jax.named_scope(SCOPE):
        x = jnp.einsum("hi,ijc->hjc", down, x, precision="highest")
        return jnp.einsum("wj,hjc->hwc", across, x, precision="highest")


def _weights(places: Float[Array, "n"], length: int) -> Float[Array, "n {length}"]:
    """How much each of `length` pixels weighs at each of `places`."""
    return jnp.maximum(0, 1 - jnp.abs(jnp.asarray(places)[:, None] - jnp.arange(length)))


@jax.custom_vjp
def _looked_up(x: Array, rows: Array, columns: Array) -> Array:
    for axis, places in enumerate((rows, columns)):
        before = jnp.asarray(places).astype(jnp.int32)
        share = jnp.expand_dims((places - before).astype(x.dtype), (1, 2) if axis == 0 else (0, 2))
        first, second = (jnp.take(x, before + step, axis, mode="clip") for step in (0, 1))
        x = first * (1 - share) + second * share
    return x


def _looked_up_gradient(residuals: tuple[Array, Array, Array], dy: Array) -> tuple[Array, None, None]:
    x, rows, columns = residuals  # of x only the shape is needed: compiled, it is not kept
    (dx,) = jax.linear_transpose(lambda x: _product(x, rows, columns), x)(dy)
    return dx, None, None


_looked_up.defvjp(lambda *inputs: (_looked_up(*inputs), inputs), _looked_up_gradient)
