"""The mosaic against a plain composition in NumPy, the boxes against their corners mapped one by one."""

import colorsys
import math
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from mosaics import CANVAS, HEIGHT, PLACED, SIZES, SLOTS, WIDTH, annotated, plan

from morphism import tasks
from morphism.augment.colour import hsv_jitter, shift_hsv
from morphism.augment.mosaic import place
from morphism.augment.mosaic_pixels import render
from morphism.augment.mosaic_plan import affine, affine_matrix, corners, reach
from morphism.data.sampling import Shuffled
from morphism.data.sources.scenes import load
from morphism.experiments.base import get_base
from morphism.ops.platform import as_tpu
from morphism.runtime.mesh import AXIS
from morphism.tasks.detection import closed

detection = tasks.get("detection")


def four_images():
    """Each on a canvas with noise next to it."""
    return np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)


@cache
def _render():
    config = get_base("detection").augment
    config.fill = 114
    return jax.jit(
        lambda plan, images: render(
            jax.tree.map(lambda x: x[None, None], plan), images, jnp.float32(SIZES[None]), config
        )
    )


def rendered(plan, images):
    return np.asarray(_render()(plan, images[None]))[0, 0]


def composed(images, sources=(2, 3, 0, 1), center=(21, 15)):
    """The mosaic's canvas, image by image."""
    canvas = np.full((2 * HEIGHT, 2 * WIDTH, 3), 114, np.uint8)
    x, y = center
    for source, (right, below) in zip(sources, [(0, 0), (1, 0), (0, 1), (1, 1)], strict=True):
        w, h = SIZES[source]
        left, top = x - w * (1 - right), y - h * (1 - below)
        for row in range(max(top, 0), min(top + h, 2 * HEIGHT)):
            for column in range(max(left, 0), min(left + w, 2 * WIDTH)):
                canvas[row, column] = images[source, row - top, column - left]
    return canvas


def looked_up(canvas, x, y, beyond):
    """Bilinear in float64, one pixel at a time; x and y continuous."""
    x, y, total = x - 0.5, y - 0.5, np.zeros(3)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            inside = 0 <= row < canvas.shape[0] and 0 <= column < canvas.shape[1]
            value = canvas[row, column].astype(np.float64) if inside else np.full(3, beyond)
            total += (1 - abs(x - column)) * (1 - abs(y - row)) * value
    return total


def test_a_mosaic_without_map_is_four_images_around_the_center():
    images = four_images()
    np.testing.assert_array_equal(rendered(plan(), images), composed(images)[:HEIGHT, :WIDTH])
    np.testing.assert_array_equal(rendered(plan(flip=True), images), composed(images)[:HEIGHT, WIDTH - 1 :: -1])


def test_a_mapped_mosaic_is_the_canvas_looked_up_at_each_pixels_origin():
    images, forward = four_images(), np.array([[0.7, 0.1, 2.5], [-0.15, 0.9, 3.25]])
    canvas = composed(images).astype(np.float64)
    back = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
    expected = np.zeros((HEIGHT, WIDTH, 3))
    for row in range(HEIGHT):
        for column in range(WIDTH):
            x, y, _ = back @ [column + 0.5, row + 0.5, 1]
            expected[row, column] = looked_up(canvas, x, y, 114.0)
    np.testing.assert_allclose(rendered(plan(forward=forward), images), expected, atol=0.02)


@pytest.mark.parametrize(("scale", "offset", "flip"), [(1.0, (0, 0), True), (0.5, (0, 0), False), (1.5, (7, 5), True)])
def test_mixup_is_half_of_another_image_scaled_flipped_and_cut(scale, offset, flip):
    images, partner = four_images(), 1
    canvas = np.full((HEIGHT, WIDTH, 3), 114.0)
    canvas[: SIZES[partner, 1], : SIZES[partner, 0]] = images[partner, : SIZES[partner, 1], : SIZES[partner, 0]]
    height, width = int(HEIGHT * scale), int(WIDTH * scale)
    edged = np.pad(canvas, ((1, 1), (1, 1), (0, 0)), mode="edge")  # OpenCV's resize repeats the edge
    resized = np.array(
        [
            [looked_up(edged, 1 + (x + 0.5) / scale, 1 + (y + 0.5) / scale, 0.0) for x in range(width)]
            for y in range(height)
        ]
    )
    resized = resized[:, ::-1] if flip else resized
    seen = np.zeros((HEIGHT, WIDTH, 3))
    cut = resized[offset[1] : offset[1] + HEIGHT, offset[0] : offset[0] + WIDTH]
    seen[: len(cut), : cut.shape[1]] = cut
    mixed = plan(
        partner=partner, partner_weight=0.5, partner_scale=scale, partner_flip=flip, partner_offset=np.array(offset)
    )
    expected = 0.5 * composed(images)[:HEIGHT, :WIDTH] + 0.5 * seen
    np.testing.assert_allclose(rendered(mixed, images), expected, atol=0.01)


