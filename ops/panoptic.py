"""Fuses detected objects and a class per pixel into one map of segments, on the device, with static shapes.

A map of segments has, per pixel, 0 for void, 1 + d for detection d of D, and 1 + D + k for class k of the pixels.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt16

from morphism.labels import IGNORE

Pixels = Bool[Array, "h w"]


def fuse(
    scores: Float[Array, "d"],
    pixels_of: Callable[[Int[Array, ""]], Pixels],
    classes: UInt8[Array, "h w"],
    stuff: Sequence[bool],
    *,
    score: float = 0.5,
    overlap: float = 0.5,
    stuff_area: int = 4096,
) -> UInt16[Array, "h w"]:
    """The segments of one image: objects by falling score, each on the pixels that are still free, then stuff.

    The loop runs once per object that scores enough, so its cost does not depend on the unused slots.

    Args:
      scores: of the detections; below 0 in unused slots.
      pixels_of: detection -> its mask.
      classes: the class of each pixel, IGNORE beyond the image, where segments are void.
      stuff: whether each class is stuff; pixels of other classes are void where there is no object.
      score: objects with a lower score are left out.
      overlap: so are objects of which a larger share lies on those already placed.
      stuff_area: and a class of stuff with fewer free pixels.

    Source: Kirillov et al. 2019, "Panoptic feature pyramid networks", section 3.2; detectron2's
    combine_semantic_and_instance_outputs.
    """
    inside = classes != IGNORE
    order = jnp.argsort(-scores)  # stable: of equal scores the first detection is first

    def place(step: Int[Array, ""], segments: UInt16[Array, "h w"]) -> UInt16[Array, "h w"]:
        mask = pixels_of(order[step]) & inside
        free = mask & (segments == 0)
        area = jnp.sum(mask)
        hidden = (area - jnp.sum(free)) / jnp.maximum(area, 1)
        return jnp.where(free & (hidden <= overlap), (order[step] + 1).astype(jnp.uint16), segments)

    count = jnp.sum(scores >= max(score, 0.0))
    segments = jax.lax.fori_loop(0, count, place, jnp.zeros(classes.shape, jnp.uint16))
    free = jnp.where(segments == 0, classes, IGNORE)
    areas = jnp.bincount(free.ravel(), length=IGNORE + 1)
    table = np.zeros(IGNORE + 1, bool)
    table[: len(stuff)] = stuff
    shown = jnp.asarray(table) & (areas >= stuff_area)
    return jnp.where(shown[free], (1 + len(scores) + free.astype(jnp.uint16)).astype(jnp.uint16), segments)


def pasted(
    mask: Float[Array, "s s"], box: Float[Array, "4"], height: int, width: int, threshold: float = 0.5
) -> Pixels:
    """The pixels of an image in which a mask, stretched over its box, has at least `threshold`.

    A cell of the mask has its value at its middle; between middles values are interpolated, around the mask they are 0.
    As products with matrices that have at most two values per row.

    Source: detectron2's paste_masks_in_image, with torch's grid_sample(align_corners=False).
    """
    rows, columns = (
        _weights(box[axis], box[axis + 2], mask.shape[0], side) for axis, side in ((1, height), (0, width))
    )
    values = jnp.einsum("ys,st,xt->yx", rows, mask, columns, precision=jax.lax.Precision.HIGHEST)
    return values >= threshold


def _weights(low: Float[Array, ""], high: Float[Array, ""], cells: int, side: int) -> Float[Array, "{side} {cells}"]:
    """The share of each of `cells` between low and high, in pixels, in each of `side` pixels."""
    length = jnp.where(high > low, high - low, 1)
    at = (jnp.arange(side) + 0.5 - low) / length * cells - 0.5
    return jnp.where(high > low, jnp.maximum(0, 1 - jnp.abs(at[:, None] - jnp.arange(cells))), 0)


def within(box: Float[Array, "4"], height: int, width: int) -> Pixels:
    """The pixels whose middle lies within a box."""
    x, y = jnp.arange(width) + 0.5, jnp.arange(height) + 0.5
    return ((box[1] <= y) & (y < box[3]))[:, None] & ((box[0] <= x) & (x < box[2]))
