from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from morphism.models.layers import BatchNorm, adaptive_avg_pool, conv, flatten, max_pool, relu
from morphism.ops.platform import as_accelerator, as_cpu
from morphism.runtime.mesh import AXIS

X = np.random.default_rng(0).normal(3, 2, (8, 5, 4, 3)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 2, 4))


def apply_batch_norm(x, train, axis_name=None, counted=None):
    module = BatchNorm(train=train, axis_name=axis_name)
    stats = {"mean": jnp.full(3, 0.5), "var": jnp.full(3, 2.0)}
    params = {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.array([0.0, 1.0, 2.0])}
    return module.apply({"params": params, "batch_stats": stats}, jnp.asarray(x), counted, mutable=["batch_stats"])


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


@pytest.mark.parametrize("devices", [1, 2])
def test_batch_norm_of_some_rows_is_that_of_a_batch_of_those(mesh_of, devices):
    """On two devices together; without any row the running statistics keep their bits."""
    counted = np.array([True, False, True, True, False, False, False, True])

    def run(x, counted):
        return apply_batch_norm(x, train=True, axis_name=AXIS, counted=counted)

    mapped = jax.jit(jax.shard_map(run, mesh=mesh_of(devices), in_specs=P(AXIS), out_specs=(P(AXIS), P())))
    y, updates = mapped(X, counted)
    expected, mean, var = reference_batch_norm(X[counted])
    np.testing.assert_allclose(np.reshape(y[counted], (-1, 3)), expected, atol=2e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], var, rtol=1e-6)
    y, updates = mapped(X, np.zeros(8, bool))
    assert np.all(np.isfinite(y))
    assert np.all(updates["batch_stats"]["mean"] == 0.5) and np.all(updates["batch_stats"]["var"] == 2)


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
    weights = np.random.default_rng(2).normal(size=(kernel, kernel, 3, 2)) / kernel
    pad = kernel // 2
    padded = np.pad(x[0], ((pad, pad), (pad, pad), (0, 0)))
    out = (size + 2 * pad - kernel) // stride + 1
    expected = np.zeros((out, out, 2))
    for i in range(out):
        for j in range(out):
            patch = padded[i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            expected[i, j] = np.einsum("ijc,ijcd->d", patch, weights)
    variables = {"params": {"conv": {"kernel": weights.astype(np.float32)}}}
    np.testing.assert_allclose(jax.jit(One().apply)(variables, x)[0], expected, atol=1e-5)


def test_convolution_is_cross_correlation_as_textbooks_have_it():
    image = jnp.arange(1.0, 10).reshape(1, 3, 3, 1)
    kernel = {"params": {"kernel": jnp.array([[1.0, 2], [3, 4]]).reshape(2, 2, 1, 1)}}
    found = conv(1, 2, pad=0, dtype=jnp.float32, name="conv").apply(kernel, image)
    assert found[0, :, :, 0].tolist() == [[37, 47], [67, 77]]


def test_pooling_is_that_of_textbooks():
    image = jnp.arange(1.0, 17).reshape(1, 4, 4, 1)
    assert max_pool(image, 2, 2, 0)[0, :, :, 0].tolist() == [[6, 8], [14, 16]]


def test_adaptive_average_pooling_has_torchs_overlapping_bins():
    rows = adaptive_avg_pool(jnp.arange(7.0).reshape(1, 7, 1, 1), 3, 1)[0, :, 0, 0]
    assert rows.tolist() == [1, 3, 5]  # rows 0-2, 2-4 and 4-6
    assert adaptive_avg_pool(jnp.arange(2.0).reshape(1, 1, 2, 1), 1, 3)[0, 0, :, 0].tolist() == [0, 0.5, 1]


def test_flatten_puts_channels_first_as_torch():
    assert flatten(jnp.arange(12.0).reshape(1, 2, 2, 3))[0].tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: max_pool(x, 3, 2, 1),
        lambda x: adaptive_avg_pool(x, 3, 2),
        lambda x: conv(4, 3, 2, dilation=2, dtype=x.dtype, name="conv").apply({"params": {"kernel": KERNEL}}, x),
        lambda x: conv(4, 3, groups=2, dtype=x.dtype, name="conv").apply({"params": {"kernel": KERNEL[:, :, :1]}}, x),
    ],
    ids=["max pooling", "adaptive pooling", "dilated convolution", "grouped convolution"],
)
def test_gradients_are_finite_differences(layer):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 7, 2)))
        out = jax.eval_shape(layer, x)
        weights = np.cos(np.arange(out.size)).reshape(out.shape)

        def scalar(x):
            return jnp.sum(layer(x) * weights)

        step = 1e-6 * np.eye(x.size).reshape(-1, *x.shape)
        differences = jax.jit(jax.vmap(lambda each: (scalar(x + each) - scalar(x - each)) / 2e-6))(step)
        np.testing.assert_allclose(jax.jit(jax.grad(scalar))(x), differences.reshape(x.shape), atol=1e-7)


def test_max_pool_pads_with_minus_infinity_and_rounds_down():
    x = -jnp.arange(1.0, 26).reshape(1, 5, 5, 1)
    assert max_pool(x, 3, 2, 1)[0, :, :, 0].tolist() == [[-1, -2, -4], [-6, -7, -9], [-16, -17, -19]]


