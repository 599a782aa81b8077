"""Flips, crops and resampling of one image; vmap them over a batch."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Real

WINDOWS = 32  # that `bilinear_by_products` works on at a time

Scalar = Real[Array, ""] | float
Span = tuple[Scalar, Scalar]  # first pixel, and the first one beyond


def flip_left_right(key: Key[Array, ""], image: Float[Array, "h w c"], probability: float) -> Float[Array, "h w c"]:
    """Mirrors the image with the given probability."""
    return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


def random_crop(key: Key[Array, ""], image: Float[Array, "h w c"], padding: int) -> Float[Array, "h w c"]:
    """A random crop, of the image's size, from the image padded with black: torchvision's RandomCrop(size, padding)."""
    y, x = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(padded, (y, x, 0), image.shape)


def rectangle(rows: Span, columns: Span, height: int, width: int) -> Bool[Array, "{height} {width}"]:
    """Which pixels of an image of height x width lie in these rows and columns."""
    y, x = jnp.arange(height), jnp.arange(width)
    return ((y >= rows[0]) & (y < rows[1]))[:, None] & ((x >= columns[0]) & (x < columns[1]))[None, :]


def bilinear(look_up: Callable, x: Float[Array, "h w"], y: Float[Array, "h w"]) -> Float[Array, "h w 3"]:
    """Bilinear interpolation at each point between the four pixels around it, whose centres lie at halves.

    look_up(x, y) -> [h, w, 3] returns the pixels in columns x and rows y, which are whole numbers in float.
    """
    x, y = x - 0.5, y - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    right, below = (x - left)[..., None], (y - top)[..., None]
    upper = look_up(left, top) * (1 - right) + look_up(left + 1, top) * right
    lower = look_up(left, top + 1) * (1 - right) + look_up(left + 1, top + 1) * right
    return upper * (1 - below) + lower * below


def bilinear_by_products(
    image: Real[Array, "h w 3"], x: Float[Array, "m n"], y: Float[Array, "m n"], reach: float
) -> Float[Array, "m n 3"]:
    """Bilinear interpolation of an image at each point, for TPUs, which are slow to read single pixels.

    Each block of points reads one window of the image that holds all their pixels, and picks them by products with
    one-hot matrices, which are exact. Beyond the image its border is repeated.

    Args:
      reach: the most that x changes by a step to the right and by a step down, added up, and likewise y, in pixels.

    A window is w = ceil(reach (b - 1)) + 3 pixels wide and high for blocks of b x b points, and a point costs 6 w^2
    multiply-accumulates.
    """
    height, width = image.shape[:2]
    block = 16 if reach < 4 else 8
    side = math.ceil(reach * (block - 1)) + 3  # a point's second neighbour, both ends, and one for rounding
    rows, columns = min(side, height), min(side, width)
    dtype = jnp.promote_types(image.dtype, x.dtype)
    if image.dtype == jnp.uint8:
        image = image.astype(jnp.bfloat16)  # holds them exactly, and TPUs multiply it in one pass

    def of_block(points: tuple[Array, Array]) -> Float[Array, "b b 3"]:
        first_row, first_column = (
            jnp.clip(jnp.floor(jnp.min(at) - 0.5).astype(jnp.int32), 0, length - span)
            for at, length, span in zip(points[::-1], (height, width), (rows, columns), strict=True)
        )
        window = jax.lax.dynamic_slice(image, (first_row, first_column, jnp.int32(0)), (rows, columns, 3))

        def look_up(x: Float[Array, "b b"], y: Float[Array, "b b"]) -> Float[Array, "b b 3"]:
            column, row = (
                (jnp.clip(at, 0, length - 1).astype(jnp.int32) - first)[..., None] == jnp.arange(span)
                for at, length, first, span in ((x, width, first_column, columns), (y, height, first_row, rows))
            )
            across = jnp.einsum("hwj,ijc->hwic", column.astype(window.dtype), window, precision="highest")
            return jnp.sum(jnp.where(row[..., None], across, 0), axis=2).astype(dtype)

        return bilinear(look_up, *points)

    def in_blocks(points: Float[Array, "m n"]) -> Float[Array, "k b b"]:
        points = jnp.pad(points, [(0, -length % block) for length in points.shape], mode="edge")
        split = points.reshape(points.shape[0] // block, block, -1, block)
        return split.swapaxes(1, 2).reshape(-1, block, block)

    found = jax.lax.map(of_block, (in_blocks(x), in_blocks(y)), batch_size=WINDOWS)
    down, across = (-(-length // block) for length in x.shape)
    found = found.reshape(down, across, block, block, 3).swapaxes(1, 2).reshape(down * block, across * block, 3)
    return found[: x.shape[0], : x.shape[1]]
