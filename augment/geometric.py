"""Flips, crops and resampling of one image; vmap them over a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Real

Scalar = Real[Array, ""] | float
Span = tuple[Int[Array, ""] | int, Int[Array, ""] | int]  # first pixel, and the first one beyond


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
