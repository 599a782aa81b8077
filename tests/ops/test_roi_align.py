"""torchvision's definition, from goldens/make_faster_rcnn.py, and the compiled kernels' rules at the edges, by hand."""

import math
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens.drawn import CANVAS, POOLING, ROIS, pyramid, sample

from morphism.ops.platform import as_tpu
from morphism.ops.roi_align import level_of, multilevel_roi_align, roi_align

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "faster_rcnn.npz")
EDGES = (  # beyond the edges by more than a pixel, beyond the map, inside out of it, turned into a point, and huge
    *(
        [-30.0, -20.0, 10.0, 15.0],
        [150.0, 110.0, 200.0, 170.0],
        [-50.0, -50.0, -20.0, -10.0],
        [500.0, 10.0, 600.0, 20.0],
    ),
    *([40.0, 40.0, 40.0, 40.0], [0.0, 0.0, 0.0, 0.0], [-300.0, -200.0, 400.0, 300.0], [1.0, 1.0, 159.0, 2.5]),
)


def by_definition(x, boxes, scale, size, ratio, aligned):
    """The compiled kernels' loops, for one image [H, W, C], in float64."""
    height, width, channels = x.shape
    pooled = np.zeros((len(boxes), size, size, channels))
    for number, box in enumerate(np.asarray(boxes, np.float64) * scale - 0.5 * aligned):
        side = (box[2:] - box[:2])[::-1]
        if not aligned:
            side = np.maximum(side, 1)
        counts = [ratio or math.ceil(length / size) for length in side]
        for i, j in np.ndindex(size, size):
            for k, m in np.ndindex(*counts):
                y = box[1] + side[0] / size * (i + (k + 0.5) / counts[0])
                x0 = box[0] + side[1] / size * (j + (m + 0.5) / counts[1])
                if not (-1 <= y <= height and -1 <= x0 <= width):
                    continue
                y, x0 = min(max(y, 0), height - 1), min(max(x0, 0), width - 1)
                low, left = int(y), int(x0)
                high, right = min(low + 1, height - 1), min(left + 1, width - 1)
                top = x[low, left] * (1 - (x0 - left)) + x[low, right] * (x0 - left)
                bottom = x[high, left] * (1 - (x0 - left)) + x[high, right] * (x0 - left)
                pooled[number, i, j] += top * (1 - (y - low)) + bottom * (y - low)
        pooled[number] /= max(counts[0] * counts[1], 1)
    return pooled


@cache
def pooled_and_gradient(case):
    size, ratio, aligned = POOLING[case]
    rois = [box for box in ROIS if ratio or (box[2] > box[0] and box[3] > box[1])]
    boxes = jnp.stack([jnp.array(ROIS[: len(rois)]) + 5, jnp.array(rois)])

    def total(x):
        pooled = roi_align(x, boxes, 0.25, size, ratio, aligned)
        return jnp.sum(pooled[1] ** 2), pooled[1]

    gradient, pooled = jax.jit(jax.grad(total, has_aux=True))(pyramid()[0])
    return pooled, gradient


@pytest.mark.parametrize("case", POOLING)
def test_values_and_gradients_are_torchvisions(case):
    pooled, gradient = pooled_and_gradient(case)
    np.testing.assert_allclose(sample(pooled, 2000), GOLDENS[f"roi_align/{case}/values"], atol=2e-5)
    np.testing.assert_allclose(sample(gradient, 2000), GOLDENS[f"roi_align/{case}/gradient"], atol=1e-4, rtol=1e-4)
    assert not np.any(gradient[0])


def test_each_box_is_pooled_from_its_own_level_as_torchvision_does():
    maps = pyramid()
    boxes = jnp.stack([jnp.array(ROIS), jnp.array(ROIS) - 1])
    wide = jnp.concatenate([boxes, jnp.array([[[-200.0, -200, 260, 260]]] * 2)], axis=1)
    assert sorted(set(np.asarray(level_of(wide, 2, 5)).ravel().tolist())) == [0, 1, 3]

    def total(maps):
        pooled = multilevel_roi_align(maps, boxes, CANVAS, 7)
        return jnp.sum(pooled**2), pooled

    gradients, pooled = jax.jit(jax.grad(total, has_aux=True))(maps)
    flat = np.reshape(pooled, (-1, *pooled.shape[2:]))
    np.testing.assert_allclose(sample(flat, 2000), GOLDENS["roi_align/levels/values"], atol=2e-5)
    for level, gradient in enumerate(gradients):
        expected = GOLDENS[f"roi_align/levels/gradient/{level}"]
        np.testing.assert_allclose(sample(gradient, 500), expected, atol=1e-4, rtol=1e-4)


