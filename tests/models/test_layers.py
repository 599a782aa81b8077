from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from models import layers
from models.layers import BatchNorm, conv, max_pool, relu
from training.mesh import AXIS

X = np.random.default_rng(0).normal(3, 2, (8, 5, 4, 3)).astype(np.float32)


def apply_batch_norm(x, train, axis_name=None):
    module = BatchNorm(train=train, axis_name=axis_name)
    stats = {"mean": jnp.full(3, 0.5), "var": jnp.full(3, 2.0)}
    params = {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.array([0.0, 1.0, 2.0])}
    return module.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])


def reference_batch_norm(x):
    """torch.nn.BatchNorm2d's definition in float64: output, running mean and running variance."""
    x = x.astype(np.float64).reshape(-1, 3)
    mean, biased, unbiased = x.mean(0), x.var(0), x.var(0, ddof=1)
    y = (x - mean) / np.sqrt(biased + 1e-5) * [1, 2, 3] + [0, 1, 2]
    return y, 0.9 * 0.5 + 0.1 * mean, 0.9 * 2.0 + 0.1 * unbiased


def test_batch_norm_in_training_is_torchs():
    y, updates = apply_batch_norm(X, train=True)
    expected, mean, var = reference_batch_norm(X)
    np.testing.assert_allclose(np.reshape(y, (-1, 3)), expected, atol=2e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], var, rtol=1e-6)


def test_batch_norm_in_evaluation_uses_and_keeps_the_running_statistics():
    y, updates = apply_batch_norm(X, train=False)
    np.testing.assert_allclose(y, (X - 0.5) / np.sqrt(2 + 1e-5) * [1, 2, 3] + [0, 1, 2], rtol=1e-5, atol=1e-5)
    assert updates["batch_stats"]["mean"].tolist() == [0.5] * 3


def test_batch_norm_keeps_the_variance_of_a_channel_far_from_zero():
    _, updates = apply_batch_norm(X + 10_000, train=True)
    np.testing.assert_allclose(updates["batch_stats"]["var"], reference_batch_norm(X)[2], rtol=1e-3)


@pytest.mark.parametrize("devices", [2, 4])
def test_synchronised_batch_norm_on_several_devices_is_batch_norm_of_the_whole_batch(mesh_of, devices):
    mapped = jax.shard_map(
        partial(apply_batch_norm, train=True, axis_name=AXIS),
        mesh=mesh_of(devices),
        in_specs=P(AXIS),
        out_specs=(P(AXIS), P()),
    )
    y, updates = jax.jit(mapped)(X)
    expected, mean, var = reference_batch_norm(X)
    np.testing.assert_allclose(np.reshape(y, (-1, 3)), expected, atol=2e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], var, rtol=1e-6)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 1), (3, 2), (7, 2)])
def test_convolution_pads_symmetrically_as_torch(size, kernel, stride):
    class One(nn.Module):
        @nn.compact
        def __call__(self, x):
            return conv(2, kernel, stride, dtype=jnp.float32, name="conv")(x)

    x = np.random.default_rng(1).normal(size=(1, size, size, 3)).astype(np.float32)
    variables = One().init(jax.random.key(0), x)
    weights = np.asarray(variables["params"]["conv"]["kernel"], np.float64)
    pad = kernel // 2
    padded = np.pad(x[0], ((pad, pad), (pad, pad), (0, 0)))
    out = (size + 2 * pad - kernel) // stride + 1
    expected = np.zeros((out, out, 2))
    for i in range(out):
        for j in range(out):
            patch = padded[i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            expected[i, j] = np.einsum("ijc,ijcd->d", patch, weights)
    np.testing.assert_allclose(One().apply(variables, x)[0], expected, atol=1e-5)


def test_max_pool_pads_with_minus_infinity_and_rounds_down():
    x = -jnp.arange(1.0, 26).reshape(1, 5, 5, 1)
    assert max_pool(x, 3, 2, 1)[0, :, :, 0].tolist() == [[-1, -2, -4], [-6, -7, -9], [-16, -17, -19]]


def both_ways(monkeypatch, function, *arguments):
    """Values and gradients of a function of arrays: in its form for CPU, and in that for GPUs and TPUs."""
    results = []
    for cpu in (True, False):
        monkeypatch.setattr(layers, "on_cpu", lambda cpu=cpu: cpu)
        y, pull_back = jax.vjp(jax.jit(lambda *xs: function(*xs)), *arguments)
        results.append((y, *pull_back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))))
    assert all(a.dtype == b.dtype for a, b in zip(*results, strict=True))
    return results


def normal(*shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(7, 5), (6, 9), (1, 1)])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_1x1_convolution_is_the_same_on_cpu(monkeypatch, stride, height, width, inputs, outputs, dtype, tolerance):
    def apply(x, kernel):
        return conv(outputs, 1, stride, dtype=dtype, name="conv").apply({"params": {"kernel": kernel}}, x)

    ways = both_ways(monkeypatch, apply, normal(2, height, width, inputs, dtype=dtype), normal(1, 1, inputs, outputs))
    for a, b in zip(*ways, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_is_the_same_on_cpu_to_the_bit(monkeypatch, dtype):
    x = jnp.concatenate([normal(1000, dtype=dtype), jnp.array([0.0, -0.0, 1e-38, -1e-38, 3e38, -3e38], dtype)])
    for a, b in zip(*both_ways(monkeypatch, relu, x), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
@pytest.mark.parametrize(("height", "width"), [(9, 7), (8, 8), (2, 3)])
@pytest.mark.parametrize("levels", [2, 1000])
def test_max_pool_is_the_same_on_cpu_ties_included(monkeypatch, kernel, stride, pad, height, width, levels):
    x = jnp.round(normal(2, height, width, 3) * levels) / levels
    ways = both_ways(monkeypatch, lambda x: max_pool(x, kernel, stride, pad), x)
    np.testing.assert_array_equal(ways[0][0], ways[1][0])
    np.testing.assert_allclose(ways[0][1], ways[1][1], rtol=1e-6, atol=1e-6)


def test_batch_norms_gradient_is_that_of_its_definition():
    def definition(x):
        mean = jnp.mean(x, (0, 1, 2))
        var = jnp.mean(jnp.square(x), (0, 1, 2)) - jnp.square(mean)
        y = (x - mean) / jnp.sqrt(var + 1e-5) * jnp.array([1.0, 2.0, 3.0]) + jnp.array([0.0, 1.0, 2.0])
        return jnp.sum(jnp.sin(y)), y

    with jax.enable_x64(True):
        expected = jax.grad(definition, has_aux=True)(jnp.asarray(X, jnp.float64))[0]
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(apply_batch_norm(x, train=True)[0])))(X)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
