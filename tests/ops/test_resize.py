"""Resizing, pooling, unpooling and transposed convolution: goldens/make_segmenters.py wrote what torch computes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens.drawn import drawn, sample
from jax.extend.core import jaxprs_in_params

from morphism.models.layers import ConvTranspose, adaptive_avg_pool, bilinear_kernel, max_pool
from morphism.ops.platform import as_accelerator
from morphism.ops.pooling import max_pool_positions, max_unpool, mean_of_parts
from morphism.ops.resize import argmax_of_parts, resize_bilinear, resize_parts
from morphism.weights.convert import from_torch

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "segmenters.npz")
X = jnp.array(GOLDENS["layers/x"])
SIZES = [key.rsplit("/", 1)[1] for key in GOLDENS if key.startswith("layers/bilinear/")]


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_resizing_is_torchs(size):
    expected = GOLDENS[f"layers/bilinear/{size}"]
    np.testing.assert_allclose(resize_bilinear(X, *expected.shape[1:3]), expected, atol=2e-6)


def test_resizing_keeps_a_constant_and_its_type():
    found = resize_bilinear(jnp.full((1, 5, 6, 2), 3.0, jnp.bfloat16), 17, 4)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), 3, rtol=1e-2)


def test_parts_of_a_batch_are_resized_each_to_its_size():
    sizes, to = np.array([[7, 9], [4, 3]]), np.array([[20, 13], [5, 16]])
    found = jax.jit(lambda x: resize_parts(x, jnp.array(sizes), jnp.array(to), 20, 16))(X)
    assert found.shape == (2, 20, 16, 3)
    for row in range(2):
        part = X[row : row + 1, : sizes[row][0], : sizes[row][1]]
        expected = resize_bilinear(part, *to[row].tolist())
        np.testing.assert_allclose(found[row : row + 1, : to[row][0], : to[row][1]], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(17, 31), (3, 20), (6, 4)])
def test_on_cpu_resizing_and_its_gradient_are_those_of_accelerators(monkeypatch, size):
    def value_and_gradient(x):
        found, back = jax.vjp(lambda x: resize_bilinear(x, *size), x)
        return found, back(jnp.cos(found))[0]

    on_cpu = jax.jit(value_and_gradient)(X)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for found, expected in zip(on_cpu, jax.jit(value_and_gradient)(X), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_products_on_accelerators_keep_side_by_side_what_they_do_not_sum_over():
    """Other products of maps with, say, 21 channels are refused by XLA's compiler for GPUs."""

    def value_and_gradients(x):
        sizes, to = jnp.array([(6, 8), (3, 5)]), jnp.array([(13, 11), (5, 3)])
        found, back = jax.vjp(lambda x: (resize_bilinear(x, 17, 31), resize_parts(x, sizes, to, 13, 11)), x)
        return back(found), argmax_of_parts(x, sizes, to, 13, 11)

    with as_accelerator():
        products = dots(jax.make_jaxpr(value_and_gradients)(X).jaxpr)
    assert len(products) == 10
    for equation in products:
        summed, batched = equation.params["dimension_numbers"]
        for operand, axes, batch in zip(equation.invars, summed, batched, strict=True):
            assert operand.aval.ndim - len(axes) - len(batch) == 1
            assert batch == tuple(range(len(batch)))


def dots(jaxpr):
    """The products of matrices in a jaxpr, also those of inner ones."""
    own = [equation for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    return own + [each for equation in jaxpr.eqns for part in jaxprs_in_params(equation.params) for each in dots(part)]


@pytest.mark.parametrize(("strip", "height"), [(2**24, 13), (100, 13), (1, 7)])
def test_the_highest_of_resized_parts_is_found_strip_by_strip(monkeypatch, strip, height):
    sizes, to = jnp.array([(6, 8), (3, 5)]), jnp.array([(height, 11), (5, 3)])
    expected = jnp.argmax(resize_parts(X, sizes, to, height, 11), axis=-1)
    monkeypatch.setattr("morphism.ops.resize.STRIP", strip)
    np.testing.assert_array_equal(jax.jit(argmax_of_parts, static_argnums=(3, 4))(X, sizes, to, height, 11), expected)


@pytest.mark.parametrize("bins", [(1, 1), (2, 2), (3, 3), (6, 6), (5, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 4e-3)])
def test_means_of_parts_are_those_of_the_part_alone(bins, dtype, tolerance):
    x = jnp.array(np.random.default_rng(5).normal(size=(3, 17, 12, 4)) + 1, dtype)
    sizes = [(17, 12), (4, 7), (1, 5)]
    found = jax.jit(lambda x: mean_of_parts(x, jnp.array(sizes), *bins))(x)
    assert found.dtype == dtype
    for row, (height, width) in enumerate(sizes):
        expected = adaptive_avg_pool(x[row : row + 1, :height, :width].astype(jnp.float32), *bins)[0]
        np.testing.assert_allclose(found[row].astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", [2, 3])
def test_unpooling_and_its_gradient_are_torchs_with_ties(kernel):
    """Of equal maxima the first is where a value returns to."""

    def unpooled(x):
        pooled = max_pool(x, kernel, kernel, 0)
        return max_unpool(pooled, max_pool_positions(x, kernel), *x.shape[1:3], kernel)

    ties = np.round(X * 2)
    np.testing.assert_array_equal(jax.jit(unpooled)(ties), GOLDENS[f"layers/unpool/{kernel}"])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(unpooled(x) * X)))(ties)
    np.testing.assert_allclose(gradient, GOLDENS[f"layers/unpool/{kernel}/gradient"], atol=1e-6)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (4, 2), (16, 8), (3, 1)])
def test_transposed_convolution_is_torchs(kernel, stride):
    module = ConvTranspose(4, kernel, stride, bias=False)
    like = {"params": {"transposed_kernel": np.zeros((kernel, kernel, 3, 4), np.float32)}}
    weight = drawn(f"transposed.{kernel}.weight", (3, 4, kernel, kernel))
    found = module.apply(from_torch({"weight": weight}, like), X)
    assert found.shape == (2, 6 * stride + kernel, 8 * stride + kernel, 4)
    np.testing.assert_allclose(sample(found, 500), GOLDENS[f"layers/transposed/{kernel}/{stride}"], atol=2e-5)


def test_a_transposed_convolution_initialised_as_bilinear_is_the_resize():
    """Away from the border, which it mixes with zeros."""
    module = ConvTranspose(3, 8, 4, bias=False, kernel_init=bilinear_kernel)
    found = module.apply(module.init(jax.random.key(0), X), X)[:, 2:-2, 2:-2]
    np.testing.assert_allclose(found[:, 2:-2, 2:-2], resize_bilinear(X, 28, 36)[:, 2:-2, 2:-2], atol=1e-5)
