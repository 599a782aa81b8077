"""Which few of many anchors or proposals a two-stage detector learns from: as many of each kind as is wanted."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def sample_balanced(
    key: Key[Array, ""], positive: Bool[Array, "n"], negative: Bool[Array, "n"], size: int, fraction: float
) -> tuple[Int[Array, "m"], Bool[Array, "m"], Bool[Array, "m"]]:
    """m = min(size, n) slots: numbers of positives, then of negatives; which slots are positive; and which are used.

    Of the positives at most int(size fraction) are drawn, of the negatives as many as make `size` with them, or all;
    every choice of so many is equally likely, and none is drawn twice. Slots that are left repeat the used ones, so
    that a batch norm over them sees nothing else; all are 0 if nothing is drawn. Source: torchvision's
    BalancedPositiveNegativeSampler; Ren et al. 2015, "Faster R-CNN", section 3.1.3.
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
    """Numbers of 0..1; those whose numbers are largest are drawn."""
    return jax.random.uniform(key, (count,))
