"""Which ground-truth box each anchor learns, from the IoU of each box with each anchor.

Boxes stand in a fixed number of slots, of which `valid` ones are used. The result is, for each anchor, the number of a
valid slot, BELOW (background) or BETWEEN (neither: left out of the loss). A box that overlaps no anchor at all forces
none; torchvision would give it every anchor that overlaps no box.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BELOW, BETWEEN = -1, -2


def match(
    iou: Float[Array, "slots n"], valid: Bool[Array, "slots"], low: float, high: float, force_best: bool
) -> Int[Array, "n"]:
    """For each anchor the box of highest IoU (the first of equals), where that is at least `high`.

    IoU under `low` is BELOW, from `low` to under `high` BETWEEN. With `force_best`, the anchors whose IoU with some box
    is the highest that this box has with any (all of equals) are matched whatever it is: still to the box of *their*
    highest IoU, which may be another. Source: Lin et al. 2017, "Focal loss for dense object detection", section 4; Ren
    et al. 2015, "Faster R-CNN", section 3.1.2; torchvision's Matcher(high, low, allow_low_quality_matches=force_best).
    """
    best_box, best = _best_box(iou, valid)
    matches = jnp.where(best >= high, best_box, jnp.where(best >= low, BETWEEN, BELOW))
    if force_best:
        highest = jnp.max(iou, axis=1, keepdims=True)
        forced = jnp.any((iou == highest) & (highest > 0) & valid[:, None], axis=0)
        matches = jnp.where(forced, best_box, matches)
    return matches


def match_ssd(iou: Float[Array, "slots n"], valid: Bool[Array, "slots"], threshold: float) -> Int[Array, "n"]:
    """For each anchor the box of highest IoU, where that is at least `threshold`; and each box has its best anchor.

    Of a box's equally good anchors the first is forced; of boxes that force the same anchor the last has it. Source:
    Liu et al. 2016, "SSD", section 2.2; torchvision's SSDMatcher.
    """
    best_box, best = _best_box(iou, valid)
    matches = jnp.where(best >= threshold, best_box, BELOW)
    forces = valid & (jnp.max(iou, axis=1) > 0)
    slots = jnp.where(forces, jnp.arange(len(iou)), BELOW)
    forced = jnp.full_like(matches, BELOW).at[jnp.argmax(iou, axis=1)].max(slots)
    return jnp.where(forced >= 0, forced, matches)


def _best_box(iou: Array, valid: Array) -> tuple[Array, Array]:
    iou = jnp.where(valid[:, None], iou, -1)
    return jnp.argmax(iou, axis=0), jnp.max(iou, axis=0)