def test_on_tpus_products_give_the_values_and_gradients_of_gathers():
    """Of boxes on several levels of odd sizes, beyond the edges too, in float64."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        boxes = jnp.array([[*ROIS, *EDGES], [*EDGES, *ROIS]], jnp.float64)
        maps = [jnp.asarray(rng.standard_normal((2, *x.shape[1:3], 3))) for x in pyramid()]

        def total(maps, aligned):
            pooled = multilevel_roi_align(maps, boxes, CANVAS, 3, sampling_ratio=2, aligned=aligned)
            return jnp.sum(jnp.sin(pooled)), pooled

        for aligned in (False, True):
            expected = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)(maps, aligned)
            with as_tpu():
                traced = jax.jit(jax.grad(partial(total, aligned=aligned), has_aux=True)).trace(maps)
            found, text = traced.lower().compile()(maps), str(traced.jaxpr)
            assert "dot_general" in text and "scatter" not in text
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), found, expected)


def test_levels_are_torchvisions_at_their_bounds():
    """A side of 224 pixels is level 4's; half of it, to the last bit, level 3's; what has no area the finest."""
    sides = [0.0, 10.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 5000.0]
    boxes = jnp.array([[0, 0, side, side] for side in sides])
    assert level_of(boxes, 2, 5).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert level_of(boxes, 4, 4).tolist() == [0] * len(sides)


@pytest.mark.parametrize("case", POOLING)
def test_beyond_the_edges_the_compiled_kernels_rules_hold(case):
    size, ratio, aligned = POOLING[case]
    x = pyramid()[0][:1]
    boxes = [box for box in EDGES if ratio or max(box) < 300]  # adaptive: of boxes about as large as the map
    pooled = jax.jit(lambda x: roi_align(x, jnp.array([boxes]), 0.25, size, ratio, aligned))(x)
    np.testing.assert_allclose(pooled[0], by_definition(x[0], boxes, 0.25, size, ratio, aligned), atol=2e-5)
    assert not np.any(pooled[0, 2])


@pytest.mark.parametrize("case", POOLING)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_maps_one_pixel_wide_or_high(case, shape):
    size, ratio, aligned = POOLING[case]
    x = np.random.default_rng(0).standard_normal((1, *shape, 3)).astype(np.float32)
    boxes = [[0.0, 0.0, 4.0 * shape[1], 4.0 * shape[0]], [1.0, 2.0, 3.5, 3.0]]
    pooled = jax.jit(lambda x: roi_align(x, jnp.array([boxes]), 0.25, size, ratio, aligned))(x)
    np.testing.assert_allclose(pooled[0], by_definition(x[0], boxes, 0.25, size, ratio, aligned), atol=1e-5)


@pytest.mark.parametrize("case", POOLING)
def test_gradients_are_finite_differences(case):
    size, ratio, aligned = POOLING[case]
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        boxes = jnp.array([[[3.0, 2.0, 30.0, 17.0], [-9.0, 10.0, 12.0, 40.0]]])
        x, direction = rng.standard_normal((2, 1, 7, 9, 2))
        weights = rng.standard_normal((1, 2, size, size, 2))
        total = jax.jit(lambda x: jnp.sum(weights * jnp.sin(roi_align(x, boxes, 0.25, size, ratio, aligned))))
        slope = (total(x + 1e-5 * direction) - total(x - 1e-5 * direction)) / 2e-5
        assert np.sum(jax.jit(jax.grad(total))(x) * direction) == pytest.approx(float(slope), rel=1e-7)


def test_boxes_get_no_gradient_and_the_type_is_the_maps():
    x = jnp.asarray(pyramid()[3], jnp.bfloat16)
    boxes = jnp.array([ROIS, ROIS])
    for ratio in (2, 0):
        pooled = jax.eval_shape(lambda x: roi_align(x, boxes, 1 / 32, 3, ratio, True), x)  # noqa: B023
        assert pooled.dtype == jnp.bfloat16
    gradient = jax.jit(jax.grad(lambda boxes: jnp.sum(roi_align(x, boxes, 1 / 32, 3).astype(jnp.float32))))(boxes)
    assert not np.any(gradient)
