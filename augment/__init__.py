"""Augmentation on the device: pure functions of (key, batch), run inside the jitted step.

Each example has a key of its own, made of the seed, its record and how often that was drawn before: it is augmented the
same way on 1 device and on 64, in whatever batch it stands. Mixing pairs rows 2i and 2i+1, which never stand on
different devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from augment.geometric import flip_left_right, random_crop
from augment.mixing import mix

Batch = dict[str, Array]


def augment(key: Key[Array, ""], batch: Batch, config: ConfigDict, classes: int) -> Batch:
    """The training prologue: uint8 images in, normalised float32 images out, labels mixed where the config says so."""
    keys = jax.vmap(lambda draw, id: jax.random.fold_in(jax.random.fold_in(key, draw), id))(batch["draw"], batch["id"])
    crop_keys, flip_keys, mix_keys = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
    images = batch["image"].astype(jnp.float32)
    if config.crop_padding > 0:
        images = jax.vmap(random_crop, in_axes=(0, 0, None))(crop_keys, images, config.crop_padding)
    if config.flip_probability > 0:
        images = jax.vmap(flip_left_right, in_axes=(0, 0, None))(flip_keys, images, config.flip_probability)
    batch = batch | {"image": normalise(images, config.mean, config.std)}
    if config.mixup_alpha > 0 or config.cutmix_alpha > 0:
        batch = mix(mix_keys, batch, config.mixup_alpha, config.cutmix_alpha, classes)
    return batch


def normalise(images: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Array, "b h w 3"]:
    """Pixels of 0..255 -> float32 (pixel / 255 - mean) / std; mean and std a channel, in units of the 0..1 range."""
    return (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)
