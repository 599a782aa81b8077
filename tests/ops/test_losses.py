from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.ops.losses import binary_cross_entropy, cross_entropy, sigmoid_focal

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "losses.npz")

LOGITS = np.random.default_rng(0).normal(size=(5, 7)) * 4
LABELS = np.array([0, 3, 6, 2, 2])


def reference(logits, target, smoothing):
    """The definition, in float64, term by term."""
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    q = (1 - smoothing) * target + smoothing / logits.shape[-1]
    return -(q * log_p).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_its_definition_in_float64(smoothing):
    expected = reference(LOGITS, np.eye(7)[LABELS], smoothing)
    np.testing.assert_allclose(cross_entropy(jnp.array(LOGITS), jnp.array(LABELS), smoothing), expected, rtol=1e-5)


def test_cross_entropy_of_a_mixed_label_is_the_mixture_of_the_losses():
    mixed = 0.3 * np.eye(7)[LABELS] + 0.7 * np.eye(7)[LABELS[::-1]]
    found = cross_entropy(jnp.array(LOGITS), jnp.array(mixed))
    first, second = (cross_entropy(jnp.array(LOGITS), jnp.array(labels)) for labels in (LABELS, LABELS[::-1].copy()))
    np.testing.assert_allclose(found, 0.3 * first + 0.7 * second, rtol=1e-5)


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32():
    assert cross_entropy(jnp.zeros((2, 3), jnp.bfloat16), jnp.array([0, 1])).dtype == jnp.float32


def test_cross_entropy_and_its_gradient_stay_finite_at_huge_logits():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    value, gradient = jax.value_and_grad(lambda x: cross_entropy(x, jnp.array([1])).sum())(logits)
    assert value == 2e4
    assert jnp.isfinite(gradient).all()


def assert_torchs(name, loss):
    """The loss of every example or logit, and the gradient of their sum, as goldens/make_losses.py wrote torch's."""
    logits = jnp.array(GOLDENS["logits"], jnp.float32)
    np.testing.assert_allclose(loss(logits), GOLDENS[name], rtol=2e-6, atol=2e-7)
    gradient = jax.grad(lambda x: loss(x).sum())(logits)
    np.testing.assert_allclose(gradient, GOLDENS[f"{name}/gradient"], rtol=2e-6, atol=5e-7)


@pytest.mark.parametrize("weighting", ["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["class", "soft"])
def test_cross_entropy_is_torchs(kind, smoothing, weighting):
    target = jnp.array(GOLDENS["labels" if kind == "class" else "soft"])
    weights = jnp.array(GOLDENS["weights"]) if weighting == "weighted" else None
    assert_torchs(
        f"cross_entropy/{kind}/{smoothing}/{weighting}/none", lambda x: cross_entropy(x, target, smoothing, weights)
    )


@pytest.mark.parametrize("weighting", ["plain", "weighted"])
@pytest.mark.parametrize("kind", ["many", "soft"])
def test_binary_cross_entropy_is_torchs(kind, weighting):
    weights = {"pos_weight": jnp.array(GOLDENS["weights"])} if weighting == "weighted" else {}
    assert_torchs(f"bce/{kind}/{weighting}", lambda x: binary_cross_entropy(x, jnp.array(GOLDENS[kind]), **weights))


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (-1.0, 2.0), (0.75, 0.5), (0.5, 0.0)])
@pytest.mark.parametrize("kind", ["many", "soft"])
def test_focal_loss_is_torchvisions(kind, alpha, gamma):
    assert_torchs(f"focal/{kind}/{alpha}/{gamma}", lambda x: sigmoid_focal(x, jnp.array(GOLDENS[kind]), alpha, gamma))


@pytest.mark.parametrize("loss", [binary_cross_entropy, lambda x, t: sigmoid_focal(x, t, 0.25, 0.5)])
def test_losses_of_a_sigmoid_and_their_gradients_stay_finite_at_huge_logits(loss):
    logits, target = jnp.array([1e4, 30.0, -30.0, -1e4, 1e4]), jnp.array([1.0, 1, 0, 0, 0])
    value, gradient = jax.value_and_grad(lambda x: loss(x, target).sum())(logits)
    assert 1e3 < value < 2e4
    assert jnp.isfinite(gradient).all()
