"""Losses, in float32, an example at a time: the caller decides how to average."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "b k"], target: Int[Array, "b"] | Float[Array, "b k"], label_smoothing: float = 0.0
) -> Float[Array, "b"]:
    """-sum_k q_k log softmax(logits)_k in nats, with q = (1 - label_smoothing) target + label_smoothing / K.

    `target` is a class or a distribution over the classes. Source: Szegedy et al. 2015, "Rethinking the Inception
    architecture", section 7; torch.nn.CrossEntropyLoss(reduction="none").
    """
    logits = logits.astype(jnp.float32)
    classes = logits.shape[-1]
    if jnp.issubdtype(target.dtype, jnp.integer):
        target = jax.nn.one_hot(target, classes)
    target = (1 - label_smoothing) * target + label_smoothing / classes
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
