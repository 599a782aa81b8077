"""The parts that every architecture is built from: convolution, batch norm and dense layers, as torch defines them.

Padding is always explicit and symmetric, as the published references have it; XLA's "SAME" pads otherwise at stride 2.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Dtype = Any

# torch.nn.init.kaiming_normal_(mode="fan_out"), which torchvision's ResNets use for every convolution.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# torch.nn.init.kaiming_normal_(mode="fan_in"): He et al. 2015, "Delving deep into rectifiers", equation 10.
kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# The default of torch.nn.Linear: uniform in +-1/sqrt(fan_in).
torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv(
    features: int,
    kernel: int,
    stride: int = 1,
    *,
    dtype: Dtype,
    bias: bool = False,
    kernel_init=kaiming_fan_out,
    name: str,
) -> nn.Conv:
    """A square convolution padded by (kernel - 1) / 2 on every side, as torch.nn.Conv2d(padding=kernel // 2).

    [B,H,W,C] -> [B,floor((H - 1) / stride) + 1,floor((W - 1) / stride) + 1,features] for an odd kernel.
    """
    pad = (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=bias,
        dtype=dtype,
        kernel_init=kernel_init,
        name=name,
    )


def max_pool(x: Float[Array, "b h w c"], kernel: int, stride: int, pad: int) -> Float[Array, "b h2 w2 c"]:
    """torch.nn.MaxPool2d(kernel, stride, pad): the padding is -inf, the output size is rounded down."""
    return nn.max_pool(x, (kernel, kernel), (stride, stride), ((pad, pad), (pad, pad)))


class BatchNorm(nn.Module):
    """torch.nn.BatchNorm2d over the last axis: biased variance normalises, the unbiased one enters the running mean.

    x [B,H,W,C] of any float type -> the same shape in `dtype`; statistics, scale and shift are float32.
    With `axis_name` the statistics are those of all devices' examples (torch.nn.SyncBatchNorm), without it each device
    uses its own, as the ImageNet papers trained. `momentum` is torch's: the weight of the newest batch.
    """

    train: bool
    axis_name: str | None = None
    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        if self.train:
            mean, var, count = _moments(x.astype(jnp.float32), self.axis_name)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value

        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x.astype(jnp.float32) * factor + (bias - mean * factor)).astype(self.dtype)


def _moments(x: Float[Array, "b h w c"], axis_name: str | None) -> tuple[Array, Array, int]:
    """Mean and biased variance of every channel, and how many values each was taken over.

    Two passes: the one-pass E[x^2] - E[x]^2 loses the variance of channels whose mean is large.
    """
    count = x.size // x.shape[-1]
    mean = jnp.mean(x, axis=(0, 1, 2))
    if axis_name is not None:
        count *= jax.lax.axis_size(axis_name)
        mean = jax.lax.pmean(mean, axis_name)
    var = jnp.mean(jnp.square(x - mean), axis=(0, 1, 2))
    if axis_name is not None:
        var = jax.lax.pmean(var, axis_name)
    return mean, var, count
