"""Losses of semantic segmentation against torch's (goldens/make_segmenters.py) and against definitions in float64."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.ops import segmentation as ops

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "segmenters.npz")
LOGITS, LABELS, WEIGHTS = (GOLDENS[f"losses/{name}"] for name in ("logits", "target", "weights"))
TARGET = jnp.array(LABELS)
LOSSES = {
    "cross_entropy": ops.cross_entropy,
    "weighted": partial(ops.cross_entropy, class_weights=jnp.array(WEIGHTS)),
    "focal": ops.focal,
    "focal, gamma 1/2": partial(ops.focal, gamma=0.5),
    "hard": partial(ops.hard_cross_entropy, least=3),
    "dice": ops.dice,
    "lovasz": ops.lovasz_softmax,
}


@pytest.mark.parametrize("weighting", ["plain", "weighted"])
def test_cross_entropy_with_ignored_pixels_and_its_gradient_are_torchs(weighting):
    weights = jnp.array(WEIGHTS) if weighting == "weighted" else None
    loss = jax.jit(jax.value_and_grad(lambda x: ops.cross_entropy(x, TARGET, weights)))
    value, gradient = loss(jnp.float32(LOGITS))
    np.testing.assert_allclose(value, GOLDENS[f"losses/cross_entropy/{weighting}"], rtol=1e-6)
    np.testing.assert_allclose(gradient, GOLDENS[f"losses/cross_entropy/{weighting}/gradient"], atol=1e-8)


def counted():
    """Probabilities [n,k] and labels [n] of the pixels that count, in float64."""
    kept = LABELS != 255
    logits = LOGITS[kept]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True), LABELS[kept].astype(int)


def test_a_pixels_own_weight_multiplies_its_term():
    p, t = counted()
    weights = np.random.default_rng(0).uniform(0, 10, LABELS.shape)
    expected = np.mean(-np.log(p[np.arange(len(t)), t]) * weights[LABELS != 255])
    found = ops.cross_entropy(jnp.array(LOGITS), TARGET, pixel_weights=jnp.array(weights))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_its_definition(gamma):
    p, t = counted()
    chosen = p[np.arange(len(t)), t]
    expected = np.mean((1 - chosen) ** gamma * -np.log(chosen))
    np.testing.assert_allclose(ops.focal(jnp.array(LOGITS), TARGET, gamma), expected, rtol=1e-5)


@pytest.mark.parametrize("least", [0, 1, 50, 90, 10_000])
def test_hard_pixels_are_those_below_the_threshold_or_the_hardest(least):
    p, t = counted()
    chosen = p[np.arange(len(t)), t]
    limit = max(0.3, np.sort(chosen)[min(least, len(chosen) - 1)])
    expected = np.mean(-np.log(chosen[chosen < limit]))
    found = ops.hard_cross_entropy(jnp.array(LOGITS), TARGET, 0.3, least)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_dice_loss_is_its_definition():
    p, t = counted()
    t = np.eye(5)[t]
    expected = np.mean(1 - (2 * (p * t).sum(0) + 1) / ((p**2).sum(0) + t.sum(0) + 1))
    np.testing.assert_allclose(ops.dice(jnp.array(LOGITS), TARGET), expected, rtol=1e-5)


def test_lovasz_softmax_is_the_extension_of_the_jaccard_loss():
    """By its definition as a sum over growing sets of the worst pixels; one class occurs nowhere."""
    labels = np.where(LABELS == 3, 255, LABELS)
    kept = labels != 255
    p = np.exp(LOGITS[kept] - LOGITS[kept].max(-1, keepdims=True))
    p, t = p / p.sum(-1, keepdims=True), labels[kept]
    losses = []
    for k in (0, 1, 2, 4):
        errors = np.abs((t == k) - p[:, k])
        order = np.argsort(-errors)
        wrong, before, total = np.zeros(len(t), bool), 0.0, 0.0
        for index in order:
            wrong[index] = True
            predicted = (t == k) ^ wrong
            jaccard = 1 - np.sum(predicted & (t == k)) / np.sum(predicted | (t == k))
            total += errors[index] * (jaccard - before)
            before = jaccard
        losses.append(total)
    np.testing.assert_allclose(ops.lovasz_softmax(jnp.array(LOGITS), jnp.array(labels)), np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_where_every_pixel_is_ignored_loss_and_gradient_are_0(name):
    nothing = jnp.full_like(TARGET, 255)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: LOSSES[name](x, nothing)))(jnp.array(LOGITS))
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_at_huge_logits_loss_and_gradient_are_finite_and_ignored_pixels_have_no_part(name):
    logits = jnp.array(LOGITS) * 1e3
    loss = jax.jit(jax.value_and_grad(lambda x: LOSSES[name](x, TARGET)))
    value, gradient = loss(logits)
    assert np.isfinite(value) and np.all(np.isfinite(gradient)) and np.all(gradient[LABELS == 255] == 0)
    other = jnp.where((LABELS == 255)[..., None], 7.0, logits)
    assert loss(other)[0] == value
