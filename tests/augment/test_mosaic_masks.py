"""Masks in a mosaic against maps of the whole canvas, warped pixel by pixel in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mosaics import CANVAS, HEIGHT, PLACED, SIZES, SLOTS, WIDTH, annotated, plan

from morphism import frames
from morphism.augment.mosaic import mosaic, place
from morphism.augment.mosaic_masks import move_masks
from morphism.experiments.base import get_base
from morphism.labels import IGNORE
from morphism.ops.platform import as_accelerator

UNKNOWN = (0, 1)  # image and slot
CASES = PLACED | {
    "mapped, mixed, flipped": PLACED["mapped"] | PLACED["mixed"] | {"flip": True},
    "all four": {"forward": np.array([[0.47, 0.03, 1.3], [-0.05, 0.52, 0.7]])},
    "one image": {
        **{"sources": np.full(4, 0), "center": np.zeros(2), "offsets": np.zeros((4, 2))},
        **{"shown": SIZES[0].astype(np.float32), "flip": True},
    },
}


def masked(cells, boxes):
    """Blobs in boxes; one is unknown, and one has nothing inside."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:cells, :cells]
    masks = np.zeros((4, SLOTS, cells, cells), np.uint8)
    for at in np.ndindex(4, SLOTS):
        cx, cy, radius = rng.uniform(0, cells, 3)
        masks[at] = (x - cx) ** 2 + (y - cy) ** 2 < max(radius, 3) ** 2
        across, down = frames.middles(boxes[at], cells) < boxes[at][2:, None]
        masks[at] *= across & down[:, None]
    masks[UNKNOWN] = IGNORE
    masks[3, 0] = 0
    return masks


def map_of(mask, box):
    """The pixels of the canvas that hold the object, each with the value of the cell that it lies in."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    corner, side = (each.astype(np.float64) for each in frames.frame(box, len(mask)))
    for row, column in np.ndindex(HEIGHT, WIDTH):
        i, j = np.floor((np.array([column, row]) + 0.5 - corner) / side).astype(int)
        if 0 <= i < len(mask) and 0 <= j < len(mask):
            found[row, column] = mask[j, i]
    return found


def warped(pixels, made, source, mixed):
    """The map of an object of image `source`, seen in the new image."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    back = np.linalg.inv(np.vstack([np.asarray(made.forward, np.float64), [0, 0, 1]]))
    quadrant = int(np.flatnonzero(np.asarray(made.sources) == source)[-1]) if not mixed else -1
    shown, center, sizes = np.asarray(made.shown), np.asarray(made.center), SIZES[source]
    for row, column in np.ndindex(int(shown[1]), int(shown[0])):
        x, y = column + 0.5, row + 0.5
        x = shown[0] - x if made.flip else x
        if mixed:
            extent = np.floor(np.array([WIDTH, HEIGHT]) * float(made.partner_scale))
            x, y = x + float(made.partner_offset[0]), y + float(made.partner_offset[1])
            seen = x < extent[0] and y < extent[1]
            x = extent[0] - x if made.partner_flip else x
            x, y = x * WIDTH / extent[0], y * HEIGHT / extent[1]
        else:
            x, y, _ = back @ [x, y, 1]
            seen = 0 <= x < 2 * WIDTH and 0 <= y < 2 * HEIGHT
            seen &= quadrant == 2 * (y >= center[1]) + (x >= center[0])
            x, y = (x, y) - np.asarray(made.offsets)[quadrant]
            seen &= 0 <= x < sizes[0] and 0 <= y < sizes[1]
        if seen:
            found[row, column] = pixels[int(y), int(x)]
    return found


def in_frame(pixels, box, cells):
    x, y = np.floor(frames.middles(box, cells)).astype(int)
    padded = np.pad(pixels, ((0, cells), (0, cells)))
    return padded[np.ix_(y, x)]


@pytest.mark.parametrize("cells", [5, 12])
@pytest.mark.parametrize("case", CASES)
def test_masks_are_those_of_warped_maps_in_the_frames_of_the_new_boxes(case, cells):
    boxes, classes, _ = annotated()
    used = np.arange(SLOTS) < np.array([[3], [2], [2], [3]])
    made, masks = plan(**CASES[case]), masked(cells, boxes)
    placed = jax.jit(place)(made, boxes, classes, used, SIZES * 1.0, CANVAS)

    def move(*args):
        return jax.tree.map(lambda x: x[0, 0], move_masks(*args, jnp.float32(SIZES[None]), CANVAS))

    given = *jax.tree.map(lambda x: x[None, None], (made, placed)), jnp.asarray(masks[None]), jnp.asarray(boxes[None])
    kept, found = jax.jit(move)(*given)
    with as_accelerator():
        again = jax.jit(lambda *args: move(*args))(*given)
    jax.tree.map(np.testing.assert_array_equal, (kept, found), again)

    expected: list[tuple[int, np.ndarray, np.ndarray]] = []
    for slot in np.flatnonzero(placed.classes >= 0):
        source, own, mixed = (int(each[slot]) for each in (placed.sources, placed.slots, placed.mixed))
        pixels = warped(map_of(masks[source, own], boxes[source, own]), made, source, mixed)
        mask = in_frame(pixels, np.asarray(placed.boxes[slot]), cells)
        mask = np.full_like(mask, IGNORE) if (source, own) == UNKNOWN else mask
        if mask.any():
            expected.append((int(placed.classes[slot]), np.asarray(placed.boxes[slot]), mask))
    assert expected
    for slot, (label, box, mask) in enumerate(expected):
        assert kept.classes[slot] == label
        np.testing.assert_array_equal(kept.boxes[slot], box)
        np.testing.assert_array_equal(found[slot], mask)
    assert not found[len(expected) :].any() and (kept.classes[len(expected) :] == -1).all()


def test_an_object_is_dropped_with_its_mask_and_a_closed_row_keeps_both():
    boxes, classes, _ = annotated()
    masks, used = masked(12, boxes), np.arange(SLOTS) < np.array([[3], [2], [2], [3]])
    batch = {
        "image": np.zeros((4, HEIGHT, WIDTH, 3), np.uint8),
        "boxes": boxes,
        "classes": np.where(used, classes, -1).astype(np.int32),
        "crowd": np.zeros((4, SLOTS), bool),
        "size": SIZES[:, ::-1].astype(np.int32),
        "masks": masks * used[..., None, None].astype(np.uint8),
    }
    config = get_base("detection").augment.copy_and_resolve_references()
    config.update(mosaic=1.0, mixup=0.5, flip_probability=0.0)
    keys = [jax.random.split(jax.random.key(seed), 4) for seed in range(3)]
    made = jax.jit(lambda batch, closed: mosaic(*keys, batch, closed, config))
    open_, closed = (jax.tree.map(np.asarray, made(batch, np.full(4, each))) for each in (False, True))
    for row in range(4):
        kept = used[row] & (boxes[row, :, 2:] - boxes[row, :, :2] > 1).all(axis=1) & masks[row].any(axis=(1, 2))
        assert (closed["classes"][row] >= 0).sum() == kept.sum()
        np.testing.assert_array_equal(closed["masks"][row][: kept.sum()], masks[row][kept])
        np.testing.assert_array_equal(open_["masks"][row].any(axis=(1, 2)), open_["classes"][row] >= 0)
    assert (open_["classes"] >= 0).any()
    without = made({key: value for key, value in batch.items() if key != "masks"}, np.full(4, False))
    np.testing.assert_array_equal(without["image"], open_["image"])
    assert "masks" not in without and np.sum(without["classes"] >= 0) > np.sum(open_["classes"] >= 0)