# The ranges that maps are drawn from, and maps at their ends: angle, scale and shear. YOLOX's, and those without turns.
RANGES = {
    "turned": ({}, [(10, 0.1, (-2, 2)), (-10, 0.1, (2, 2)), (10, 2.0, (2, -2)), (-7, 0.9, (1, 0))]),
    "straight": ({"degrees": 0.0, "shear": 0.0, "scale": (0.5, 1.5)}, [(0, 0.5, (0, 0)), (0, 1.37, (0, 0))]),
}


@pytest.mark.parametrize("ranges", RANGES)
def test_on_tpus_products_give_the_pixels_of_gathers(ranges):
    """In float64, of mosaics that leave the canvas too, and of an image that is none; what is read is windows."""
    fields, maps = RANGES[ranges]
    config = get_base("detection").augment
    config.update(fill=114, **fields)
    alone = {"sources": np.full(4, 1), "center": np.zeros(2), "offsets": np.zeros((4, 2)), "shown": np.array([24, 24])}
    with jax.enable_x64(True):
        images = jnp.asarray(np.random.default_rng(4).integers(0, 256, (1, 4, HEIGHT, WIDTH, 3), np.uint8))
        center = jnp.array([38.0, 13.0])
        shifted = {"center": center, "offsets": corners(center, jnp.asarray(SIZES[[2, 3, 0, 1]], float))}
        partner = {"partner_weight": 0.5, "partner_scale": 1.4, "partner_flip": True, "partner_offset": np.ones(2)}
        plans = [plan(**alone, flip=True), plan(**shifted), plan(**partner)]
        for angle, scale, shear in maps:
            shear = jnp.tan(jnp.deg2rad(jnp.array(shear, float)))
            forward = affine_matrix(np.deg2rad(angle), scale, shear, jnp.array([2.4, 1.3]))
            plans += [plan(forward=forward), plan(forward=forward, flip=True, **shifted, **partner)]
        plans = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(each, float) for each in x])[None], *plans)
        plans = plans._replace(**{k: getattr(plans, k).astype(int) for k in ("sources", "partner")})
        plans = plans._replace(**{k: getattr(plans, k).astype(bool) for k in ("flip", "partner_flip")})

        def made(plans, images):
            return render(plans, images, jnp.asarray(SIZES[None], float), config)

        expected = np.asarray(jax.jit(made)(plans, images))
        with as_tpu():
            traced = jax.jit(lambda *args: made(*args)).trace(plans, images)
        found = traced.lower().compile()(plans, images)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert (np.std(expected[0], axis=(1, 2, 3)) > 1).all()
    assert 3 not in reads(str(traced.jaxpr))  # single pixels


def reads(text):
    """How many values each gather reads at a computed address."""
    return [
        np.prod([int(each) for each in sizes.split(",") if each])
        for sizes in re.findall(r"slice_sizes=\(([^)]*)\)", text)
    ]


@pytest.mark.parametrize("fields", [{}, {"degrees": 180.0, "shear": 20.0}, {"scale": (1.5, 2.0), "degrees": 0.0}])
def test_windows_reach_as_far_as_any_map_that_is_drawn(fields):
    config = get_base("detection").augment
    config.update(**fields)
    draw = jax.jit(jax.vmap(lambda key: affine(key, CANVAS, config)))
    drawn = draw(jax.random.split(jax.random.key(0), 2000))
    steps = np.abs(np.linalg.inv(np.asarray(drawn)[..., :2])).sum(axis=-1).max()
    assert 0.7 * reach(config) < max(steps, 1) <= reach(config)


