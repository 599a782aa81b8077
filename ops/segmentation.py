"""Losses of semantic segmentation, and the confusion matrix of its pixels.

Labels are 0..K-1, or IGNORE for pixels that do not count; if no pixel counts, the loss and its gradient are 0. A loss
is one number over all pixels of the batch, computed in float32 (float64 for float64 logits) from logits [B, H, W, K].
`class_weights` multiply each pixel's term by the weight of its class; the default is 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from morphism.labels import IGNORE
from morphism.ops.platform import on_tpu
from morphism.ops.precision import full_precision

Logits = Float[Array, "*shape k"]
Labels = Integer[Array | np.ndarray, "*shape"]


def confusion(
    found: Integer[Array, "b h w"], true: Integer[Array, "b h w"], classes: int
) -> Int[Array, "{classes} {classes}"]:
    """How many pixels of each true class (row) are predicted as each class (column), without ignored ones.

    int32: for fewer than 2^31 pixels. On TPUs, which add at computed addresses one element at a time, it is a product
    of two one-hot matrices per image.
    """
    if on_tpu():
        numbers = jnp.arange(classes)

        def of_image(pair: tuple[Array, Array]) -> Array:
            one_hot = [(each.reshape(-1, 1) == numbers).astype(jnp.int8) for each in pair]
            return jnp.matmul(one_hot[0].T, one_hot[1], preferred_element_type=jnp.int32)

        return jnp.sum(jax.lax.map(of_image, (true, found)), axis=0)
    pairs = jnp.where(true == IGNORE, classes**2, true.astype(jnp.int32) * classes + found.astype(jnp.int32))
    counts = jnp.zeros(classes**2 + 1, jnp.int32).at[pairs.ravel()].add(1)
    return counts[:-1].reshape(classes, classes)


def cross_entropy(
    logits: Logits,
    labels: Labels,
    class_weights: Float[Array, "k"] | None = None,
    pixel_weights: Float[Array | np.ndarray, "*shape"] | None = None,
) -> Float[Array, ""]:
    """Weighted mean of -log softmax(logits)_label over the pixels.

    A pixel's term is multiplied by the weight of its class and by its own. The mean divides by the sum of the class
    weights, not of the pixels' own.

    Source: torch.nn.CrossEntropyLoss(weight, ignore_index=255); Ronneberger et al. 2015, equation 1, of pixel weights.
    """
    weights = _weights(labels, class_weights, logits)
    each = weights * _negative_log_likelihood(logits, labels)
    return _ratio(jnp.sum(each if pixel_weights is None else each * pixel_weights), jnp.sum(weights))


def focal(
    logits: Logits, labels: Labels, gamma: float = 2.0, class_weights: Float[Array, "k"] | None = None
) -> Float[Array, ""]:
    """Focal loss: the cross-entropy with each pixel's term times (1 - p)^gamma, for the probability p of its class.

    Source: Lin et al. 2017, "Focal loss for dense object detection", equation 4, for K exclusive classes.
    """
    weights = _weights(labels, class_weights, logits)
    loss = _negative_log_likelihood(logits, labels)
    missed = jnp.maximum(-jnp.expm1(-loss), jnp.finfo(loss.dtype).tiny)  # at 0 the power has no derivative if gamma < 1
    return _ratio(jnp.sum(weights * missed**gamma * loss), jnp.sum(weights))


def hard_cross_entropy(
    logits: Logits,
    labels: Labels,
    threshold: float = 0.7,
    least: int = 100_000,
    class_weights: Float[Array, "k"] | None = None,
) -> Float[Array, ""]:
    """Cross-entropy with online hard example mining (OHEM): the mean over pixels with p(class) < `threshold`.

    If no more than `least` pixels qualify, the threshold rises to the (least + 1)-th smallest probability.

    Source: OhemCrossEntropy of HRNet-Semantic-Segmentation (lib/core/criterion.py); Shrivastava et al. 2016.
    """
    loss = _negative_log_likelihood(logits, labels)
    counted = (labels != IGNORE).ravel()
    probability = jnp.where(counted, jax.lax.stop_gradient(jnp.exp(-loss)).ravel(), jnp.inf)
    index = jnp.minimum(least, jnp.sum(counted) - 1)
    limit = jnp.maximum(jnp.sort(probability)[jnp.maximum(index, 0)], threshold)
    weights = _weights(labels, class_weights, logits)
    kept = (probability < limit).reshape(labels.shape)
    return _ratio(jnp.sum(jnp.where(kept, weights * loss, 0)), jnp.sum(kept))


def dice(logits: Logits, labels: Labels, smooth: float = 1.0) -> Float[Array, ""]:
    """Dice loss: the mean over the classes of 1 - (2 sum p t + smooth) / (sum p^2 + sum t^2 + smooth).

    p are softmax probabilities; t is 1 at pixels of the class and 0 elsewhere; sums are over all pixels that count.

    Source: Milletari et al. 2016, "V-Net", section 3; mmsegmentation's dice_loss before 1.0 (exponent 2, smooth 1),
    which sums per image.
    """
    p, t, counted = _flat(logits, labels)
    p = jnp.where(counted[:, None], p, 0)
    score = (2 * jnp.sum(p * t, axis=0) + smooth) / (jnp.sum(p * p, axis=0) + jnp.sum(t, axis=0) + smooth)
    return jnp.where(jnp.any(counted), jnp.mean(1 - score), 0)


def lovasz_softmax(logits: Logits, labels: Labels) -> Float[Array, ""]:
    """Lovasz-softmax loss: the convex extension of 1 - IoU, averaged over the classes that occur.

    Source: Berman, Triki & Blaschko 2018, "The Lovasz-softmax loss", algorithm 1 and equation 11; its authors'
    lovasz_softmax with classes="present" and per_image=False.
    """
    p, t, counted = _flat(logits, labels)

    def one_class(p: Float[Array, "n"], t: Float[Array, "n"]) -> Float[Array, ""]:
        errors = jnp.where(counted, jnp.abs(t - p), 0)  # ignored pixels come last and add nothing
        order = jnp.argsort(-jax.lax.stop_gradient(errors))
        errors, t = errors[order], t[order]
        intersection = jnp.sum(t) - jnp.cumsum(t)
        union = jnp.sum(t) + jnp.cumsum(1 - t)
        jaccard = 1 - intersection / union
        return jnp.sum(errors * jnp.diff(jaccard, prepend=0))

    present = jnp.any(t > 0, axis=0)
    each = jax.vmap(one_class, in_axes=1)(p, t)
    return _ratio(jnp.sum(jnp.where(present, each, 0)), jnp.sum(present))


def _weights(labels: Labels, class_weights: Array | None, logits: Logits) -> Float[Array, "*shape"]:
    """The weight of each pixel's class, 0 for ignored pixels."""
    dtype = full_precision(logits).dtype
    weights = jnp.ones(logits.shape[-1], dtype) if class_weights is None else class_weights.astype(dtype)
    counted = labels != IGNORE
    return jnp.where(counted, weights[jnp.where(counted, labels, 0)], 0)


