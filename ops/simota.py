"""SimOTA: which object each place of a detector learns, found by what the detector says there now.

Source: Ge et al. 2021, "YOLOX: exceeding YOLO series in 2021", section 2.1; yolox/models/yolo_head.py.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from morphism.ops.boxes import iou

CANDIDATES = 10  # the most places an object can have, and those whose IoU says how many it has
IOU_WEIGHT = 3.0  # of the boxes' cost beside the classes'
OUTSIDE = 1e5  # the cost of a place that is not both in the object's box and near its centre
LEAST_LOG = -100.0  # torch.nn.functional.binary_cross_entropy's


def simota(
    logits: Float[Array, "a k"],
    objectness: Float[Array, "a"],
    predicted: Float[Array, "a 4"],
    centers: Float[Array, "a 2"],
    strides: Float[Array, "a"],
    boxes: Float[Array, "n 4"],
    classes: Int[Array, "n"],
    valid: Bool[Array, "n"],
    center_radius: float = 2.5,
    centers_only: bool = False,
) -> tuple[Int[Array, "a"], Float[Array, "a"]]:
    """For each place the slot of its object, -1 for background; and the IoU of its predicted box with that, or 0.

    `centers` of the places' cells and `strides` in pixels; boxes are x0, y0, x1, y1. Candidates are the places in some
    box or within `center_radius` strides (each way) of some box's centre; the cost of one for an object is the binary
    cross-entropy of sqrt(p(class) p(object)), summed over the classes, - 3 log IoU, and OUTSIDE where it is not both in
    that object's box and near its centre. An object takes its k cheapest, where k is the sum of its ten highest IoUs,
    rounded down, at least 1; a place that several take goes to the object for which it is cheapest. Of equal costs the
    first counts. Slots that are not `valid` change nothing. To the gradient all of it is constant.

    These are the rules of yolox 0.1 to 0.3, by which its published weights were trained, with a radius of 2.5. Since
    January 2023 its main branch has a radius of 1.5, and nearness to the centre alone counts: `centers_only`.
    """
    fixed = (logits, objectness, predicted, boxes)
    logits, objectness, predicted, boxes = map(jax.lax.stop_gradient, fixed)
    x, y, reach = centers[:, 0], centers[:, 1], center_radius * strides
    x0, y0, x1, y1 = (boxes[:, index, None] for index in range(4))
    in_box = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    near = (jnp.abs(x - (x0 + x1) / 2) < reach) & (jnp.abs(y - (y0 + y1) / 2) < reach)
    inside, eligible = (near, near) if centers_only else (in_box & near, in_box | near)
    candidate = jnp.any(eligible & valid[:, None], axis=0) & valid[:, None]

    overlap = jnp.where(candidate, iou(boxes, predicted), 0)
    probability = jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(objectness)[:, None])
    yes, no = (jnp.maximum(each, LEAST_LOG) for each in (jnp.log(probability), jnp.log1p(-probability)))
    entropy = jnp.take(no - yes, jnp.maximum(classes, 0), axis=1).T - jnp.sum(no, axis=1)
    cost = entropy - IOU_WEIGHT * jnp.log(overlap + 1e-8) + jnp.where(inside, 0, OUTSIDE)
    cost = jnp.where(candidate, cost, jnp.inf)

    most = min(CANDIDATES, len(centers))
    wanted = jnp.maximum(jnp.sum(jax.lax.top_k(overlap, most)[0], axis=1).astype(jnp.int32), 1)
    cheapest, places = jax.lax.top_k(-cost, most)
    takes = (jnp.arange(most) < wanted[:, None]) & jnp.isfinite(cheapest)
    taken = jnp.zeros(cost.shape, bool).at[jnp.arange(len(boxes))[:, None], places].set(takes)
    takers = jnp.sum(taken, axis=0)
    slot = jnp.where(takers > 1, jnp.argmin(cost, axis=0), jnp.argmax(taken, axis=0))
    matches = jnp.where(takers > 0, slot, -1)
    return matches, jnp.where(takers > 0, jnp.take_along_axis(overlap, slot[None], axis=0)[0], 0)
