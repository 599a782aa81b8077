"""YOLOX's mosaic, random affine map and mixup, in one resampling of each image from its group of four.

Rows 4i to 4i + 3 of a batch are a group, which is always on one device; each row becomes a mosaic of all four. A row's
`Plan` says where every pixel of its new image comes from, mosaic_pixels.py interpolates each pixel once, `place` maps
the boxes, and mosaic_masks.py the masks of objects.

Source: Ge et al. 2021, "YOLOX", section 2.1; yolox/data/datasets/mosaicdetection.py and data_augment.py of release
0.3.0. There the other images come from the whole dataset, here from the group. Here pixels and boxes are mapped alike;
OpenCV maps the pixels' indices, which are half a pixel off, and rounds to 1/32 pixel and to whole grey levels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from ml_collections import ConfigDict

from morphism.augment.mixing import Batch
from morphism.augment.mosaic_masks import move_masks
from morphism.augment.mosaic_pixels import render
from morphism.augment.mosaic_plan import GROUP, Placed, Plan, draw

LEAST_SIDE = 1.0  # pixels: boxes whose width or height is not greater are dropped


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
      batch: image [B, H, W, 3] of 0..255, boxes, classes, crowd, size, and perhaps masks; B is a multiple of 4 on every
        device.
      closed: rows that keep their image, as do those without a mosaic.
      config: config.augment. A row becomes a mosaic with probability `mosaic`; a mosaic is mixed with another image of
        its group, if that has boxes, with probability `mixup`; any row is flipped with probability `flip_probability`.

    Returns the batch with float images and their boxes, classes, crowd, size and masks, and `left_out` int32 [B], the
    number of boxes without a slot. Crowds and boxes of at most LEAST_SIDE are dropped. Of the others as many as there
    are slots are kept, those of the mixed-in image coming last. Then objects whose mask has vanished are dropped.
    """
    height, width = batch["image"].shape[1:3]
    canvas = jnp.array([width, height], jnp.float32)
    groups = jax.tree.map(
        lambda x: x.reshape(-1, GROUP, *x.shape[1:]),
        {key: batch[key] for key in ("image", "boxes", "classes", "crowd", "size", "masks") if key in batch},
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

    placed = jax.vmap(boxes_of)(made, groups["boxes"], groups["classes"], used, sizes)
    masks = {}
    if "masks" in batch:
        placed, masks["masks"] = move_masks(made, placed, groups["masks"], groups["boxes"], sizes, canvas)
    each = {
        "image": render(made, groups["image"], sizes, config),
        "boxes": placed.boxes,
        "classes": placed.classes,
        "crowd": jnp.zeros_like(groups["crowd"]),
        "size": made.shown[..., ::-1].astype(batch["size"].dtype),
        "left_out": placed.left_out,
        **masks,
    }
    return batch | jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), each)


def place(
    plan: Plan,
    boxes: Float[Array, "4 n 4"],
    classes: Int[Array, "4 n"],
    used: Bool[Array, "4 n"],
    sizes: Float[Array, "4 2"],
    canvas: Float[Array, "2"],
) -> Placed:
    """The objects of the plan's image, in as many slots as each source has.

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
    return Placed(
        boxes=jnp.where(kept[order, None], found[order], 0),
        classes=jnp.where(kept[order], numbers[order], -1),
        sources=jnp.append(plan.sources, plan.partner)[order // slots],
        slots=order % slots,
        mixed=order // slots == GROUP,
        left_out=jnp.maximum(jnp.sum(kept) - slots, 0),
    )


def around(boxes: Float[Array, "n 4"], matrix: Float[Array, "2 3"]) -> Float[Array, "n 4"]:
    """The boxes around the mapped corners of `boxes`."""
    x, y = boxes[:, jnp.array([0, 2, 0, 2])], boxes[:, jnp.array([1, 1, 3, 3])]
    x, y = (row[0] * x + row[1] * y + row[2] for row in matrix)
    return jnp.stack([jnp.min(x, 1), jnp.min(y, 1), jnp.max(x, 1), jnp.max(y, 1)], axis=1)


def flipped(boxes: Float[Array, "n 4"], width: Float[Array, ""]) -> Float[Array, "n 4"]:
    """Boxes of the mirror image, which is `width` pixels wide."""
    return jnp.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
