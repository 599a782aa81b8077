"""How a mosaic is made: the draws, and where each of its points comes from.

augment/mosaic.py says what a mosaic is, and names the sources.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from ml_collections import ConfigDict

from morphism.augment.geometric import Scalar

GROUP = 4


class Plan(NamedTuple):
    """How one image of a group is made. Points are x, y in pixels; images of a group are numbered 0 to 3.

    The mosaic's canvas is twice as wide and high as the image's. The partner is the image that mixup mixes in.

    sources: images at the upper left, upper right, lower left and lower right of `center`.
    center: where the four meet, in the mosaic.
    offsets: upper left corner of each source, in the mosaic.
    forward: affine map from the mosaic to the new image.
    flip: whether the result is mirrored in the end.
    shown: width and height of the part of the canvas that is image.
    partner: number of the partner.
    partner_weight: 0 without mixup.
    partner_scale: size of the scaled partner relative to the canvas.
    partner_flip: whether the scaled partner is mirrored.
    partner_offset: columns and rows of the scaled partner that are cropped at the left and at the top.
    """

    sources: Int[Array, "4"]
    center: Float[Array, "2"]
    offsets: Float[Array, "4 2"]
    forward: Float[Array, "2 3"]
    flip: Bool[Array, ""]
    shown: Float[Array, "2"]
    partner: Int[Array, ""]
    partner_weight: Float[Array, ""]
    partner_scale: Float[Array, ""]
    partner_flip: Bool[Array, ""]
    partner_offset: Float[Array, "2"]


class Placed(NamedTuple):
    """The objects of a new image, slot by slot.

    boxes: x0, y0, x1, y1 in pixels; zeros in unused slots. classes: -1 in unused slots.
    sources: the image of the group that each object comes from. slots: its slot there.
    mixed: whether it comes from the partner.
    left_out: number of boxes without a slot.
    """

    boxes: Float[Array, "n 4"]
    classes: Int[Array, "n"]
    sources: Int[Array, "n"]
    slots: Int[Array, "n"]
    mixed: Bool[Array, "n"]
    left_out: Int[Array, ""]


def draw(
    row: Int[Array, ""],
    mosaic_key: Key[Array, ""],
    mixup_key: Key[Array, ""],
    flip_key: Key[Array, ""],
    sizes: Float[Array, "4 2"],
    has_boxes: Bool[Array, "4"],
    closed: Bool[Array, ""],
    canvas: Float[Array, "2"],
    config: ConfigDict,
) -> Plan:
    """Draws the plan of image `row` of a group; `sizes` and `canvas` are widths and heights.

    In a mosaic the row's own image comes first and the others follow in the order of the batch, which is random.
    """
    use_key, center_key, affine_key = jax.random.split(mosaic_key, 3)
    used = jax.random.bernoulli(use_key, config.mosaic) & ~closed
    center = jnp.where(used, jnp.floor(canvas * jax.random.uniform(center_key, (2,), minval=0.5, maxval=1.5)), 0)
    sources = jnp.where(used, (row + jnp.arange(GROUP)) % GROUP, row)
    offsets = jnp.where(used, corners(center, sizes[sources]), 0)
    forward = jnp.where(used, affine(affine_key, canvas, config), jnp.eye(2, 3))

    use_key, partner_key, scale_key, flip_partner_key, crop_key = jax.random.split(mixup_key, 5)
    others = (jnp.arange(GROUP) != row) & has_boxes
    partner = jnp.argmax(jnp.where(others, jax.random.uniform(partner_key, (GROUP,)), -1))
    mixes = used & jax.random.bernoulli(use_key, config.mixup) & jnp.any(others) & jnp.any(has_boxes[sources])
    scale = jax.random.uniform(scale_key, minval=config.mixup_scale[0], maxval=config.mixup_scale[1])
    spare = jnp.maximum(jnp.floor(canvas * scale) - canvas, 0)
    return Plan(
        sources=sources,
        center=center,
        offsets=offsets,
        forward=forward,
        flip=jax.random.bernoulli(flip_key, config.flip_probability),
        shown=jnp.where(used, canvas, sizes[row]),
        partner=partner,
        partner_weight=jnp.where(mixes, 0.5, 0.0),
        partner_scale=scale,
        partner_flip=jax.random.bernoulli(flip_partner_key),
        partner_offset=jnp.floor(jax.random.uniform(crop_key, (2,)) * spare),
    )


def corners(center: Float[Array, "2"], sizes: Float[Array, "4 2"]) -> Float[Array, "4 2"]:
    """Upper left corners of four images of these widths and heights that meet at `center`."""
    return center - sizes * jnp.array([[1.0, 1], [0, 1], [1, 0], [0, 0]])


def affine(key: Key[Array, ""], canvas: Float[Array, "2"], config: ConfigDict) -> Float[Array, "2 3"]:
    """Draws the affine map, about the mosaic's upper left corner: yolox's get_affine_matrix.

    It rotates by -degrees..degrees, scales by a factor in `scale`, shears by -shear..shear degrees along both axes and
    shifts by -translate..translate of the canvas; these are fields of config.augment.
    """
    draws = jax.random.uniform(key, (6,), minval=-1)
    return affine_matrix(
        angle=jnp.deg2rad(config.degrees * draws[0]),
        scale=config.scale[0] + (config.scale[1] - config.scale[0]) * (draws[1] + 1) / 2,
        shear=jnp.tan(jnp.deg2rad(config.shear * draws[2:4])),
        shift=config.translate * draws[4:] * canvas,
    )


def reach(config: ConfigDict) -> float:
    """`bilinear_by_products`' reach of a mosaic: of the inverses of all maps that `affine` can draw, and of none.

    The inverse of `affine_matrix` is a product of a scaling, a rotation and a shear. Its largest sum of absolute values
    in a row is at most the product of theirs.
    """
    turn = math.radians(min(config.degrees, 45.0))
    return max((math.cos(turn) + math.sin(turn)) / (1 - math.tan(math.radians(config.shear))) / config.scale[0], 1.0)


def affine_matrix(
    angle: Scalar, scale: Scalar, shear: Float[Array, "2"], shift: Float[Array, "2"]
) -> Float[Array, "2 3"]:
    """The affine map of an angle in radians, counter-clockwise as seen; `shear` holds tangents, along x and along y."""
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    first, second = jnp.stack([cos, sin]), jnp.stack([-sin, cos])
    linear = jnp.stack([first + shear[0] * second, second + shear[1] * first])
    return jnp.concatenate([linear, shift[:, None]], axis=1)


def source_at(
    plan: Plan, sizes: Float[Array, "4 2"], x: Float[Array, "h w"], y: Float[Array, "h w"]
) -> tuple[Int[Array, "h w"], Float[Array, "h w"], Float[Array, "h w"], Bool[Array, "h w"]]:
    """The source at each point of the mosaic, the point's x and y in the source, and whether it lies within it."""
    right, below = x >= plan.center[0], y >= plan.center[1]

    def of_quadrant(values: Array) -> Array:
        return jnp.where(below, jnp.where(right, values[3], values[2]), jnp.where(right, values[1], values[0]))

    across, down = (of_quadrant(sizes[plan.sources, axis]) for axis in (0, 1))
    local_x, local_y = (at - of_quadrant(plan.offsets[:, axis]) for axis, at in enumerate((x, y)))
    known = (local_x >= 0) & (local_x < across) & (local_y >= 0) & (local_y < down)
    return of_quadrant(plan.sources), local_x, local_y, known


def partner_at(
    plan: Plan, canvas: Float[Array, "2"], x: Float[Array, "h w"], y: Float[Array, "h w"]
) -> tuple[Float[Array, "h w"], Float[Array, "h w"], Bool[Array, "h w"]]:
    """The x and y on the partner's canvas of each point of the image before its flip, and whether it is covered."""
    extent = jnp.floor(canvas * plan.partner_scale)
    x, y = x + plan.partner_offset[0], y + plan.partner_offset[1]
    covered = (x < extent[0]) & (y < extent[1])
    x = jnp.where(plan.partner_flip, extent[0] - x, x)
    return x * canvas[0] / extent[0], y * canvas[1] / extent[1], covered


def unmapped(
    matrix: Float[Array, "2 3"], x: Float[Array, "h w"], y: Float[Array, "h w"]
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """The points that an affine map takes to x, y."""
    (a, b, shift_x), (c, d, shift_y) = matrix
    from_x, from_y = x - shift_x, y - shift_y
    determinant = a * d - b * c
    return (d * from_x - b * from_y) / determinant, (a * from_y - c * from_x) / determinant
