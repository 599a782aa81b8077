"""Random, class-balanced subsampling of anchors or proposals."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def sample_balanced(
    key: Key[Array, ""], positive: Bool[Array, "n"], negative: Bool[Array, "n"], size: int, fraction: float
) -> tuple[Int[Array, "m"], Bool[Array, "m"], Bool[Array, "m"]]:
    """Draws m = min(size, n) indices without replacement: at most int(size fraction) positives, the rest negatives.

    Args:
      key: of the draw; every subset of the same size is equally likely.
      positive: which candidates are positive.
      negative: which candidates are negative; the others are never drawn.
      size: of the sample.
      fraction: of positives in the sample, at most.

    Returns:
      Indices of the positives, then of the negatives; which slots hold a positive; and which slots are used. Slots
      that are left over repeat the used ones, so that a batch norm over the sample sees no other values; they are 0 if
      nothing is drawn.

    Source: Ren et al. 2015, "Faster R-CNN", section 3.1.3; torchvision's BalancedPositiveNegativeSampler.
    """
    slots = min(size, len(positive))
    order = random_order(key, len(positive))
    most = min(int(size * fraction), len(positive))
    positives, negatives = (
        jax.lax.top_k(jnp.where(mask, order, -1), room)[1] for mask, room in ((positive, most), (negative, slots))
    )
    first = jnp.minimum(jnp.sum(positive), most)
    count = first + jnp.minimum(jnp.sum(negative), size - first)
    slot = jnp.arange(slots)
    used = slot < count
    slot = jnp.where(used, slot, slot % jnp.maximum(count, 1))
    drawn = jnp.concatenate([positives, negatives])[jnp.where(slot < first, slot, most + slot - first)]
    return jnp.where(count > 0, drawn, 0), used & (slot < first), used


def random_order(key: Key[Array, ""], count: int) -> Float[Array, "{count}"]:
    """Uniform numbers in 0..1; the candidates with the largest are drawn."""
    return jax.random.uniform(key, (count,))
