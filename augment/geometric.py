"""Flips and crops of one image; vmap them over a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def flip_left_right(key: Key[Array, ""], image: Float[Array, "h w c"], probability: float) -> Float[Array, "h w c"]:
    return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


def random_crop(key: Key[Array, ""], image: Float[Array, "h w c"], padding: int) -> Float[Array, "h w c"]:
    """A crop of the image's own size out of the image padded with black: torchvision's RandomCrop(size, padding)."""
    y, x = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(padded, (y, x, 0), image.shape)
