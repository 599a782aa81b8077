"""Mean and variance in both forms, on CPU's two passes and accelerators' one, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from morphism.ops.moments import EVERY, moments
from morphism.ops.platform import as_accelerator, as_cpu
from morphism.runtime.mesh import AXIS

FORMS = {"cpu": as_cpu, "accelerator": as_accelerator}
# Relative to the standard deviation. Two passes subtract a mean that was rounded, at a mean of a million standard
# deviations by 6 % of one; in one pass the shift is rounded too, but what is left is computed exactly.
TOLERANCE = {"cpu": 0.1, "accelerator": 1e-5}
SHAPE = (4, 35, 6, 2)


def drawn(mean, std):
    return np.random.default_rng(0).normal(mean, std, SHAPE).astype(np.float32)


def far_rows():
    """The rows that are read first are as far from the mean as a share of that size can be: the worst case."""
    x = drawn(100.0, 1e-3)
    x[:, ::EVERY] += 1000.0
    return x


CASES = {
    "centred": drawn(0.0, 1.0),
    "far from zero": drawn(1e4, 1.0),
    "a million deviations": drawn(1e3, 1e-3),
    "tiny": drawn(-1e-6, 1e-9),
    "the worst case": far_rows(),
    "one row": drawn(1e4, 1.0)[:, :1],
}


def in_form(form, function, *arguments):
    with FORMS[form]():
        return jax.jit(lambda *xs: function(*xs))(*arguments)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_moments_are_those_of_float64(form, case):
    x = CASES[case]
    mean, var, count = in_form(form, lambda x: moments(x, None, None), x)
    exact = x.astype(np.float64).reshape(-1, 2)
    assert count == len(exact)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6, atol=1e-6 * exact.std(0).max())
    np.testing.assert_allclose(var, exact.var(0), rtol=max(1e-5, TOLERANCE[form] ** 2))


def test_the_usual_single_pass_would_fail_here():
    """That the cases can tell: E[x^2] - E[x]^2 in float32 is wrong by far more than the bound above."""
    x = jnp.asarray(CASES["far from zero"]).reshape(-1, 2)
    wrong = jnp.mean(jnp.square(x), axis=0) - jnp.square(jnp.mean(x, axis=0))
    assert np.abs(wrong / np.asarray(x, np.float64).var(0) - 1).max() > 0.1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_float64(form, case):
    """Of a . mean + b . variance: a / n + 2 b (x - mean) / n."""
    x, a, b = CASES[case], np.array([0.3, -1.0]), np.array([2.0, 0.7])

    def scalar(x):
        mean, var, _ = moments(x, None, None)
        return jnp.sum(mean * a.astype(np.float32)) + jnp.sum(var * b.astype(np.float32))

    found = in_form(form, jax.grad(scalar), x)
    exact = x.astype(np.float64)
    n = x.size / 2
    expected = a / n + 2 * b * (exact - exact.mean((0, 1, 2))) / n
    np.testing.assert_allclose(found, expected, atol=TOLERANCE[form] * np.abs(expected).max())


@pytest.mark.parametrize("form", FORMS)
def test_moments_over_devices_are_those_of_the_whole_batch(form, mesh_of):
    x = CASES["far from zero"]
    mapped = jax.shard_map(lambda x: moments(x, AXIS, None), mesh=mesh_of(2), in_specs=P(AXIS), out_specs=P())
    mean, var, count = in_form(form, mapped, x)
    exact = x.astype(np.float64).reshape(-1, 2)
    assert count == len(exact)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var(0), rtol=1e-5)


def test_a_constant_channel_has_no_variance_in_either_form():
    for form in FORMS:
        mean, var, _ = in_form(form, lambda x: moments(x, None, None), np.full(SHAPE, 0.1, np.float32))
        np.testing.assert_allclose(mean, 0.1, rtol=1e-5)
        assert np.all(np.asarray(var) >= 0) and np.all(np.asarray(var) < 1e-12)