def _negative_log_likelihood(logits: Logits, labels: Labels) -> Float[Array, "*shape"]:
    """-log softmax(logits)_label of each pixel, 0 for ignored pixels."""
    logits = full_precision(logits)
    chosen = jnp.sum(jnp.where(_one_hot(labels, logits.shape[-1]), logits, 0), axis=-1)
    return jnp.where(labels != IGNORE, jax.nn.logsumexp(logits, axis=-1) - chosen, 0)


def _flat(logits: Logits, labels: Labels) -> tuple[Float[Array, "n k"], Float[Array, "n k"], Bool[Array, "n"]]:
    """Softmax probabilities, one-hot labels, and which pixels count, of all pixels in one axis."""
    classes = logits.shape[-1]
    p = jax.nn.softmax(full_precision(logits)).reshape(-1, classes)
    labels = jnp.ravel(labels)
    return p, _one_hot(labels, classes).astype(p.dtype), labels != IGNORE


def _one_hot(labels: Labels, classes: int) -> Bool[Array, "*shape k"]:
    """One-hot labels, all False for ignored pixels."""
    return labels[..., None] == jnp.arange(classes)


def _ratio(total: Float[Array, ""], count: Array) -> Float[Array, ""]:
    return total / jnp.where(count > 0, count, 1)
