"""Bilinear resizing as torch.nn.functional.interpolate(mode="bilinear", align_corners=False) does it.

Each axis is a product with a matrix that has at most two non-zero entries per row. Accelerators are made for that, and
the gradient is the transposed product, without a scatter. On CPU, where nearly all of the product would be zeros, the
two neighbours are looked up instead.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from morphism.ops.platform import on_cpu

Line = Float[Array | np.ndarray, "_n"]  # positions along an axis

SCOPE = "bilinear"  # named scope of the products, which models/cost.py leaves out, as torchvision does
STRIP = 2**24  # values, 64 MiB of float32, that `argmax_of_parts` resizes at a time


def resize_bilinear(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """Bilinear resizing to height x width, without antialiasing."""
    if x.shape[1:3] == (height, width):
        return x
    sides = zip(x.shape[1:3], (height, width), (height, width), strict=True)
    rows, columns = (_positions(*each, xp=np) for each in sides)
    if on_cpu():
        return jax.vmap(_looked_up, (0, None, None))(x, rows, columns)
    return jax.vmap(_product)(x, *(np.broadcast_to(each, (len(x), len(each))) for each in (rows, columns)))


def resize_parts(
    x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"], to: Int[Array, "b 2"], height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """Resizes the top left part of each map, of `sizes` = height, width, to the size `to` on a canvas.

    The result is at the top left of the canvas of height x width; beyond it, its border is repeated.
    """
    sizes, to = sizes.astype(jnp.float32), to.astype(jnp.float32)
    rows, columns = (
        jax.vmap(lambda size, end, count=count: _positions(size, end, count))(sizes[:, axis], to[:, axis])
        for axis, count in enumerate((height, width))
    )
    return jax.vmap(interpolate_grid)(x, rows, columns)


def interpolate_grid(x: Float[Array, "h w c"], rows: Line, columns: Line) -> Float[Array, "h2 w2 c"]:
    """`x` interpolated at the coordinates `rows` x `columns`, in its own type.

    Coordinates are in pixels, whose centres are at whole numbers, and lie between the first and the last centre.
    """
    return _looked_up(x, rows, columns) if on_cpu() else _product(x, rows, columns)


def argmax_of_parts(
    x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"], to: Int[Array, "b 2"], height: int, width: int
) -> UInt8[Array, "b {height} {width}"]:
    """The argmax over the channels, at most 256, of `resize_parts`; of equal values the first channel.

    Runs example by example and strip by strip of rows, so that about STRIP resized values exist at a time.
    """
    rows = max(1, min(height, STRIP // (width * x.shape[-1])))
    strips = -(-height // rows)

    def example(parts: tuple[Array, Array, Array]) -> Array:
        x, size, to = parts
        down, across = (_positions(size[axis], to[axis], count) for axis, count in enumerate((strips * rows, width)))

        def strip(down: Array) -> Array:
            return jnp.argmax(interpolate_grid(x, down, across), axis=-1).astype(jnp.uint8)

        return _each(strip, down.reshape(strips, rows)).reshape(-1, width)[:height]

    return _each(example, (x, sizes.astype(jnp.float32), to.astype(jnp.float32)))


def _each(function: Callable, parts: Any) -> Any:
    """lax.map, without a loop over a single part."""
    if len(jax.tree.leaves(parts)[0]) > 1:
        return jax.lax.map(function, parts)
    return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], parts)))


def _positions(size: Any, to: Any, count: int, xp: Any = jnp) -> Line:
    """Source coordinates, in pixels, of `count` output pixels, where `size` input pixels become `to` output pixels."""
    return xp.clip((xp.arange(count) + 0.5) * (size / to) - 0.5, 0, size - 1)


def _product(x: Array, rows: Line, columns: Line) -> Array:
    """By two matrix products, at the full precision of x's type, which TPUs would reduce.

    XLA's compiler for GPUs finds no tiles for products in which an axis of any length, as of 21 channels, lies between
    those that are not summed over: here they lie side by side. A batch that shared its weights would put one between
    them: under vmap, each example needs positions of its own. Columns come first, so that only the smaller map is
    transposed.
    """
    height, width, channels = x.shape
    down, across = (_weights(*each).astype(x.dtype) for each in ((rows, height), (columns, width)))
    x = _multiplied(across, x.swapaxes(0, 1).reshape(width, -1))
    x = x.reshape(len(columns), height, channels).swapaxes(0, 1)
    return _multiplied(down, x.reshape(height, -1)).reshape(len(rows), len(columns), channels)


def _multiplied(weights: Array, x: Array) -> Array:
    """weights @ x. Barriers keep what is next to it, another such product included, out of the product's kernel."""
    with jax.named_scope(SCOPE):
        weights, x = jax.lax.optimization_barrier((weights, x))
        x = jnp.matmul(jax.lax.stop_gradient(weights), x, precision="highest")
        return jax.lax.optimization_barrier(x)


def _weights(positions: Line, length: int) -> Float[Array, "_n {length}"]:
    """The weight of each of `length` pixels at each position."""
    return jnp.maximum(0, 1 - jnp.abs(jnp.asarray(positions)[:, None] - jnp.arange(length)))


@jax.custom_vjp
def _looked_up(x: Array, rows: Line, columns: Line) -> Array:
    """By looking up the two neighbours of each coordinate along each axis."""
    for axis, positions in enumerate((rows, columns)):
        before = jnp.asarray(positions).astype(jnp.int32)
        share = jnp.expand_dims((positions - before).astype(x.dtype), (1, 2) if axis == 0 else (0, 2))
        first, second = (jnp.take(x, before + step, axis, mode="clip") for step in (0, 1))
        x = first * (1 - share) + second * share
    return x


def _looked_up_gradient(residuals: tuple[Array, Line, Line], dy: Array) -> tuple[Array, None, None]:
    x, rows, columns = residuals  # only the shape of x is needed: compiled code does not keep the array
    down, across = (_weights(*each).astype(x.dtype) for each in ((rows, x.shape[0]), (columns, x.shape[1])))

    def resized(x: Array) -> Array:
        x = jnp.einsum("hi,ijc->hjc", down, x, precision="highest")
        return jnp.einsum("wj,hjc->hwc", across, x, precision="highest")

    with jax.named_scope(SCOPE):
        (dx,) = jax.linear_transpose(resized, x)(dy)
    return dx, None, None


_looked_up.defvjp(lambda *inputs: (_looked_up(*inputs), inputs), _looked_up_gradient)
