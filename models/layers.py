"""The layers that every architecture is built from: convolution, pooling and batch norm, as torch defines them.

Padding is always explicit and symmetric, as in the published references; XLA's "SAME" pads differently at stride 2.

On CPU `conv` of groups and of 1x1 kernels, `relu` and `max_pool` have forms that are faster for XLA (ops/platform.py);
they compute the same values and gradients as XLA's own, which accelerators run.
"""

from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from morphism.errors import UserError
from morphism.ops.moments import Axis, moments
from morphism.ops.platform import on_cpu, on_gpu
from morphism.ops.precision import full_precision

Dtype = Any

# An initialiser that is traced once per shape: otherwise each layer does it, when it is made and whenever it is called.
_once = partial(jax.jit, static_argnums=(1, 2), inline=True)

# torch.nn.init.kaiming_normal_(mode="fan_out"), which torchvision's ResNets use for every convolution.
kaiming_fan_out = _once(nn.initializers.variance_scaling(2.0, "fan_out", "normal"))
# torch.nn.init.kaiming_normal_(mode="fan_in"): He et al. 2015, "Delving deep into rectifiers", equation 10.
kaiming_fan_in = _once(nn.initializers.variance_scaling(2.0, "fan_in", "normal"))
# The default of torch.nn.Linear and torch.nn.Conv2d: uniform in +-1/sqrt(fan_in).
torch_uniform = _once(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"))


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
    """The default of torch.nn.Linear's and torch.nn.Conv2d's biases: uniform in +-1/sqrt(fan_in)."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)


def conv(
    features: int,
    kernel: int,
    stride: int = 1,
    *,
    pad: int | None = None,
    dilation: int = 1,
    groups: int = 1,
    dtype: Dtype,
    bias: bool = False,
    kernel_init: nn.initializers.Initializer = kaiming_fan_out,
    bias_init: nn.initializers.Initializer = nn.initializers.zeros,
    name: str,
) -> nn.Conv:
    """torch.nn.Conv2d with a square kernel and `pad` zeros on every side, by default dilation * (kernel - 1) / 2.

    [B, H, W, C] -> [B, H2, W2, features] with H2 = floor((H + 2 pad - dilation (kernel - 1) - 1) / stride) + 1; with
    the default `pad` and an odd kernel that is ceil(H / stride).
    """
    pad = dilation * (kernel - 1) // 2 if pad is None else pad
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        kernel_dilation=(dilation, dilation),
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        kernel_init=kernel_init,
        bias_init=bias_init,
        conv_general_dilated=_conv_on_cpu if on_cpu() else None,
        name=name,
    )


def _conv_on_cpu(x: Array, kernel: Array, strides: tuple[int, int], padding: Any, **options: Any) -> Array:
    """lax.conv_general_dilated in its form for CPUs."""
    static, groups = {"window_strides": strides, "padding": tuple(padding), **options}, options["feature_group_count"]
    if groups == x.shape[-1] == kernel.shape[-1] > 1:
        return _depthwise(x, kernel, strides, padding, options["rhs_dilation"])
    if groups > 1 or (kernel.shape[:2] == (1, 1) and not np.any(padding)):
        return _convolved(x, kernel, tuple(static.items()))
    return jax.lax.conv_general_dilated(x, kernel, **static)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolved(x: Array, kernel: Array, static: tuple[tuple[str, Any], ...]) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, **dict(static))


def _convolved_forward(x: Array, kernel: Array, static: tuple) -> tuple[Array, tuple[Array, Array]]:
    return _convolved(x, kernel, static), (x, kernel)


def _gradients(static: tuple, residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    options = dict(static)
    groups = options.pop("feature_group_count")
    if groups > 1:
        return _grouped_gradients(*residuals, dy, groups, options)
    return _pointwise_gradients(*residuals, dy, options)


_convolved.defvjp(_convolved_forward, _gradients)


def _grouped_gradients(x: Array, kernel: Array, dy: Array, groups: int, options: dict) -> tuple[Array, Array]:
    """Gradients group by group: XLA's own gradient of a grouped convolution takes a hundred times as long on CPU."""

    def one_by_one(x: Array, kernel: Array) -> Array:
        parts = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
        return jnp.concatenate([jax.lax.conv_general_dilated(*part, **options) for part in parts], axis=-1)

    return jax.vjp(one_by_one, x, kernel)[1](dy)


def _pointwise_gradients(x: Array, kernel: Array, dy: Array, options: dict) -> tuple[Array, Array]:
    """That of a 1x1 kernel as one product of matrices: XLA's own is a convolution by a kernel as large as the map."""
    rows, columns = options["window_strides"]
    summed = (((0, 1, 2), (0, 1, 2)), ((), ()))
    product = jax.lax.dot_general(x[:, ::rows, ::columns], dy, summed, precision=options["precision"])
    (dx,) = jax.vjp(lambda x: jax.lax.conv_general_dilated(x, kernel, **options), x)[1](dy)
    return dx, product.reshape(kernel.shape)


def _depthwise(x: Array, kernel: Array, strides: Any, padding: Any, dilation: Any) -> Array:
    """A grouped convolution of one channel per group, as the sum over the kernel's taps."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    (height, width), (rows, columns), (down, across) = kernel.shape[:2], strides, dilation
    ends = padded.shape[1] - (height - 1) * down, padded.shape[2] - (width - 1) * across
    return sum(
        padded[:, i * down : i * down + ends[0] : rows, j * across : j * across + ends[1] : columns] * kernel[i, j, 0]
        for i in range(height)
        for j in range(width)
    )


class ConvTranspose(nn.Module):
    """torch.nn.ConvTranspose2d with a square kernel that is a multiple of the stride, without padding.

    [B, H, W, C] -> [B, H2, W2, features], H2 = (H - 1) stride + kernel. Computed as a convolution that makes each
    stride x stride block of the output from the (kernel / stride)^2 pixels that reach it: no zeros are multiplied.
    """

    features: int
    kernel: int
    stride: int
    bias: bool = True
    dtype: Dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = torch_uniform

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.features}"]:
        channels, size, stride = x.shape[-1], self.kernel, self.stride
        reach = size // stride
        kernel = self.param("transposed_kernel", self.kernel_init, (size, size, channels, self.features), jnp.float32)
        parts = kernel.reshape(reach, stride, reach, stride, channels, self.features)[::-1, :, ::-1]
        parts = parts.transpose(0, 2, 4, 1, 3, 5).reshape(reach, reach, channels, -1)
        pad = (reach - 1, reach - 1)
        x, parts = x.astype(self.dtype), parts.astype(self.dtype)
        y = jax.lax.conv_general_dilated(x, parts, (1, 1), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC"))
        batch, rows, columns, _ = y.shape
        y = y.reshape(batch, rows, columns, stride, stride, self.features).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, rows * stride, columns * stride, self.features)
        if self.bias:
            fan_in = self.features * size * size  # torch's, of a transposed kernel
            y += self.param("bias", torch_bias(fan_in), (self.features,), jnp.float32).astype(self.dtype)
        return y


def bilinear_kernel(key: Array, shape: tuple[int, int, int, int], dtype: Dtype) -> Float[Array, "k k c c"]:
    """Initialises ConvTranspose as bilinear upsampling of each channel by half the kernel's size, which is even.

    Source: upsample_filt of fcn.berkeleyvision.org's surgery.py.
    """
    size = shape[0]
    line = 1 - jnp.abs(jnp.arange(size) - (size - 1) / 2) / (size / 2)
    return (line[:, None, None, None] * line[None, :, None, None] * jnp.eye(*shape[2:])).astype(dtype)


PRODUCTS = ("conv_general_dilated", "dot_general")
REMAT = {"blocks": None, "products": lambda primitive, *_, **__: primitive.name in PRODUCTS}  # name -> what is kept


def rematted(block: type[nn.Module], remat: str) -> type[nn.Module]:
    """The module class `block`, whose activations the backward pass computes a second time.

    remat: "" recomputes nothing; "blocks" everything inside the block; "products" all but the results of convolutions
      and matrix products, so norms, activations and sums, which cost little arithmetic but much memory.
    """
    return nn.remat(block, policy=REMAT[remat]) if remat else block


def relu(x: Array) -> Array:
    """max(x, 0), with derivative 0 at 0."""
    return _relu_from_sum(x) if on_cpu() else nn.relu(x)


@jax.custom_jvp
def _relu_from_sum(x: Array) -> Array:
    """max(x, 0) as a sum, equal to the bit for finite x, which XLA computes once on CPU.

    XLA's fusion for CPUs recomputes an operation on a single array in each of its consumers, and so, pixel by pixel, a
    whole chain of residual blocks.
    """
    return jnp.maximum(-x, 0) + x


@_relu_from_sum.defjvp
def _relu_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = _relu_from_sum(*primals)
    return y, jnp.where(y > 0, tangents[0], 0)


def max_pool(
    x: Float[Array, "b h w c"], kernel: int, stride: int, pad: int, *, ceil: bool = False
) -> Float[Array, "b h2 w2 c"]:
    """torch.nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil), padded with -inf.

    The output size is rounded down; with `ceil` it is rounded up, if the last window still starts inside the image or
    its left padding. Of equal maxima the first in the window, row by row, takes the gradient.
    """
    rows, columns = (_pool_padding(size, kernel, stride, pad, ceil) for size in x.shape[1:3])
    if on_cpu() or on_gpu():
        return _max_pool_axis(_max_pool_axis(x, 2, kernel, stride, columns), 1, kernel, stride, rows)
    return nn.max_pool(x, (kernel, kernel), (stride, stride), (rows, columns))


def _pool_padding(size: int, kernel: int, stride: int, pad: int, ceil: bool) -> tuple[int, int]:
    """Padding of one axis before and after the image."""
    if not ceil:
        return pad, pad
    outputs = -(-(size + 2 * pad - kernel) // stride) + 1
    if (outputs - 1) * stride >= size + pad:
        outputs -= 1
    return pad, max(pad, (outputs - 1) * stride + kernel - size - pad)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool_axis(x: Array, axis: int, kernel: int, stride: int, pad: tuple[int, int]) -> Array:
    """Maxima over windows along one axis.

    The gradient of XLA's own maxima is slower: four times on CPU. On GPUs it writes four indices per maximum and adds
    by a scatter, in an order that varies from run to run.
    """
    return reduce(jnp.maximum, _taps(x, axis, kernel, stride, pad))


def _max_pool_axis_forward(x: Array, *args: Any) -> tuple[Array, tuple[Array, Array]]:
    y = _max_pool_axis(x, *args)
    return y, (x, y)


def _max_pool_axis_gradient(
    axis: int, kernel: int, stride: int, pad: tuple[int, int], residuals: tuple[Array, Array], dy: Array
) -> tuple[Array]:
    x, y = residuals
    free, dx = jnp.ones(y.shape, bool), 0
    for offset, tap in enumerate(_taps(x, axis, kernel, stride, pad)):
        first = free & (tap == y)
        free &= ~first
        span = (y.shape[axis] - 1) * stride + 1
        low = offset - pad[0]
        back = [(0, 0, 0)] * x.ndim
        back[axis] = (low, x.shape[axis] - low - span, stride - 1)
        dx += jax.lax.pad(jnp.where(first, dy, 0), jnp.zeros((), dy.dtype), back)
    return (dx,)


_max_pool_axis.defvjp(_max_pool_axis_forward, _max_pool_axis_gradient)


def _taps(x: Array, axis: int, kernel: int, stride: int, pad: tuple[int, int]) -> list[Array]:
    """The first, second, ... element of every window along `axis`, each of the output's shape."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = pad
    x = jnp.pad(x, padding, constant_values=-jnp.inf)
    span = (x.shape[axis] - kernel) // stride * stride + 1
    return [jax.lax.slice_in_dim(x, i, i + span, stride, axis) for i in range(kernel)]


