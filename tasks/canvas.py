"""Images that are part of their canvas, at the top left of it."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from morphism import augment as augmentation
from morphism.tasks.task import Batch


def inside(canvas: tuple[int, int], sizes: Int[Array, "b 2"]) -> Bool[Array, "b h w"]:
    """Which pixels of each canvas of height and width `canvas` are image."""
    rows, columns = (jnp.arange(side) < sizes[:, axis, None] for axis, side in enumerate(canvas))
    return rows[:, :, None] & columns[:, None, :]


def normalise(batch: Batch, config: ConfigDict, around: Float[Array, "3"] | float) -> Float[Array, "b h w 3"]:
    """The batch's images normalised by config.augment, and `around` on the canvas around each."""
    images = augmentation.normalise(batch["image"], config.mean, config.std)
    return jnp.where(inside(images.shape[1:3], batch["size"])[..., None], images, around)


def fill(config: ConfigDict) -> Float[Array, "3"] | float:
    """The grey level config.augment.fill normalised, or zero where it is negative."""
    return augmentation.normalise(jnp.full(3, config.fill), config.mean, config.std) if config.fill >= 0 else 0.0
