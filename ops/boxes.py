"""Boxes: x0, y0, x1, y1 in pixels with x0 <= x1 and y0 <= y1, computed in float32 (float64 for float64 boxes).

`iou` compares every box of `a` with every box of `b`; all other functions compare them one by one.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from morphism.ops.precision import full_precision

EPSILON = 1e-7  # torchvision's, in the denominators
LARGEST_LOG_SCALE = math.log(1000 / 16)  # torchvision's bbox_xform_clip: decoded sides are at most 62.5 anchor sides


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Areas in square pixels."""
    boxes = full_precision(boxes)
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every box of `a` with every box of `b`; two boxes without area have IoU 0.

    Source: Everingham et al. 2010, "The Pascal visual object classes challenge", section 4.2; torchvision.ops.box_iou.
    """
    return _iou(a[:, None], b[None])


def giou(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    """Generalised IoU, -1..1: IoU minus the share of the enclosing box that neither box covers.

    Source: Rezatofighi et al. 2019, "Generalized intersection over union"; torchvision.ops.generalized_box_iou.
    """
    overlap, union = _overlap_and_union(a, b)
    width, height = _enclosing(a, b)
    return overlap / (union + EPSILON) - (width * height - union) / (width * height + EPSILON)


def diou(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    """Distance IoU, -1..1: IoU minus (distance of the centres / diagonal of the enclosing box) squared.

    Source: Zheng et al. 2019, "Distance-IoU loss", equation 6; torchvision.ops.distance_box_iou.
    """
    overlap, union = _overlap_and_union(a, b)
    width, height = _enclosing(a, b)
    distance = to_center(a)[0] - to_center(b)[0]
    penalty = jnp.sum(distance * distance, axis=-1) / (width * width + height * height + EPSILON)
    return overlap / (union + EPSILON) - penalty


def ciou(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    """Complete IoU: distance IoU minus a penalty for different aspect ratios, whose weight has no gradient.

    Source: Zheng et al. 2019, "Distance-IoU loss", equations 8 to 11; torchvision.ops.complete_box_iou.
    """
    overlap, union = _overlap_and_union(a, b)
    v = 4 / jnp.pi**2 * (_slope(a) - _slope(b)) ** 2
    alpha = jax.lax.stop_gradient(v / (1 - overlap / (union + EPSILON) + v + EPSILON))
    return diou(a, b) - alpha * v


def squared_iou_loss(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """1 - IoU^2 of each box of `a` with that of `b`: yolox/models/losses.py, IOUloss."""
    return 1 - jnp.square(_iou(a, b))


IOU_MEASURES = {"giou": giou, "diou": diou, "ciou": ciou}
REGRESSION_LOSSES = ("smooth_l1", "l1", *IOU_MEASURES)


def regression_loss(
    kind: str,
    pred_deltas: Float[Array, "*n 4"],
    target_boxes: Float[Array, "*n 4"],
    anchors: Float[Array, "*n 4"],
    weights: tuple[float, float, float, float] = (1, 1, 1, 1),
    beta: float = 1.0,
) -> Float[Array, "*n"]:
    """Loss of each predicted box against its target.

    Args:
      kind: one of REGRESSION_LOSSES. "smooth_l1" and "l1" compare deltas and add up the four coordinates; "giou",
        "diou" and "ciou" decode the deltas and are 1 minus that measure of the two boxes.
      pred_deltas: predicted deltas, as `encode` makes them.
      target_boxes: ground-truth boxes.
      anchors: boxes that the deltas are relative to.
      weights: of the deltas, as in `encode`.
      beta: of smooth L1, in units of the deltas.

    Source: torchvision/models/detection/_utils.py, _box_loss; detectron2/modeling/box_regression.py.
    """
    if kind in IOU_MEASURES:
        return 1 - IOU_MEASURES[kind](decode(pred_deltas, anchors, weights), target_boxes)
    difference = pred_deltas - encode(target_boxes, anchors, weights)
    return jnp.sum(smooth_l1(difference, 0 if kind == "l1" else beta), axis=-1)


def smooth_l1(x: Float[Array, "*shape"], beta: float) -> Float[Array, "*shape"]:
    """x^2 / (2 beta) where |x| < beta, |x| - beta / 2 elsewhere; |x| for beta = 0.

    Source: Girshick 2015, "Fast R-CNN", equation 3 (beta 1); torch.nn.functional.smooth_l1_loss(reduction="none").
    """
    x = full_precision(x)
    size = jnp.abs(x)
    if beta == 0:
        return size
    inside = jnp.minimum(size, beta)
    return inside * inside / (2 * beta) + (size - inside)


def clip(boxes: Float[Array, "*n 4"], size: Real[Array, "2"] | tuple[float, float]) -> Float[Array, "*n 4"]:
    """Boxes cut to an image of `size` = height, width: torchvision.ops.clip_boxes_to_image."""
    height, width = size
    return jnp.clip(full_precision(boxes), 0, jnp.array([width, height, width, height]))


def encode(
    boxes: Float[Array, "*#n 4"],
    anchors: Float[Array, "*#n 4"],
    weights: tuple[float, float, float, float] = (1, 1, 1, 1),
) -> Float[Array, "*n 4"]:
    """Regression targets of each box relative to its anchor.

    Returns dx, dy, dw, dh: the shift of the centre in anchor sides and the log ratio of the sides, times `weights`,
    which are 1, 1, 1, 1 in RetinaNet and the RPN, 10, 10, 5, 5 in SSD and the heads of R-CNN. Sides are taken to be at
    least 1e-7 pixels, so that an unused slot has finite targets.

    Source: Girshick et al. 2014, "Rich feature hierarchies", appendix C; torchvision.models.detection._utils.BoxCoder.
    """
    center, side = to_center(boxes)
    anchor_center, anchor_side = to_center(anchors)
    side, anchor_side = jnp.maximum(side, EPSILON), jnp.maximum(anchor_side, EPSILON)
    deltas = [(center - anchor_center) / anchor_side, jnp.log(side / anchor_side)]
    return jnp.concatenate(deltas, axis=-1) * jnp.array(weights, side.dtype)


def decode(
    deltas: Float[Array, "*#n 4"],
    anchors: Float[Array, "*#n 4"],
    weights: tuple[float, float, float, float] = (1, 1, 1, 1),
) -> Float[Array, "*n 4"]:
    """Boxes of these deltas, the inverse of `encode`, with sides of at most 62.5 anchor sides.

    For boxes per class, deltas are [n, k, 4] and anchors [n, 1, 4].
    """
    deltas = full_precision(deltas) / jnp.array(weights, deltas.dtype)
    anchor_center, anchor_side = to_center(anchors)
    center = anchor_center + deltas[..., :2] * anchor_side
    half = 0.5 * anchor_side * jnp.exp(jnp.minimum(deltas[..., 2:], LARGEST_LOG_SCALE))
    return jnp.concatenate([center - half, center + half], axis=-1)


def to_center(boxes: Float[Array, "*n 4"]) -> tuple[Float[Array, "*n 2"], Float[Array, "*n 2"]]:
    """Centres (x, y) and sides (width, height)."""
    boxes = full_precision(boxes)
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * side, side


def at_least(boxes: Float[Array, "*n 4"], side: float) -> Bool[Array, "*n"]:
    """Which boxes are at least `side` pixels wide and high."""
    return jnp.all(boxes[..., 2:] - boxes[..., :2] >= side, axis=-1)


def _overlap_and_union(a: Array, b: Array) -> tuple[Array, Array]:
    """Areas in square pixels of boxes that broadcast. Boxes that only touch have no gradient, as in torchvision."""
    a, b = full_precision(a), full_precision(b)
    side = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    meet = jnp.all(side > 0, axis=-1)
    overlap = jnp.where(meet, side[..., 0] * side[..., 1], 0)
    return overlap, area(a) + area(b) - overlap


def _iou(a: Array, b: Array) -> Array:
    overlap, union = _overlap_and_union(a, b)
    return overlap / jnp.where(union > 0, union, 1)


def _enclosing(a: Array, b: Array) -> tuple[Array, Array]:
    """Width and height of the smallest box around both."""
    side = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    return full_precision(side[..., 0]), full_precision(side[..., 1])


def _slope(boxes: Array) -> Array:
    """The angle whose tangent is width / height."""
    side = to_center(boxes)[1]
    return jnp.arctan(side[..., 0] / jnp.maximum(side[..., 1], EPSILON))
