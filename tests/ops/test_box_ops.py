from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from morphism.ops import boxes

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "boxes.npz")
MEASURES = {
    "box_iou": boxes.iou,
    "generalized_box_iou": lambda a, b: boxes.giou(a[:, None], b[None]),
    "distance_box_iou": lambda a, b: boxes.diou(a[:, None], b[None]),
    "complete_box_iou": lambda a, b: boxes.ciou(a[:, None], b[None]),
}
LOSSES = {
    "generalized_box_iou_loss": lambda a, b: 1 - boxes.giou(a, b),
    "distance_box_iou_loss": lambda a, b: 1 - boxes.diou(a, b),
    "complete_box_iou_loss": lambda a, b: 1 - boxes.ciou(a, b),
}
WEIGHTS = {"1": (1, 1, 1, 1), "10": (10, 10, 5, 5)}


def drawn_boxes(count, largest):
    """Whole corners, so that zero sides, duplicates, touching and nested boxes are frequent."""
    corners = arrays(np.int64, (count, 2, 2), elements=st.integers(0, largest))
    return corners.map(lambda c: np.sort(c, axis=1).reshape(-1, 4).astype(np.float64))


def iou_by_definition(a, b):
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    overlap = max(x1 - x0, 0) * max(y1 - y0, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


@settings(max_examples=40, deadline=None)
@given(a=drawn_boxes(6, 9), b=drawn_boxes(5, 9), scale=st.sampled_from([1e-3, 1.0, 1e6]))
def test_iou_equals_brute_force_in_float64(a, b, scale):
    expected = [[iou_by_definition(p, q) for q in b] for p in a]
    np.testing.assert_allclose(boxes.iou(jnp.float32(a * scale), jnp.float32(b * scale)), expected, atol=1e-5)


@pytest.mark.parametrize("name", MEASURES)
def test_measure_of_all_pairs_is_torchvisions(name):
    with jax.enable_x64(True):
        found = MEASURES[name](jnp.array(GOLDENS["a"]), jnp.array(GOLDENS["b"]))
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, GOLDENS[name], atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_its_gradient_are_torchvisions(name):
    with jax.enable_x64(True):
        a, b = jnp.array(GOLDENS["a"][:15]), jnp.array(GOLDENS["b"])
        np.testing.assert_allclose(LOSSES[name](a, b), GOLDENS[name], atol=1e-12)
        gradient = jax.grad(lambda a: LOSSES[name](a, b).sum())(a)
    np.testing.assert_allclose(gradient, GOLDENS[f"{name}/gradient"], atol=1e-10)


KINDS = {"giou": "generalized_box_iou_loss", "diou": "distance_box_iou_loss", "ciou": "complete_box_iou_loss"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_regression_losses_of_decoded_boxes_are_torchvisions(kind, weights):
    with jax.enable_x64(True):
        a, b = jnp.array(GOLDENS["a"][:15]), jnp.array(GOLDENS["b"])
        anchors = jnp.array([[2.0, 3, 40, 60]]) + jnp.arange(15.0)[:, None]
        has_area = jnp.all(a[:, 2:] > a[:, :2], axis=1)  # others have no deltas
        found = boxes.regression_loss(kind, boxes.encode(a, anchors, weights), b, anchors, weights)
    np.testing.assert_allclose(found[has_area], GOLDENS[KINDS[kind]][has_area], atol=1e-9)


def test_regression_losses_of_deltas_add_up_the_coordinates():
    with jax.enable_x64(True):
        anchors, targets = jnp.array(GOLDENS["a"][:5]), jnp.array(GOLDENS["b"][:5])
        deltas = jnp.linspace(-2, 2, 20).reshape(5, 4)
        difference = np.asarray(deltas - boxes.encode(targets, anchors))
        l1 = boxes.regression_loss("l1", deltas, targets, anchors)
        smooth = boxes.regression_loss("smooth_l1", deltas, targets, anchors, beta=0.5)
    np.testing.assert_allclose(l1, np.abs(difference).sum(axis=1))
    squares = np.where(np.abs(difference) < 0.5, difference**2, np.abs(difference) - 0.25)
    np.testing.assert_allclose(smooth, squares.sum(axis=1))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_finite_for_boxes_without_area_and_for_huge_ones(name):
    a = np.array([[0, 0, 0, 0], [5, 5, 5, 9], [5, 5, 9, 5], [0, 0, 1e6, 1e6], [3, 3, 4, 4.0]], np.float32)
    run = jax.jit(jax.value_and_grad(lambda a, b: LOSSES[name](a, b).sum()))
    for b in (a, a[::-1], np.zeros_like(a)):
        loss, gradient = run(a, b)
        assert np.isfinite(loss) and np.isfinite(gradient).all()


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_smooth_l1_and_its_gradient_are_torchs(beta):
    x, loss, gradient = GOLDENS[f"smooth_l1/{beta:.2f}"]
    with jax.enable_x64(True):
        np.testing.assert_allclose(boxes.smooth_l1(jnp.array(x), beta), loss, atol=1e-12)
        found = jax.vmap(jax.grad(lambda x: boxes.smooth_l1(x, beta)))(jnp.array(x))
    differentiable = (np.abs(x) > 1e-9) & (np.abs(np.abs(x) - beta) > 1e-9)
    np.testing.assert_allclose(found[differentiable], gradient[differentiable], atol=1e-12)


@pytest.mark.parametrize("name", WEIGHTS)
def test_encode_and_decode_are_torchvisions_coder(name):
    anchors, deltas = GOLDENS["coder/anchors"], GOLDENS["coder/deltas"]
    with jax.enable_x64(True):
        encoded = boxes.encode(jnp.array(GOLDENS["coder/boxes"]), jnp.array(anchors), WEIGHTS[name])
        of_classes = boxes.decode(jnp.array(deltas).reshape(20, 3, 4), jnp.array(anchors)[:, None], WEIGHTS[name])
    np.testing.assert_allclose(encoded, GOLDENS[f"coder/{name}/encoded"], atol=1e-10)
    np.testing.assert_allclose(of_classes.reshape(20, 12), GOLDENS[f"coder/{name}/decoded"], rtol=1e-9)


def test_decode_returns_what_was_encoded():
    anchors = jnp.array(GOLDENS["a"][::-1].copy())
    found = boxes.decode(boxes.encode(jnp.array(GOLDENS["a"]), anchors), anchors)
    np.testing.assert_allclose(found, GOLDENS["a"], atol=1e-3)


def test_targets_of_an_unused_slot_are_finite():
    encoded = boxes.encode(jnp.zeros((2, 4)), jnp.array([[0, 0, 0, 0], [4, 4, 9, 9.0]]), (10, 10, 5, 5))
    assert np.isfinite(encoded).all()


def test_clip_is_torchvisions():
    np.testing.assert_allclose(boxes.clip(jnp.array(GOLDENS["a"]), (200, 250)), GOLDENS["clip"], rtol=1e-6)


def test_bfloat16_boxes_are_computed_with_in_float32():
    low = jnp.array(GOLDENS["a"], jnp.bfloat16)
    for op in (boxes.iou, boxes.ciou, boxes.encode, boxes.decode):
        assert jax.eval_shape(op, low, low).dtype == jnp.float32
    iou, high = jax.jit(boxes.iou), low.astype(jnp.float32)
    np.testing.assert_array_equal(iou(low, low), iou(high, high))


def test_functions_map_over_a_batch():
    a = jnp.stack([GOLDENS["a"], GOLDENS["a"] + 3.0])
    sizes = jnp.array([[100.0, 200.0], [50.0, 60.0]])
    assert jax.jit(jax.vmap(boxes.iou))(a, a).shape == (2, 20, 20)
    found = jax.vmap(boxes.clip)(a, sizes)
    np.testing.assert_array_equal(found[1], boxes.clip(a[1], (50.0, 60.0)))
