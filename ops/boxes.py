"""Boxes: x0, y0, x1, y1 in pixels with x0 <= x1 and y0 <= y1, computed with in float32 (float64 where they come in it).

Functions named for a measure compare every box of `a` with every box of `b`; the losses compare them one by one.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-7  # torchvision's, in the denominators
LARGEST_LOG_SCALE = math.log(1000 / 16)  # torchvision's bbox_xform_clip: decoded sides grow at most so much


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """In square pixels."""
    boxes = _full_precision(boxes)
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every box of `a` with every box of `b`; two boxes without area have 0.

    Source: Everingham et al. 2010, "The Pascal visual object classes challenge", section 4.2; torchvision.ops.box_iou.
    """
    overlap, union = _overlap_and_union(a[:, None], b[None])
    return overlap / jnp.where(union > 0, union, 1)


def giou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """IoU less the share of the enclosing box that is in neither: -1..1.

    Source: Rezatofighi et al. 2019, "Generalized intersection over union"; torchvision.ops.generalized_box_iou.
    """
    return _giou(a[:, None], b[None])


def diou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """IoU less (distance of the centres / diagonal of the enclosing box) squared: -1..1.

    Source: Zheng et al. 2019, "Distance-IoU loss", equation 6; torchvision.ops.distance_box_iou.
    """
    return _diou(a[:, None], b[None])


def ciou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """DIoU less a penalty for another aspect ratio.

    Source: Zheng et al. 2019, "Distance-IoU loss", equations 8 to 11; torchvision.ops.complete_box_iou.
    """
    return _ciou(a[:, None], b[None])


def giou_loss(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """1 - GIoU of each box of `a` with that of `b`: torchvision.ops.generalized_box_iou_loss."""
    return 1 - _giou(a, b)


def diou_loss(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """1 - DIoU of each box of `a` with that of `b`: torchvision.ops.distance_box_iou_loss."""
    return 1 - _diou(a, b)


def ciou_loss(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """1 - CIoU of each box of `a` with that of `b`: torchvision.ops.complete_box_iou_loss.

    The weight of the aspect ratio's penalty is a constant to the gradient.
    """
    return 1 - _ciou(a, b)


def iou_loss(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """1 - IoU^2 of each box of `a` with that of `b`: yolox/models/losses.py, IOUloss."""
    overlap, union = _overlap_and_union(a, b)
    return 1 - jnp.square(overlap / jnp.where(union > 0, union, 1))


def smooth_l1(x: Float[Array, "*shape"], beta: float) -> Float[Array, "*shape"]:
    """x^2 / (2 beta) where |x| < beta, |x| - beta / 2 elsewhere; with beta = 0 that is |x|.

    Source: Girshick 2015, "Fast R-CNN", equation 3 (beta 1); torch.nn.functional.smooth_l1_loss(reduction="none").
    """
    x = _full_precision(x)
    size = jnp.abs(x)
    if beta == 0:
        return size
    inside = jnp.minimum(size, beta)
    return inside * inside / (2 * beta) + (size - inside)


def clip(boxes: Float[Array, "*n 4"], size: Float[Array, "2"] | tuple[int, int]) -> Float[Array, "*n 4"]:
    """The part of each box that lies in a picture of `size` = height, width. torchvision.ops.clip_boxes_to_image."""
    height, width = size
    return jnp.clip(_full_precision(boxes), 0, jnp.array([width, height, width, height]))


def encode(
    boxes: Float[Array, "*n 4"],
    anchors: Float[Array, "*n 4"],
    weights: tuple[float, float, float, float] = (1, 1, 1, 1),
) -> Float[Array, "*n 4"]:
    """What a network learns of each box beside its anchor: shift of the centre in anchor sizes, log ratios of sides.

    dx, dy, dw, dh, times `weights`: 1, 1, 1, 1 in RetinaNet and the RPN; 10, 10, 5, 5 in SSD and the heads of R-CNN.
    Sides shorter than 1e-7 pixels count as such, so that an unused slot has finite targets. Source: Girshick et al.
    2014, "Rich feature hierarchies", appendix C; torchvision.models.detection._utils.BoxCoder.
    """
    center, side = to_center(boxes)
    anchor_center, anchor_side = to_center(anchors)
    side, anchor_side = jnp.maximum(side, EPSILON), jnp.maximum(anchor_side, EPSILON)
    deltas = [(center - anchor_center) / anchor_side, jnp.log(side / anchor_side)]
    return jnp.concatenate(deltas, axis=-1) * jnp.array(weights, side.dtype)


def decode(
    deltas: Float[Array, "*n 4"],
    anchors: Float[Array, "*n 4"],
    weights: tuple[float, float, float, float] = (1, 1, 1, 1),
) -> Float[Array, "*n 4"]:
    """The box that `encode` would have written so; sides of at most 62.5 times the anchor's.

    Of boxes for every class, deltas are [n, k, 4] and anchors [n, 1, 4].
    """
    deltas = _full_precision(deltas) / jnp.array(weights, deltas.dtype)
    anchor_center, anchor_side = to_center(anchors)
    center = anchor_center + deltas[..., :2] * anchor_side
    half = 0.5 * anchor_side * jnp.exp(jnp.minimum(deltas[..., 2:], LARGEST_LOG_SCALE))
    return jnp.concatenate([center - half, center + half], axis=-1)


def to_center(boxes: Float[Array, "*n 4"]) -> tuple[Float[Array, "*n 2"], Float[Array, "*n 2"]]:
    """(centre x, y), (width, height)."""
    boxes = _full_precision(boxes)
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * side, side


def _full_precision(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _overlap_and_union(a: Array, b: Array) -> tuple[Array, Array]:
    """In square pixels, of boxes that broadcast. Boxes that only touch give no gradient, as in torchvision."""
    a, b = _full_precision(a), _full_precision(b)
    side = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    meet = jnp.all(side > 0, axis=-1)
    overlap = jnp.where(meet, side[..., 0] * side[..., 1], 0)
    return overlap, area(a) + area(b) - overlap


def _enclosing(a: Array, b: Array) -> tuple[Array, Array]:
    """Width and height of the smallest box around two."""
    side = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    return _full_precision(side[..., 0]), _full_precision(side[..., 1])


def _giou(a: Array, b: Array) -> Array:
    overlap, union = _overlap_and_union(a, b)
    width, height = _enclosing(a, b)
    return overlap / (union + EPSILON) - (width * height - union) / (width * height + EPSILON)


def _diou(a: Array, b: Array) -> Array:
    overlap, union = _overlap_and_union(a, b)
    width, height = _enclosing(a, b)
    apart = to_center(a)[0] - to_center(b)[0]
    distance = jnp.sum(apart * apart, axis=-1) / (width * width + height * height + EPSILON)
    return overlap / (union + EPSILON) - distance


def _ciou(a: Array, b: Array) -> Array:
    overlap, union = _overlap_and_union(a, b)
    v = 4 / jnp.pi**2 * (_slope(a) - _slope(b)) ** 2
    alpha = jax.lax.stop_gradient(v / (1 - overlap / (union + EPSILON) + v + EPSILON))
    return _diou(a, b) - alpha * v


def _slope(boxes: Array) -> Array:
    """The angle whose tangent is width / height."""
    side = to_center(boxes)[1]
    return jnp.arctan(side[..., 0] / jnp.maximum(side[..., 1], EPSILON))
