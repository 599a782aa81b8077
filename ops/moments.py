"""Means and variances of the channels of a batch of maps, on one device or over those of a mesh axis."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from morphism.ops.platform import on_cpu

EVERY = 16  # rows of pixels, of which one is read first, to find about where a channel's values lie
Axis = str | tuple[str, ...]  # of a mesh


def moments(
    x: Float[Array, "b h w c"], axis_name: Axis | None, counted: Bool[Array, "b"] | None
) -> tuple[Array, Array, int | Array]:
    """Mean and biased variance of every channel, and the number of values that they are over.

    Two passes on CPU, and for `counted` rows: the usual single pass, E[x^2] - E[x]^2, loses the variance of channels
    with a large mean. Accelerators are limited by their memory, and have a single pass that keeps it.
    """
    if counted is not None:
        return _moments_of_rows(x, axis_name, counted)
    count = x.size // x.shape[-1]
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    mean, var = _in_two_passes(x, axis_name) if on_cpu() else _in_one_pass(x, axis_name)
    return mean, var, count * devices


def _in_two_passes(x: Float[Array, "b h w c"], axis_name: Axis | None) -> tuple[Array, Array]:
    """The gradient of the variance through the mean is 0, since the mean minimises it, and is not computed."""
    mean = _over_devices(jnp.mean(x, axis=(0, 1, 2)), axis_name)
    var = jnp.mean(jnp.square(x - jax.lax.stop_gradient(mean)), axis=(0, 1, 2))
    return mean, _over_devices(var, axis_name)


def _in_one_pass(x: Float[Array, "b h w c"], axis_name: Axis | None) -> tuple[Array, Array]:
    """E[d] and E[d^2] - E[d]^2 of d = x - shift, where shift is the mean of every 16th row of pixels.

    The mean of a share s of the values lies at most sqrt(1 / s - 1) standard deviations from that of all. With s = 1/16
    or more, E[d]^2 is at most 15 times the variance, and the difference loses at most 4 of float32's 24 bits, whatever
    the channel's mean.
    """
    shift = jax.lax.stop_gradient(_over_devices(jnp.mean(x[:, ::EVERY], axis=(0, 1, 2)), axis_name))
    d = x - shift
    mean = _over_devices(jnp.mean(d, axis=(0, 1, 2)), axis_name)
    squares = _over_devices(jnp.mean(jnp.square(d), axis=(0, 1, 2)), axis_name)
    return shift + mean, jnp.maximum(squares - jnp.square(mean), 0)


def _over_devices(x: Array, axis_name: Axis | None) -> Array:
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def _moments_of_rows(
    x: Float[Array, "b h w c"], axis_name: Axis | None, counted: Bool[Array, "b"]
) -> tuple[Array, Array, Array]:
    """`moments` of the `counted` rows; 0 without any."""

    def total(x: Array) -> Array:
        return x if axis_name is None else jax.lax.psum(x, axis_name)

    weight = counted[:, None, None, None].astype(x.dtype)
    count = total(jnp.sum(counted) * (x.shape[1] * x.shape[2]))
    divisor = jnp.maximum(count, 1)
    mean = total(jnp.sum(weight * x, axis=(0, 1, 2))) / divisor
    var = total(jnp.sum(weight * jnp.square(x - jax.lax.stop_gradient(mean)), axis=(0, 1, 2))) / divisor
    return mean, var, count
