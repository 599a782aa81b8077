"""Random erasing of one image; vmap it over a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from morphism.augment.geometric import rectangle

SCALE = (0.02, 0.33)  # area of the rectangle / area of the image
RATIO = (0.3, 3.3)  # height / width of the rectangle
TRIES = 10


def random_erase(key: Key[Array, ""], image: Float[Array, "h w c"], probability: float) -> Float[Array, "h w c"]:
    """Sets a random rectangle to 0, which in a normalised image is the mean colour.

    The first of ten random rectangles that is smaller than the image in both directions; without one nothing is erased.

    Source: Zhong et al. 2017, "Random erasing data augmentation"; torchvision.transforms.v2.RandomErasing.
    """
    chance_key, box_key = jax.random.split(key)
    height, width = image.shape[:2]
    top, left, rows, columns = draw_box(box_key, height, width)
    box = rectangle((top, top + rows), (left, left + columns), height, width)
    erased = jnp.where(box[..., None], 0, image)
    return jnp.where(jax.random.bernoulli(chance_key, probability), erased, image)


def draw_box(key: Key[Array, ""], height: int, width: int) -> Int[Array, "4"]:
    """Draws top, left, height and width of the rectangle; height and width are 0 if none of the ten fits."""
    scale_key, ratio_key, place_key = jax.random.split(key, 3)
    scales = jax.random.uniform(scale_key, (TRIES,), minval=SCALE[0], maxval=SCALE[1])
    log_ratios = jax.random.uniform(ratio_key, (TRIES,), minval=jnp.log(RATIO[0]), maxval=jnp.log(RATIO[1]))
    sizes = box_size(scales, jnp.exp(log_ratios), height, width)
    limits = jnp.array([height, width])
    fits = jnp.all(sizes < limits, axis=-1)
    size = jnp.where(jnp.any(fits), sizes[jnp.argmax(fits)], 0)
    return jnp.concatenate([jax.random.randint(place_key, (2,), 0, limits - size + 1), size])


def box_size(scale: Float[Array, "*n"], ratio: Float[Array, "*n"], height: int, width: int) -> Int[Array, "*n 2"]:
    """Rounded height and width of a rectangle with the fraction `scale` of the area and height / width `ratio`."""
    area = height * width * scale
    return jnp.round(jnp.sqrt(jnp.stack([area * ratio, area / ratio], axis=-1))).astype(int)