def both_ways(function, *arguments):
    """Values and gradients of a function of arrays: in its form for CPU, and in that for accelerators."""

    def pulled_back(*arguments):
        y, pull_back = jax.vjp(function, *arguments)
        return y, *pull_back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    results = []
    for form in (as_cpu, as_accelerator):
        with form():
            results.append(jax.jit(lambda *xs: pulled_back(*xs))(*arguments))
    assert all(a.dtype == b.dtype for a, b in zip(*results, strict=True))
    return results


def normal(*shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


@pytest.mark.parametrize(("height", "width"), [(9, 6), (1, 2)])
@pytest.mark.parametrize(("groups", "stride", "dilation"), [(2, 1, 1), (2, 2, 1), (2, 1, 2), (4, 2, 1)])
@pytest.mark.parametrize(("kernel", "outputs"), [(3, 16), (2, 4)])
def test_grouped_convolution_is_the_same_on_cpu(height, width, groups, stride, dilation, kernel, outputs):
    def apply(x, weights):
        options = {"pad": 3, "dilation": dilation, "groups": groups, "dtype": jnp.float32, "name": "conv"}
        return conv(outputs, kernel, stride, **options).apply({"params": {"kernel": weights}}, x)

    arguments = normal(2, height, width, 8), normal(kernel, kernel, 8 // groups, outputs)
    for a, b in zip(*both_ways(apply, *arguments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(9, 6), (1, 2)])
@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pointwise_convolution_is_the_same_on_cpu(height, width, stride, pad, dtype):
    def apply(x, weights):
        module = conv(5, 1, stride, pad=pad, bias=True, dtype=dtype, name="conv")
        return module.apply({"params": {"kernel": weights, "bias": jnp.arange(5.0)}}, x)

    arguments = normal(2, height, width, 8, dtype=dtype), normal(1, 1, 8, 5)
    near = {"atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2**-6, "atol": 0.05}
    for a, b in zip(*both_ways(apply, *arguments), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), **near)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (5, 2, 1), (3, 1, 2), (2, 1, 1)])
def test_depthwise_convolution_is_the_same_on_cpu(kernel, stride, dilation):
    def apply(x, weights):
        options = {"dilation": dilation, "groups": 8, "dtype": jnp.float32, "name": "conv"}
        return conv(8, kernel, stride, **options).apply({"params": {"kernel": weights}}, x)

    for a, b in zip(*both_ways(apply, normal(2, 9, 6, 8), normal(kernel, kernel, 1, 8)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_is_the_same_on_cpu_to_the_bit(dtype):
    x = jnp.concatenate([normal(1000, dtype=dtype), jnp.array([0.0, -0.0, 1e-38, -1e-38, 3e38, -3e38], dtype)])
    for a, b in zip(*both_ways(relu, x), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
@pytest.mark.parametrize(("height", "width"), [(9, 7), (8, 8), (2, 3)])
@pytest.mark.parametrize(("levels", "ceil"), [(2, False), (1000, False), (2, True)])
def test_max_pool_is_the_same_on_cpu_ties_included(kernel, stride, pad, height, width, levels, ceil):
    x = jnp.round(normal(2, height, width, 3) * levels) / levels
    ways = both_ways(lambda x: max_pool(x, kernel, stride, pad, ceil=ceil), x)
    np.testing.assert_array_equal(ways[0][0], ways[1][0])
    np.testing.assert_allclose(ways[0][1], ways[1][1], rtol=1e-6, atol=1e-6)


def test_max_pool_rounds_up_where_torch_does():
    """torch.nn.MaxPool2d(kernel, stride, pad, ceil_mode=True) on 0..n-1; a window must not begin in the right pad."""

    def pooled(size, kernel, stride, pad):
        x = jnp.broadcast_to(jnp.arange(size, dtype=jnp.float32)[None, :, None, None], (1, size, size, 1))
        return max_pool(x, kernel, stride, pad, ceil=True)[0, :, 0, 0].tolist()

    assert pooled(5, 2, 2, 0) == [1, 3, 4]
    assert pooled(6, 2, 2, 0) == [1, 3, 5]
    assert pooled(6, 3, 2, 0) == [2, 4, 5]
    assert pooled(5, 2, 3, 1) == [0, 3]
    assert pooled(6, 2, 3, 1) == [0, 3, 5]


def test_batch_norms_gradient_is_that_of_its_definition():
    def definition(x):
        mean = jnp.mean(x, (0, 1, 2))
        var = jnp.mean(jnp.square(x), (0, 1, 2)) - jnp.square(mean)
        y = (x - mean) / jnp.sqrt(var + 1e-5) * jnp.array([1.0, 2.0, 3.0]) + jnp.array([0.0, 1.0, 2.0])
        return jnp.sum(jnp.sin(y)), y

    with jax.enable_x64(True):
        expected = jax.jit(jax.grad(definition, has_aux=True))(jnp.asarray(X, jnp.float64))[0]
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(apply_batch_norm(x, train=True)[0]))))(X)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
