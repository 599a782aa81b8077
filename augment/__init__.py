"""Augmentation on the device: pure functions of (key, batch), run inside the jitted step.

Each example has its own key, made from the seed, the record and the draw, so that it is augmented the same way on 1
device and on 64, whatever its batch. Mixing pairs rows 2i and 2i + 1, and a mosaic combines rows 4i to 4i + 3; the rows
of a pair or mosaic are always on one device.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Real
from ml_collections import ConfigDict

from morphism.augment.auto import rand_augment, trivial_augment
from morphism.augment.colour import colour_jitter, lighting
from morphism.augment.erasing import random_erase
from morphism.augment.geometric import flip_left_right, random_crop
from morphism.augment.mixing import Batch, mix
from morphism.ops.platform import per_example

# What an example's keys are for. The index seeds the key: append only.
PURPOSES = ("crop", "flip", "mix", "auto", "jitter", "lighting", "erase", "mosaic", "mixup")


def augment(key: Key[Array, ""], batch: Batch, config: ConfigDict, classes: int) -> Batch:
    """Augments and normalises a training batch for classification.

    Args:
      key: of the run; `example_keys` derives those of the examples.
      batch: image [B, H, W, 3] of 0..255, uint8 or, from high-bit files, float32; label, id and draw int [B].
      config: config.augment.
      classes: number of classes.

    Returns the batch with normalised float32 images and, if the config mixes examples, float32 labels [B, K]. The order
    of operations is that of torchvision's references: crop, flip, RandAugment or TrivialAugment, colours, normalise,
    erase, mix.
    """

    keys = partial(example_keys, key, batch)

    def each(function: Callable, purpose: str, images: Array, *settings: Any) -> Array:
        return jax.vmap(lambda key, image: function(key, image, *settings))(keys(purpose), images)

    jitter = (config.brightness, config.contrast, config.saturation, config.hue)
    images = jnp.asarray(batch["image"], jnp.float32)
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
    """The examples' keys for one of PURPOSES."""
    path = (batch["draw"], batch["id"], jnp.full_like(batch["id"], PURPOSES.index(purpose)))
    return jax.vmap(lambda draw, id, number: reduce(jax.random.fold_in, (draw, id, number), key))(*path)


def normalise(
    images: Real[Array | np.ndarray, "*n 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*n 3"]:
    """(pixel / 255 - mean) / std in float32, of pixels of 0..255; mean and std are per channel, for pixels of 0..1."""
    return (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)
