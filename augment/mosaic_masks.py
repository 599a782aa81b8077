"""Masks of objects in a mosaic: each cell is looked up where its pixel comes from (frames.py says where cells lie)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from morphism import frames
from morphism.augment.mosaic_plan import Placed, Plan, partner_at, source_at, unmapped
from morphism.labels import IGNORE
from morphism.ops.lookup import look_up_cells
from morphism.ops.platform import per_example


def move_masks(
    plans: Plan,
    placed: Placed,
    masks: UInt8[Array, "g 4 n m m"],
    boxes: Float[Array, "g 4 n 4"],
    sizes: Float[Array, "g 4 2"],
    canvas: Float[Array, "2"],
) -> tuple[Placed, UInt8[Array, "g p n m m"]]:
    """The masks of the objects of each group's plans, without those of which no cell is inside any more.

    masks and boxes are those of the four images before. A mask that is unknown stays so, and its object stays.
    """

    def of_group(plans, placed, masks, boxes, sizes):
        def of_image(plan, placed):
            return only_seen(placed, moved(plan, placed, masks, boxes, sizes, canvas))

        return jax.vmap(of_image)(plans, placed)

    return per_example(of_group)(plans, placed, masks, boxes, sizes)


def moved(
    plan: Plan,
    placed: Placed,
    masks: UInt8[Array, "4 n m m"],
    boxes: Float[Array, "4 n 4"],
    sizes: Float[Array, "4 2"],
    canvas: Float[Array, "2"],
) -> UInt8[Array, "n m m"]:
    """The mask of each placed object: of the nearest pixel of its source, and 0 where that is covered or cut off."""
    cells = masks.shape[-1]
    own_masks, own_boxes = (each[placed.sources, placed.slots] for each in (masks, boxes))

    def cells_of(box, source, mixed, own_box):
        columns, rows = jnp.floor(frames.middles(box, cells)) + 0.5
        x, y = jnp.meshgrid(columns, rows)
        shown = (x < plan.shown[0]) & (y < plan.shown[1])
        x, y, known = _origins(plan, source, mixed, sizes, canvas, x, y)
        corner, side = frames.frame(own_box, cells)
        column, row = (
            jnp.floor((jnp.floor(at) + 0.5 - start) / step).astype(jnp.int32)
            for at, start, step in zip((x, y), corner, side, strict=True)
        )
        known &= shown & (column >= 0) & (column < cells) & (row >= 0) & (row < cells)
        return *(jnp.clip(at, 0, cells - 1) for at in (row, column)), known

    rows, columns, known = jax.vmap(cells_of)(placed.boxes, placed.sources, placed.mixed, own_boxes)
    found = jnp.where(known, look_up_cells(own_masks, rows, columns), 0)
    found = jnp.where(own_masks[:, :1, :1] == IGNORE, IGNORE, found).astype(masks.dtype)
    return jnp.where((placed.classes >= 0)[:, None, None], found, 0)


def _origins(
    plan: Plan,
    source: Int[Array, ""],
    mixed: Bool[Array, ""],
    sizes: Float[Array, "4 2"],
    canvas: Float[Array, "2"],
    x: Float[Array, "m m"],
    y: Float[Array, "m m"],
) -> tuple[Float[Array, "m m"], Float[Array, "m m"], Bool[Array, "m m"]]:
    """The x and y in an object's source of each point of the new image, and whether the source is seen there."""
    x = jnp.where(plan.flip, plan.shown[0] - x, x)
    in_mosaic = unmapped(plan.forward, x, y)
    nearest, own_x, own_y, known = source_at(plan, sizes, *in_mosaic)
    for at, length in zip(in_mosaic, 2 * canvas, strict=True):
        known &= (at >= 0) & (at < length)
    mixed_x, mixed_y, covered = partner_at(plan, canvas, x, y)
    return (
        jnp.where(mixed, mixed_x, own_x),
        jnp.where(mixed, mixed_y, own_y),
        jnp.where(mixed, covered, known & (nearest == source)),
    )


def only_seen(placed: Placed, masks: UInt8[Array, "n m m"]) -> tuple[Placed, UInt8[Array, "n m m"]]:
    """The objects that have a cell inside or a mask that is unknown; the slots of the others are free, at the end."""
    seen = jnp.any(masks > 0, axis=(1, 2))
    order = jnp.argsort(~seen, stable=True)
    kept = seen[order]
    boxes = jnp.where(kept[:, None], placed.boxes[order], 0)
    classes = jnp.where(kept, placed.classes[order], -1)
    return placed._replace(boxes=boxes, classes=classes), masks[order]
