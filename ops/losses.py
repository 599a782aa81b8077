"""Losses in float32, one per example (cross-entropy) or per logit: the caller decides how to average."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real


def cross_entropy(
    logits: Float[Array, "b k"],
    target: Int[Array, "b"] | Float[Array, "b k"],
    label_smoothing: float = 0.0,
    class_weights: Float[Array, "k"] | None = None,
) -> Float[Array, "b"]:
    """-sum_k w_k q_k log softmax(logits)_k in nats, with q = (1 - label_smoothing) target + label_smoothing / K.

    `target` is a class or a distribution over the classes; w are the `class_weights`, 1 by default.

    Source: Szegedy et al. 2015, "Rethinking the Inception architecture", section 7;
    torch.nn.CrossEntropyLoss(reduction="none").
    """
    logits = logits.astype(jnp.float32)
    target = smooth(target, logits.shape[-1], label_smoothing)
    if class_weights is not None:
        target = target * class_weights
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def binary_cross_entropy(
    logits: Float[Array, "*shape"],
    target: Real[Array, "*shape"] | Bool[Array, "*shape"],
    pos_weight: Float[Array, "*k"] | float = 1.0,
) -> Float[Array, "*shape"]:
    """-(pos_weight t log p + (1 - t) log(1 - p)) in nats, with p = sigmoid(logits) and targets t in 0..1.

    `pos_weight` is one number, or one per class along the last axis.

    Source: torch.nn.BCEWithLogitsLoss(reduction="none").
    """
    logits = logits.astype(jnp.float32)
    return -(pos_weight * target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits))


def sigmoid_focal(
    logits: Float[Array, "*shape"], target: Float[Array, "*shape"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Array, "*shape"]:
    """Focal loss: alpha_t (1 - p_t)^gamma times the binary cross-entropy, for targets t in 0..1.

    p_t is p t + (1 - p) (1 - t), alpha_t is alpha t + (1 - alpha) (1 - t); a negative `alpha` leaves the factor out.

    Source: Lin et al. 2017, "Focal loss for dense object detection", equation 5; torchvision.ops.sigmoid_focal_loss.
    """
    logits = logits.astype(jnp.float32)
    missed = jax.nn.sigmoid(-logits) * target + jax.nn.sigmoid(logits) * (1 - target)  # 1 - p_t, without cancellation
    missed = jnp.maximum(missed, jnp.finfo(jnp.float32).tiny)  # at 0 the power has no derivative where gamma < 1
    loss = missed**gamma * binary_cross_entropy(logits, target)
    return (alpha * target + (1 - alpha) * (1 - target)) * loss if alpha >= 0 else loss


def smooth(
    target: Int[Array, "b"] | Float[Array, "b k"], classes: int, label_smoothing: float = 0.0
) -> Float[Array, "b {classes}"]:
    """Target distributions, of which the fraction `label_smoothing` is spread evenly over all classes.

    `target` is a class, which becomes one-hot, or a distribution.
    """
    if jnp.issubdtype(target.dtype, jnp.integer):
        target = jax.nn.one_hot(target, classes)
    return (1 - label_smoothing) * target + label_smoothing / classes


def masked_mean(
    values: Float[Array, "*shape"], mask: Bool[Array | np.ndarray, "*shape"], count: Int[Array, ""]
) -> Float[Array, ""]:
    """The sum of `values` where `mask`, divided by `count`; 0 where nothing is counted."""
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(count, 1)
