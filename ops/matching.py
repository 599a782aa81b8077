"""Assigns to each anchor the ground-truth box that it is trained on, from the IoU of every box with every anchor.

Boxes fill some of a fixed number of slots; `valid` says which. The result is, per anchor, the index of a valid slot,
BELOW (background) or BETWEEN (neither: left out of the loss). A box that overlaps no anchor forces none; torchvision
would give it every anchor that overlaps no box.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BELOW, BETWEEN = -1, -2


def match(
    iou: Float[Array, "slots n"], valid: Bool[Array, "slots"], low: float, high: float, force_best: bool
) -> Int[Array, "n"]:
    """Matches each anchor with the box of highest IoU, if that is at least `high`.

    Args:
      iou: of each slot's box with each anchor. Of equal ones the first box counts.
      valid: which slots hold a box.
      low: anchors whose highest IoU is less are BELOW; from `low` up to `high` they are BETWEEN.
      high: anchors whose highest IoU is at least this are matched.
      force_best: also matches the anchors that have the highest IoU with some box (all of equals), however low. They
        too are matched with the box of *their* highest IoU, which may be another box.

    Source: Lin et al. 2017, "Focal loss for dense object detection", section 4; Ren et al. 2015, "Faster R-CNN",
    section 3.1.2; torchvision's Matcher(high, low, allow_low_quality_matches=force_best).
    """
    best_box, best = _best_box(iou, valid)
    matches = jnp.where(best >= high, best_box, jnp.where(best >= low, BETWEEN, BELOW))
    if force_best:
        highest = jnp.max(iou, axis=1, keepdims=True)
        forced = jnp.any((iou == highest) & (highest > 0) & valid[:, None], axis=0)
        matches = jnp.where(forced, best_box, matches)
    return matches


def match_ssd(
    iou: Float[Array, "slots n"], valid: Bool[Array, "slots"], threshold: float | Float[Array, ""]
) -> Int[Array, "n"]:
    """Matches each anchor with the box of highest IoU, if that is at least `threshold`, and each box with one anchor.

    A box forces its best anchor, of equally good ones the first. If several boxes force the same anchor, the last one
    gets it.

    Source: Liu et al. 2016, "SSD", section 2.2; torchvision's SSDMatcher.
    """
    best_box, best = _best_box(iou, valid)
    matches = jnp.where(best >= threshold, best_box, BELOW)
    forces = valid & (jnp.max(iou, axis=1) > 0)
    slots = jnp.where(forces, jnp.arange(len(iou)), BELOW)
    forced = jnp.full_like(matches, BELOW).at[jnp.argmax(iou, axis=1)].max(slots)
    return jnp.where(forced >= 0, forced, matches)


def _best_box(iou: Array, valid: Array) -> tuple[Array, Array]:
    """Per anchor the slot of the box with the highest IoU, and that IoU."""
    iou = jnp.where(valid[:, None], iou, -1)
    return jnp.argmax(iou, axis=0), jnp.max(iou, axis=0)
