"""YOLOX's mosaic, random affine map and mixup, in one resampling of each image from its group of four.

Rows 4i to 4i + 3 of a batch are a group, which is always on one device; each row becomes a mosaic of all four. A row's
`Plan` says where every pixel of its new image comes from, `render` interpolates each pixel once, and `place` maps the
boxes. The mosaic's canvas itself, four times as large as the result, is never made.

Source: Ge et al. 2021, "YOLOX", section 2.1; yolox/data/datasets/mosaicdetection.py and data_augment.py of release
0.3.0. There the other images come from the whole dataset, here from the group. Here pixels and boxes are mapped alike;
OpenCV maps the pixels' indices, which are half a pixel off, and rounds to 1/32 pixel and to whole grey levels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Real
from ml_collections import ConfigDict

from morphism.augment.geometric import Scalar, bilinear
from morphism.augment.mixing import Batch

GROUP = 4
LEAST_SIDE = 1.0  # pixels: boxes whose width or height is not greater are dropped


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


def mosaic(
    mosaic_keys: Key[Array, "b"],
    mixup_keys: Key[Array, "b"],
    flip_keys: Key[Array, "b"],
    batch: Batch,
    closed: Bool[Array, "b"],
    config: ConfigDict,
) -> Batch:
    """Replaces images by mosaics, mixes pairs of them, and flips.

    Args:
      mosaic_keys, mixup_keys, flip_keys: of the rows.
      batch: image [B, H, W, 3] of 0..255, boxes, classes, crowd and size; B is a multiple of 4 on every device.
      closed: rows that keep their image, as do those without a mosaic.
      config: config.augment. A row becomes a mosaic with probability `mosaic`; a mosaic is mixed with another image of
        its group, if that has boxes, with probability `mixup`; any row is flipped with probability `flip_probability`.

    Returns the batch with float images and their boxes, classes, crowd and size, and `left_out` int32 [B], the number
    of boxes without a slot. Crowds and boxes of at most LEAST_SIDE are dropped. Of the others as many as there are
    slots are kept, those of the mixed-in image coming last.
    """
    height, width = batch["image"].shape[1:3]
    canvas = jnp.array([width, height], jnp.float32)
    groups = jax.tree.map(
        lambda x: x.reshape(-1, GROUP, *x.shape[1:]),
        {key: batch[key] for key in ("image", "boxes", "classes", "crowd", "size")},
    )
    used = (groups["classes"] >= 0) & ~groups["crowd"]
    has_boxes = jnp.any(used, axis=-1)
    sizes = groups["size"][..., ::-1].astype(jnp.float32)  # width, height

    def plans(keys, sizes, has_boxes, closed):
        draw_each = jax.vmap(lambda row, keys, closed: draw(row, *keys, sizes, has_boxes, closed, canvas, config))
        return draw_each(jnp.arange(GROUP), keys, closed)

    keys = [each.reshape(-1, GROUP) for each in (mosaic_keys, mixup_keys, flip_keys)]
    made = jax.vmap(plans)(keys, sizes, has_boxes, closed.reshape(-1, GROUP))

    def boxes_of(plans, boxes, classes, used, sizes):
        return jax.vmap(lambda plan: place(plan, boxes, classes, used, sizes, canvas))(plans)

    boxes, classes, left_out = jax.vmap(boxes_of)(made, groups["boxes"], groups["classes"], used, sizes)
    each = {
        "image": render(made, groups["image"], sizes, config.fill),
        "boxes": boxes,
        "classes": classes,
        "crowd": jnp.zeros_like(groups["crowd"]),
        "size": made.shown[..., ::-1].astype(batch["size"].dtype),
        "left_out": left_out,
    }
    return batch | jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), each)


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


def affine_matrix(
    angle: Scalar, scale: Scalar, shear: Float[Array, "2"], shift: Float[Array, "2"]
) -> Float[Array, "2 3"]:
    """The affine map of an angle in radians, counter-clockwise as seen; `shear` holds tangents, along x and along y."""
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    first, second = jnp.stack([cos, sin]), jnp.stack([-sin, cos])
    linear = jnp.stack([first + shear[0] * second, second + shear[1] * first])
    return jnp.concatenate([linear, shift[:, None]], axis=1)


def place(
    plan: Plan,
    boxes: Float[Array, "4 n 4"],
    classes: Int[Array, "4 n"],
    used: Bool[Array, "4 n"],
    sizes: Float[Array, "4 2"],
    canvas: Float[Array, "2"],
) -> tuple[Float[Array, "n 4"], Int[Array, "n"], Int[Array, ""]]:
    """Boxes and classes of the plan's image, in as many slots as each source has, and the number of boxes without one.

    A box is clipped to the mosaic's canvas, as in the reference, and becomes the box around its four mapped corners,
    clipped to the image.
    """
    slots = boxes.shape[1]
    inside = jnp.clip(boxes[plan.sources] + jnp.tile(plan.offsets, 2)[:, None], 0, jnp.tile(2 * canvas, 2))
    seen = around(inside.reshape(-1, 4), plan.forward)
    mixed = boxes[plan.partner] * plan.partner_scale
    extent = jnp.floor(canvas * plan.partner_scale)
    mixed = jnp.clip(mixed, 0, jnp.tile(extent, 2))
    mixed = jnp.where(plan.partner_flip, flipped(mixed, extent[0]), mixed) - jnp.tile(plan.partner_offset, 2)
    found = jnp.clip(jnp.concatenate([seen, mixed]), 0, jnp.tile(plan.shown, 2))
    found = jnp.where(plan.flip, flipped(found, plan.shown[0]), found)

    mosaicked = plan.sources[0] != plan.sources[1]  # without a mosaic all four sources are one image, counted once
    counted = used[plan.sources] & (mosaicked | (jnp.arange(GROUP) == GROUP - 1))[:, None]
    kept = jnp.concatenate([counted.ravel(), used[plan.partner] & (plan.partner_weight > 0)])
    kept &= jnp.min(found[:, 2:] - found[:, :2], axis=1) > LEAST_SIDE
    order = jnp.argsort(~kept, stable=True)[:slots]
    numbers = jnp.concatenate([classes[plan.sources].ravel(), classes[plan.partner]])
    return (
        jnp.where(kept[order, None], found[order], 0),
        jnp.where(kept[order], numbers[order], -1),
        jnp.maximum(jnp.sum(kept) - slots, 0),
    )


def around(boxes: Float[Array, "n 4"], matrix: Float[Array, "2 3"]) -> Float[Array, "n 4"]:
    """The boxes around the mapped corners of `boxes`."""
    x, y = boxes[:, jnp.array([0, 2, 0, 2])], boxes[:, jnp.array([1, 1, 3, 3])]
    x, y = (row[0] * x + row[1] * y + row[2] for row in matrix)
    return jnp.stack([jnp.min(x, 1), jnp.min(y, 1), jnp.max(x, 1), jnp.max(y, 1)], axis=1)


def flipped(boxes: Float[Array, "n 4"], width: Float[Array, ""]) -> Float[Array, "n 4"]:
    """Boxes of the mirror image, which is `width` pixels wide."""
    return jnp.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def render(
    plans: Plan, images: Real[Array, "g 4 h w 3"], sizes: Float[Array, "g 4 2"], fill: float
) -> Float[Array, "g p h w 3"]:
    """The images of each group's plans, interpolated bilinearly.

    Where no image lies, a mosaic has the value `fill`; next to a scaled partner 0 is mixed in.
    """
    count, _, height, width = images.shape[:4]
    canvas = jnp.array([width, height], jnp.float32)
    filling = jnp.full((1, 3), max(fill, 0), images.dtype)
    pixels = jnp.concatenate([images.reshape(-1, 3), filling])  # one lookup serves all groups

    def look_up(image: Array, x: Array, y: Array, known: Array) -> Array:
        """Pixels of images in whole columns x and rows y, clipped to the canvas; the filling where not `known`."""
        x, y = jnp.clip(x, 0, width - 1).astype(jnp.int32), jnp.clip(y, 0, height - 1).astype(jnp.int32)
        return pixels[jnp.where(known, (image * height + y) * width + x, len(pixels) - 1)]

    def one_image(plan: Plan, sizes: Float[Array, "4 2"], first: Int[Array, ""]) -> Float[Array, "h w 3"]:
        def of_mosaic(x: Array, y: Array) -> Array:
            source, local_x, local_y, known = source_at(plan, sizes, x, y)
            known &= (x >= 0) & (x < 2 * width) & (y >= 0) & (y < 2 * height)
            return look_up(first + source, local_x, local_y, known)

        def of_partner(x: Array, y: Array) -> Array:
            x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
            known = (x < sizes[plan.partner, 0]) & (y < sizes[plan.partner, 1])
            return look_up(first + plan.partner, x, y, known)

        x, y = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5)
        x = jnp.where(plan.flip, plan.shown[0] - x, x)
        result = bilinear(of_mosaic, *unmapped(plan.forward, x, y))

        extent = jnp.floor(canvas * plan.partner_scale)
        x, y = x + plan.partner_offset[0], y + plan.partner_offset[1]
        covered = ((x < extent[0]) & (y < extent[1]))[..., None]
        x = jnp.where(plan.partner_flip, extent[0] - x, x)
        mixed = bilinear(of_partner, x * canvas[0] / extent[0], y * canvas[1] / extent[1])
        return (1 - plan.partner_weight) * result + plan.partner_weight * jnp.where(covered, mixed, 0)

    return jax.vmap(jax.vmap(one_image, (0, None, None)))(plans, sizes, GROUP * jnp.arange(count))


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


def unmapped(
    matrix: Float[Array, "2 3"], x: Float[Array, "h w"], y: Float[Array, "h w"]
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """The points that an affine map takes to x, y."""
    (a, b, shift_x), (c, d, shift_y) = matrix
    from_x, from_y = x - shift_x, y - shift_y
    determinant = a * d - b * c
    return (d * from_x - b * from_y) / determinant, (a * from_y - c * from_x) / determinant