@pytest.mark.parametrize("case", PLACED)
def test_boxes_are_those_around_their_mapped_corners(case):
    boxes, classes, used = annotated()
    made = plan(**PLACED[case])
    placed = jax.tree.map(np.asarray, jax.jit(place)(made, boxes, classes, used, SIZES * 1.0, CANVAS))
    found, numbers, left_out = placed.boxes, placed.classes, placed.left_out
    expected = []
    for slot, source in enumerate(np.asarray(made.sources)):
        for box, number in zip(boxes[source][used[source]], classes[source][used[source]], strict=True):
            moved = np.clip(box + np.tile(np.asarray(made.offsets)[slot], 2), 0, [2 * WIDTH, 2 * HEIGHT] * 2)
            points = [np.asarray(made.forward) @ [x, y, 1] for x in moved[[0, 2]] for y in moved[[1, 3]]]
            expected.append((np.concatenate([np.min(points, axis=0), np.max(points, axis=0)]), number))
    if case == "mixed":
        for box, number in zip(boxes[0][used[0]], classes[0][used[0]], strict=True):
            box = np.clip(box * 1.25, 0, [40, 30] * 2)
            expected.append((np.array([40 - box[2], box[1], 40 - box[0], box[3]]) - [5, 3, 5, 3], number))
    kept = []
    for box, number in expected:
        box = np.clip(box, 0, [WIDTH, HEIGHT] * 2)
        if case == "flipped":
            box = np.array([WIDTH - box[2], box[1], WIDTH - box[0], box[3]])
        if min(box[2:] - box[:2]) > 1:
            kept.append((box, number))
    assert 0 < len(kept) and left_out == max(len(kept) - SLOTS, 0)
    kept = kept[:SLOTS]
    np.testing.assert_array_equal(numbers, [number for _, number in kept] + [-1] * (SLOTS - len(kept)))
    np.testing.assert_allclose(found[: len(kept)], [box for box, _ in kept], atol=1e-4)
    assert not found[len(kept) :].any()
    own = classes[placed.sources, placed.slots]
    np.testing.assert_array_equal(np.where(numbers < 0, -1, own), numbers)
    assert placed.mixed[numbers >= 0].any() == (case == "mixed")


def test_boxes_without_a_slot_are_counted_the_mixed_in_last():
    boxes, classes, used = np.full((4, 3, 4), [2, 2, 9, 9], np.float32), np.arange(12).reshape(4, 3), np.ones((4, 3))
    shrunk = plan(forward=np.array([[0.5, 0, 0], [0, 0.5, 0]]), partner_weight=0.5)
    placed = jax.jit(place)(shrunk, *map(jnp.array, (boxes, classes, used.astype(bool), SIZES * 1.0)), CANVAS)
    assert placed.left_out == 6  # of 9: those left of the mosaic's edge are not seen
    np.testing.assert_array_equal(placed.classes, classes[3])


