"""Mixup and cutmix of neighbouring rows: 2i with 2i + 1."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from morphism.augment.geometric import rectangle

Batch = dict[str, Array | np.ndarray]


def mix(keys: Key[Array, "b"], batch: Batch, mixup_alpha: float, cutmix_alpha: float, classes: int) -> Batch:
    """Mixes each pair of rows by mixup or cutmix; if both alphas are positive, by either with probability 0.5.

    Args:
      keys: of the examples; a pair uses the key of its first row.
      batch: image float [B, H, W, C] and label int [B], B even.
      mixup_alpha, cutmix_alpha: parameters of the beta distributions; 0 switches a method off.
      classes: number of classes, K.

    Returns the batch with the mixed images, and labels float [B, K]. torchvision draws once per batch and pairs each
    row with the one before it; here every pair has its own draw, and both rows are on one device.
    """
    keys = keys[::2]
    choice_keys, mixup_keys, cutmix_keys = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
    share = (cutmix_alpha > 0) / ((mixup_alpha > 0) + (cutmix_alpha > 0))  # of cutmix: 0, 0.5 or 1
    use_cutmix = jax.vmap(jax.random.bernoulli, in_axes=(0, None))(choice_keys, share)
    height, width = batch["image"].shape[1:3]
    weights = jnp.zeros((len(keys), height, width))
    if mixup_alpha > 0:
        weights = jax.vmap(mixup_weights, in_axes=(0, None, None, None))(mixup_keys, mixup_alpha, height, width)
    if cutmix_alpha > 0:
        boxes = jax.vmap(cutmix_weights, in_axes=(0, None, None, None))(cutmix_keys, cutmix_alpha, height, width)
        weights = jnp.where(use_cutmix[:, None, None], boxes, weights)
    return blend_pairs(batch, weights, classes)


def blend_pairs(batch: Batch, weights: Float[Array, "pairs h w"], classes: int) -> Batch:
    """Blends the rows of each pair: `weights` of a row's own pixels, the rest of the other's; labels by their mean."""
    images, labels = _pairs(batch["image"]), _pairs(jax.nn.one_hot(batch["label"], classes))
    own = jnp.mean(weights, axis=(1, 2))[:, None, None]
    return batch | {
        "image": _blend(images, weights[:, None, :, :, None]).reshape(batch["image"].shape),
        "label": _blend(labels, own).reshape(-1, classes),
    }


def mixup_weights(key: Key[Array, ""], alpha: float, height: int, width: int) -> Float[Array, "h w"]:
    """The weight of an example's own pixels, the same for all: a draw from Beta(alpha, alpha).

    Source: Zhang et al. 2017, "mixup: beyond empirical risk minimization", algorithm in figure 1.
    """
    return jnp.full((height, width), jax.random.beta(key, alpha, alpha))


def cutmix_weights(key: Key[Array, ""], alpha: float, height: int, width: int) -> Float[Array, "h w"]:
    """The weights of an example's own pixels: 0 in a random box, 1 outside.

    The box has the fraction 1 - lambda of the area, with lambda from Beta(alpha, alpha). Its centre is uniform over the
    pixels, and it is clipped to the image, so that labels are weighted by the clipped area.

    Source: Yun et al. 2019, "CutMix", equation 2; torchvision.transforms.v2.CutMix.
    """
    lambda_key, y_key, x_key = jax.random.split(key, 3)
    half = 0.5 * jnp.sqrt(1 - jax.random.beta(lambda_key, alpha, alpha))
    y = jax.random.randint(y_key, (), 0, height)
    x = jax.random.randint(x_key, (), 0, width)
    half_h, half_w = (half * height).astype(int), (half * width).astype(int)
    return 1.0 - rectangle((y - half_h, y + half_h), (x - half_w, x + half_w), height, width)


def _pairs(x: Array | np.ndarray) -> Array | np.ndarray:
    return x.reshape(-1, 2, *x.shape[1:])


def _blend(pairs: Array | np.ndarray, own: Array) -> Array:
    """Of pairs [P, 2, ...]: each row times `own`, plus the other row times 1 - own."""
    return own * pairs + (1 - own) * pairs[:, ::-1]
