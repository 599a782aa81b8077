"""Images at the top left of a canvas."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from morphism import augment as augmentation
from morphism.tasks.task import Batch


def inside(canvas: tuple[int, int], sizes: Int[Array, "b 2"]) -> Bool[Array, "b h w"]:
    """Which pixels of each canvas belong to the image; `canvas` and `sizes` are heights and widths."""
    rows, columns = (jnp.arange(side) < sizes[:, axis, None] for axis, side in enumerate(canvas))
    return rows[:, :, None] & columns[:, None, :]


def normalise(batch: Batch, config: ConfigDict, around: Float[Array, "3"] | float) -> Float[Array, "b h w 3"]:
    """The batch's images, normalised by `config`, config.augment; the rest of each canvas is `around`."""
    images = augmentation.normalise(batch["image"], config.mean, config.std)
    return jnp.where(inside(images.shape[1:3], batch["size"])[..., None], images, around)


def fill(config: ConfigDict) -> Float[Array, "3"] | float:
    """The normalised grey level config.augment.fill, or 0 if it is negative. `config` is config.augment."""
    return augmentation.normalise(jnp.full(3, config.fill), config.mean, config.std) if config.fill >= 0 else 0.0