def test_the_affine_map_turns_scales_and_shears_as_the_reference():
    """The numbers of get_affine_matrix with cv2.getRotationMatrix2D's definition, worked by hand."""
    quarter = affine_matrix(jnp.pi / 2, 2.0, jnp.zeros(2), jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(quarter, [[0, 2, 3], [-2, 0, 4]], atol=1e-6)  # against the clock, y pointing down
    sheared = affine_matrix(0.0, 1.5, jnp.array([0.1, 0.2]), jnp.zeros(2))
    np.testing.assert_allclose(sheared, [[1.5, 0.15, 0], [0.3, 1.5, 0]], atol=1e-6)


def config_of(**augment):
    config = get_base("detection")
    config.duration = "40ep"
    config.batch_size = 8
    config.augment.update(dict(mosaic=1.0, mixup=1.0, closing="5ep", fill=114, hsv=(5.0, 30.0, 30.0)) | augment)
    return detection.resolve(config, load("205x32", "train", ""))


def batch_of(draws):
    rng = np.random.default_rng(2)
    rows = len(draws)
    boxes, classes, used = annotated()
    repeat = lambda x: np.tile(x, (rows // 4,) + (1,) * (x.ndim - 1))  # noqa: E731
    return {
        "image": rng.integers(0, 256, (rows, HEIGHT, WIDTH, 3), np.uint8),
        "boxes": repeat(boxes),
        "classes": repeat(np.where(used, classes, -1).astype(np.int32)),
        "crowd": np.zeros((rows, SLOTS), bool),
        "masks": repeat(np.broadcast_to(np.eye(9, dtype=np.uint8), (4, SLOTS, 9, 9))),
        "size": repeat(SIZES[:, ::-1].astype(np.int32)),
        "id": np.arange(rows, dtype=np.int32),
        "draw": np.array(draws, np.int32),
        "valid": np.ones(rows, bool),
    }


def test_one_device_and_four_make_the_same_of_a_batch(mesh_of):
    batch, config = batch_of([3] * 16), config_of().augment

    def made_on(devices):
        def augment(batch):
            return detection.augment(jax.random.key(0), batch, config, 30)

        mapped = jax.shard_map(augment, mesh=mesh_of(devices), in_specs=P(AXIS), out_specs=P(AXIS))
        return jax.tree.map(np.asarray, jax.jit(mapped)(batch))

    one, four = made_on(1), made_on(4)
    assert np.std(one["image"], axis=0).mean() > 0.1  # rows differ
    for key, value in one.items():
        np.testing.assert_allclose(value, four[key], atol=1e-3, err_msg=key)  # rounding differs by the batch's shape


def test_closing_begins_with_the_epochs_first_draw():
    config = config_of(hsv=(0.0, 0.0, 0.0), flip_probability=0.0)
    assert config.augment.closing_from == 35
    assert config_of(closing="0").augment.closing_from == -1
    short = get_base("detection")
    short.update(duration="6", batch_size=4)
    short.augment.update(mosaic=1.0, closing="1")
    assert detection.resolve(short, range(204)).augment.closing_from == 1  # what is drawn first has mosaics
    batch = jax.tree.map(jnp.asarray, batch_of([34, 35, 0, 39]))
    made = jax.jit(lambda batch: detection.augment(jax.random.key(0), batch, config.augment, 30))(batch)
    plain = detection.normalise(batch, config.augment)
    marked = closed(made, config.augment)
    np.testing.assert_array_equal(marked, [False, True, False, True])
    np.testing.assert_array_equal(made["size"], np.where(marked[:, None], batch["size"], (HEIGHT, WIDTH)))
    for row, is_closed in enumerate(marked):
        assert np.allclose(made["image"][row], plain[row], atol=1e-5) == is_closed
        if is_closed:
            held = batch["classes"][row] >= 0
            held &= (batch["boxes"][row][:, 2:] - batch["boxes"][row][:, :2] > 1).all(axis=1)
            np.testing.assert_allclose(made["boxes"][row][: held.sum()], batch["boxes"][row][held], atol=1e-5)


@pytest.mark.parametrize("repeats", [2, 3])
def test_with_repeats_closing_follows_from_the_draws_that_an_epoch_makes(repeats):
    """The draws of the last five of forty epochs, as data/sampling.py numbers them, and no others are closed."""
    config = get_base("detection")
    config.update(duration="40ep", batch_size=4)
    config.augment.update(mosaic=1.0, closing="5ep")
    config.data.repeats = repeats
    first = detection.resolve(config, range(60)).augment.closing_from
    draw = Shuffled(60, repeats, seed=0)
    for epoch in (0, 33, 34, 35, 36, 39):
        assert {draw(epoch * 60 + place).count >= first for place in range(60)} == {epoch >= 35}


def test_nothing_is_closed_unless_the_config_says_so():
    config = config_of(mosaic=0.0, mixup=0.0, closing="0", hsv=(0.0, 0.0, 0.0)).augment
    batch = jax.tree.map(jnp.asarray, batch_of([0, 1, 2, 10**6]))
    made = jax.jit(lambda batch: detection.augment(jax.random.key(0), batch, config, 30))(batch)
    assert not closed(made, config).any() and "left_out" not in made


def test_hsv_shifts_are_pythons_own():
    pixels = np.random.default_rng(3).uniform(0, 255, (5, 7, 3)).astype(np.float32)
    shifts = np.array([-4.0, 25.0, -17.0], np.float32)
    expected = np.zeros_like(pixels)
    for at in np.ndindex(5, 7):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[at] / 255).tolist())
        saturation, value = (min(max(each, 0), 1) for each in (saturation + 25 / 255, value - 17 / 255))
        expected[at] = 255 * np.array(colorsys.hsv_to_rgb((hue - 4 / 180) % 1, saturation, value))
    np.testing.assert_allclose(jax.jit(shift_hsv)(pixels, shifts), expected, atol=0.01)
    unchanged = jax.jit(lambda key, pixels: hsv_jitter(key, pixels, (0.0, 0.0, 0.0)))(jax.random.key(0), pixels)
    np.testing.assert_allclose(unchanged, pixels, atol=0.01)
