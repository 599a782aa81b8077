"""Means and variances of the channels of a batch of maps, on one device or over those of a mesh axis."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Axis = str | tuple[str, ...]  # of a mesh


def moments(
    x: Float[Array, "b h w c"], axis_name: Axis | None, counted: Bool[Array, "b"] | None
) -> tuple[Array, Array, int | Array]:
    """Mean and biased variance of every channel, and the number of values that they are over.

    Two passes, because the one-pass E[x^2] - E[x]^2 loses the variance of channels with a large mean. The gradient of
    the variance through the mean is 0, since the mean minimises it, and is not computed.
    """
    if counted is not None:
        return _moments_of_rows(x, axis_name, counted)
    count = x.size // x.shape[-1]
    mean = jnp.mean(x, axis=(0, 1, 2))
    if axis_name is not None:
        count *= jax.lax.axis_size(axis_name)
        mean = jax.lax.pmean(mean, axis_name)
    var = jnp.mean(jnp.square(x - jax.lax.stop_gradient(mean)), axis=(0, 1, 2))
    if axis_name is not None:
        var = jax.lax.pmean(var, axis_name)
    return mean, var, count


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