def adaptive_avg_pool(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """torch.nn.AdaptiveAvgPool2d: bin i of k is the mean of rows floor(i H / k) to ceil((i + 1) H / k); columns alike.

    Bins overlap or repeat where H is no multiple of k.
    """
    return _adaptive_mean(_adaptive_mean(x, 1, height), 2, width)


def _adaptive_mean(x: Array, axis: int, bins: int) -> Array:
    size = x.shape[axis]
    if size == bins:
        return x
    spans = [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]
    means = [jnp.mean(jax.lax.slice_in_dim(x, low, high, axis=axis), axis=axis) for low, high in spans]
    return jnp.stack(means, axis=axis)


def flatten(x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
    """torch.flatten(x, 1) of the same activations: channels first, the order that dense weights expect."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


class BatchNorm(nn.Module):
    """torch.nn.BatchNorm2d over the last axis: normalises by the biased variance, averages the unbiased one.

    x [B, H, W, C] of any float type -> the same shape in `dtype`; statistics, scale and shift are float32.

    Args:
      train: with the batch's statistics, which update the running ones; otherwise with the running ones.
      axis_name: mesh axis, or axes; the statistics are those of the examples of all its devices
        (torch.nn.SyncBatchNorm). None: each device uses its own, as the ImageNet papers trained.
      frozen: torchvision's FrozenBatchNorm2d. The running statistics normalise in training too; scale and shift are no
        parameters, but constants next to them in batch_stats.
      momentum: torch's, the weight of the newest batch in the running statistics.

    With `counted`, only those rows of a batch have a part in its statistics; where they have less than two values per
    channel, the running ones stay as they are.

    Raises UserError, while it is traced, for training on one value per channel, as torch.nn.BatchNorm2d does.
    """

    train: bool
    axis_name: Axis | None = None
    frozen: bool = False
    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], counted: Bool[Array, "b"] | None = None) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        if self.frozen:
            scale = self.variable("batch_stats", "scale", self.scale_init, None, (channels,), jnp.float32).value
            bias = self.variable("batch_stats", "bias", jnp.zeros, (channels,), jnp.float32).value
        else:
            scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        if self.is_initializing():  # whose output nobody reads: it has to be of the right shape and type
            return x.astype(self.dtype)
        if self.train and not self.frozen:
            mean, var, count = moments(full_precision(x), self.axis_name, counted)
            momentum = self.momentum
            if counted is None:
                self._check_count(count, x.shape)
            else:
                momentum, count = jnp.where(count > 1, momentum, 0), jnp.maximum(count, 2)
            unbiased = var * (count / (count - 1))
            running_mean.value += momentum * (mean - running_mean.value)
            running_var.value += momentum * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value

        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (full_precision(x) * factor + (bias - mean * factor)).astype(self.dtype)

    @nn.nowrap
    def _check_count(self, count: int, shape: tuple[int, ...]) -> None:
        """Raises UserError for a single value, whose variance is always 0, which the running one would approach."""
        if count > 1:
            return
        shared = "" if self.axis_name else "set config.model.sync_bn=True where there are several devices, "
        raise UserError(
            f"batch norm {'.'.join(self.path)} has one value per channel to train on: {shape[0]} image per device and "
            f"micro-batch, whose map is {shape[1]} x {shape[2]} there. Raise config.batch_size or lower "
            f"config.accumulate to at least 2 images, {shared}or set config.model.frozen_bn=True"
        )
