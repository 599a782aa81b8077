"""SimOTA: assigns ground-truth boxes to a detector's predictions by the cost of its current predictions.

Source: Ge et al. 2021, "YOLOX: exceeding YOLO series in 2021", section 2.1; yolox/models/yolo_head.py.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from morphism.ops.boxes import iou

CANDIDATES = 10  # an object gets at most this many predictions; the IoUs of as many decide how many it gets
IOU_WEIGHT = 3.0  # of the cost of the box relative to that of the class
OUTSIDE = 1e5  # added to the cost of a cell that is not both in the object's box and near its centre
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
    """Assigns objects to the cells of one image.

    Args:
      logits: of the classes.
      objectness: logits of an object being there.
      predicted: boxes x0, y0, x1, y1 in pixels.
      centers: of the cells, x, y in pixels.
      strides: of the cells in pixels.
      boxes: ground truth, x0, y0, x1, y1 in pixels.
      classes: of the boxes.
      valid: which slots hold an object; the others change nothing.
      center_radius: cells within this many strides (each way) of a box's centre are near it.
      centers_only: candidates are the cells near a centre; by default also the cells within a box.

    Returns:
      The slot of each cell's object, -1 for background; and the IoU of its predicted box with that object, else 0.
      Both are constant to the gradient.

    The cost of a candidate for an object is the binary cross-entropy of sqrt(p(class) p(object)), summed over the
    classes, - 3 log IoU, + OUTSIDE unless the cell is both in that object's box and near its centre. An object takes
    its k cheapest candidates, k being the sum of its ten highest IoUs, rounded down, at least 1. A cell that several
    objects take goes to the one for which it is cheapest. Of equal costs the first counts.

    The defaults are the rules of yolox 0.1 to 0.3, which its published weights were trained with. Its main branch has
    had a radius of 1.5 and `centers_only` since January 2023.
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
    log_p, log_not_p = (jnp.maximum(each, LEAST_LOG) for each in (jnp.log(probability), jnp.log1p(-probability)))
    entropy = jnp.take(log_not_p - log_p, jnp.maximum(classes, 0), axis=1).T - jnp.sum(log_not_p, axis=1)
    cost = entropy - IOU_WEIGHT * jnp.log(overlap + 1e-8) + jnp.where(inside, 0, OUTSIDE)
    cost = jnp.where(candidate, cost, jnp.inf)

    most = min(CANDIDATES, len(centers))
    k = jnp.maximum(jnp.sum(jax.lax.top_k(overlap, most)[0], axis=1).astype(jnp.int32), 1)
    cheapest, cells = jax.lax.top_k(-cost, most)
    takes = (jnp.arange(most) < k[:, None]) & jnp.isfinite(cheapest)
    taken = jnp.zeros(cost.shape, bool).at[jnp.arange(len(boxes))[:, None], cells].set(takes)
    takers = jnp.sum(taken, axis=0)
    slot = jnp.where(takers > 1, jnp.argmin(cost, axis=0), jnp.argmax(taken, axis=0))
    matches = jnp.where(takers > 0, slot, -1)
    return matches, jnp.where(takers > 0, jnp.take_along_axis(overlap, slot[None], axis=0)[0], 0)
