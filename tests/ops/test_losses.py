import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ops.losses import cross_entropy

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
