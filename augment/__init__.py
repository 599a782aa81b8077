"""Augmentation on the device: pure functions of (key, batch), run inside the jitted step.

Each example has a key of its own, made of the seed, its record and how often that was drawn before: it is augmented the
same way on 1 device and on 64, in whatever batch it stands. Mixing pairs rows 2i and 2i+1, mosaics are made of rows 4i
to 4i+3, which never stand on different devices.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from morphism.augment.auto import rand_augment, trivial_augment
from morphism.augment.colour import colour_jitter, lighting
from morphism.augment.erasing import random_erase
from morphism.augment.geometric import flip_left_right, random_crop
from morphism.augment.mixing import mix
from morphism.ops.platform import per_example

Batch = dict[str, Array]

PURPOSES = (
    "crop",
    "flip",
    "mix",
    "auto",
    "jitter",
    "lighting",
    "erase",
    "mosaic",
    "mixup",
)  # of an example's keys, by number


def augment(key: Key[Array, ""], batch: Batch, config: ConfigDict, classes: int) -> Batch:
    """The training prologue: images of 0..255 in, uint8 or, of high-bit files, float32; normalised float32 images out,
    labels mixed where the config says so.

    In the order of torchvision's references: crop, flip, RandAugment or TrivialAugment, colours, normalise, erase, mix.
    """

    keys = partial(example_keys, key, batch)

    def each(function: Callable, purpose: str, images: Array, *settings: Any) -> Array:
        return jax.vmap(lambda key, image: function(key, image, *settings))(keys(purpose), images)

    jitter = (config.brightness, config.contrast, config.saturation, config.hue)
    images = batch["image"].astype(jnp.float32)
    if config.crop_padding > 0:
        images = each(random_crop, "crop", images, config.crop_padding)
    if config.flip_probability > 0:
        images = each(flip_left_right, "flip", images, config.flip_probability)
    whole = batch["image"].dtype == jnp.uint8
    if config.auto == "randaugment":
        images = rand_augment(keys("auto"), images, config.auto_operations, config.auto_magnitude, whole)
    if config.auto == "trivialaugment":
        images = trivial_augment(keys("auto"), images, whole)
    if any(jitter):
        images = per_example(partial(colour_jitter, strengths=jitter))(keys("jitter"), images)
    if config.lighting > 0:
        images = each(lighting, "lighting", images, config.lighting)
    images = normalise(images, config.mean, config.std)
    if config.erase_probability > 0:
        images = each(random_erase, "erase", images, config.erase_probability)
    batch = batch | {"image": images}
    if config.mixup_alpha > 0 or config.cutmix_alpha > 0:
        batch = mix(keys("mix"), batch, config.mixup_alpha, config.cutmix_alpha, classes)
    return batch


def example_keys(key: Key[Array, ""], batch: Batch, purpose: str) -> Key[Array, "b"]:
    """A key for each example, another for each of PURPOSES."""
    path = (batch["draw"], batch["id"], jnp.full_like(batch["id"], PURPOSES.index(purpose)))
    return jax.vmap(lambda draw, id, number: reduce(jax.random.fold_in, (draw, id, number), key))(*path)


def normalise(images: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Array, "b h w 3"]:
    """Pixels of 0..255 -> float32 (pixel / 255 - mean) / std; mean and std a channel, in units of the 0..1 range."""
    return (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)
