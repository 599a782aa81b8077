"""Losses of a class a pixel, and the counts that judge one.

Labels are 0..K-1, or IGNORE for a pixel that counts for nothing: where all pixels are such, a loss is 0, and so is its
gradient. A loss is one number over all pixels of the batch, computed in float32 (or float64) from logits [B,H,W,K].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from morphism.labels import IGNORE

Logits = Float[Array, "*shape k"]
Labels = Int[Array, "*shape"]


def cross_entropy(
    logits: Logits,
    labels: Labels,
    class_weights: Float[Array, "k"] | None = None,
    pixel_weights: Float[Array, "*shape"] | None = None,
) -> Float[Array, ""]:
    """The mean of -log softmax(logits)_label over the pixels, each weighing its class's and its own weight.

    Source: torch.nn.CrossEntropyLoss(weight, ignore_index=255), which divides by the sum of the classes' weights; the
    pixels' own, as in Ronneberger et al. 2015, equation 1, do not enter that sum.
    """
    share = _share(labels, class_weights, logits)
    each = share * _negative_log_likelihood(logits, labels)
    return _ratio(jnp.sum(each if pixel_weights is None else each * pixel_weights), jnp.sum(share))


def focal(
    logits: Logits, labels: Labels, gamma: float = 2.0, class_weights: Float[Array, "k"] | None = None
) -> Float[Array, ""]:
    """The same with each pixel's term times (1 - p)^gamma, p being the softmax probability of its class.

    Source: Lin et al. 2017, "Focal loss for dense object detection", equation 4, for K exclusive classes.
    """
    share = _share(labels, class_weights, logits)
    loss = _negative_log_likelihood(logits, labels)
    missed = jnp.maximum(-jnp.expm1(-loss), jnp.finfo(loss.dtype).tiny)  # at 0 the power has no derivative if gamma < 1
    return _ratio(jnp.sum(share * missed**gamma * loss), jnp.sum(share))


def hard_cross_entropy(
    logits: Logits,
    labels: Labels,
    threshold: float = 0.7,
    least: int = 100_000,
    class_weights: Float[Array, "k"] | None = None,
) -> Float[Array, ""]:
    """Online hard example mining: the mean over the pixels whose class has a probability below `threshold`.

    Where fewer than `least` have, the threshold rises to the probability of the one after them, in rising order.
    Source: OhemCrossEntropy of HRNet-Semantic-Segmentation (lib/core/criterion.py); Shrivastava et al. 2016.
    """
    loss = _negative_log_likelihood(logits, labels)
    counted = (labels != IGNORE).ravel()
    probability = jnp.where(counted, jax.lax.stop_gradient(jnp.exp(-loss)).ravel(), jnp.inf)
    place = jnp.minimum(least, jnp.sum(counted) - 1)
    limit = jnp.maximum(jnp.sort(probability)[jnp.maximum(place, 0)], threshold)
    share = _share(labels, class_weights, logits)
    kept = (probability < limit).reshape(labels.shape)
    return _ratio(jnp.sum(jnp.where(kept, share * loss, 0)), jnp.sum(kept))


def dice(logits: Logits, labels: Labels, smooth: float = 1.0) -> Float[Array, ""]:
    """1 - (2 sum p t + smooth) / (sum p^2 + sum t^2 + smooth), the mean over the classes; sums over counted pixels.

    p are softmax probabilities, t is 1 at a pixel of the class and 0 elsewhere. Source: Milletari et al. 2016,
    "V-Net", section 3; mmsegmentation's dice_loss of before 1.0 (exponent 2, smooth 1), there a picture at a time.
    """
    p, t, counted = _flat(logits, labels)
    p = jnp.where(counted[:, None], p, 0)
    score = (2 * jnp.sum(p * t, axis=0) + smooth) / (jnp.sum(p * p, axis=0) + jnp.sum(t, axis=0) + smooth)
    return jnp.where(jnp.any(counted), jnp.mean(1 - score), 0)


def lovasz_softmax(logits: Logits, labels: Labels) -> Float[Array, ""]:
    """The convex extension of 1 - IoU of the classes that occur, their mean.

    Source: Berman, Triki & Blaschko 2018, "The Lovasz-softmax loss", algorithm 1 and equation 11; its authors'
    lovasz_softmax with classes="present" and per_image=False.
    """
    p, t, counted = _flat(logits, labels)

    def one_class(p: Float[Array, "n"], t: Float[Array, "n"]) -> Float[Array, ""]:
        errors = jnp.where(counted, jnp.abs(t - p), 0)  # ignored pixels come last, with nothing to add
        order = jnp.argsort(-jax.lax.stop_gradient(errors))
        errors, t = errors[order], t[order]
        intersection = jnp.sum(t) - jnp.cumsum(t)
        union = jnp.sum(t) + jnp.cumsum(1 - t)
        jaccard = 1 - intersection / union
        return jnp.sum(errors * jnp.diff(jaccard, prepend=0))

    present = jnp.any(t > 0, axis=0)
    each = jax.vmap(one_class, in_axes=1)(p, t)
    return _ratio(jnp.sum(jnp.where(present, each, 0)), jnp.sum(present))


def _share(labels: Labels, class_weights: Array | None, logits: Logits) -> Float[Array, "*shape"]:
    """What a pixel weighs: 0 where it is ignored."""
    dtype = _full_precision(logits).dtype
    weights = jnp.ones(logits.shape[-1], dtype) if class_weights is None else class_weights.astype(dtype)
    return jnp.where(labels != IGNORE, weights[_class(labels)], 0)


def _negative_log_likelihood(logits: Logits, labels: Labels) -> Float[Array, "*shape"]:
    """0 where the pixel is ignored."""
    logits = _full_precision(logits)
    chosen = jnp.sum(jnp.where(_one_hot(labels, logits.shape[-1]), logits, 0), axis=-1)
    return jnp.where(labels != IGNORE, jax.nn.logsumexp(logits, axis=-1) - chosen, 0)


def _flat(logits: Logits, labels: Labels) -> tuple[Float[Array, "n k"], Float[Array, "n k"], Bool[Array, "n"]]:
    """Probabilities, classes as 0 or 1, and which pixels count."""
    classes = logits.shape[-1]
    p = jax.nn.softmax(_full_precision(logits)).reshape(-1, classes)
    labels = labels.ravel()
    return p, _one_hot(labels, classes).astype(p.dtype), labels != IGNORE


def _one_hot(labels: Labels, classes: int) -> Bool[Array, "*shape k"]:
    """All False where the pixel is ignored."""
    return labels[..., None] == jnp.arange(classes)


def _class(labels: Labels) -> Labels:
    return jnp.where(labels == IGNORE, 0, labels)


def _ratio(total: Float[Array, ""], count: Array) -> Float[Array, ""]:
    return total / jnp.where(count > 0, count, 1)


def _full_precision(x: Array) -> Array:
    """float32, or float64 where that is computed with."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
