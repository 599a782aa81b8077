"""Positions of the maxima of a max-pooling, its inverse, and average pooling of the valid part of a map.

Windows of the max-pooling do not overlap, so that a position within its window is enough: neither direction gathers or
scatters.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def max_pool_positions(x: Float[Array, "b h w c"], kernel: int = 2) -> Int[Array, "b h2 w2 c"]:
    """Position of each maximum of max_pool(x, kernel, kernel, 0) in its window, counted row by row from 0; int8.

    Of equal maxima the first counts. Rows and columns left over at the end belong to no window.

    Source: the indices of torch.nn.MaxPool2d(kernel, return_indices=True), which counts them in the whole image.
    """
    batch, height, width, channels = x.shape
    height, width = height // kernel, width // kernel
    windows = x[:, : height * kernel, : width * kernel].reshape(batch, height, kernel, width, kernel, channels)
    windows = windows.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height, width, channels, kernel * kernel)
    return jnp.argmax(windows, axis=-1).astype(jnp.int8)


def max_unpool(
    x: Float[Array, "b h2 w2 c"], positions: Int[Array, "b h2 w2 c"], height: int, width: int, kernel: int = 2
) -> Float[Array, "b {height} {width} c"]:
    """A map of height x width with each value at its position in its kernel x kernel window, zeros elsewhere.

    Source: torch.nn.MaxUnpool2d(kernel) with output_size; Badrinarayanan et al. 2015, "SegNet", section 3.
    """
    batch, rows, columns, channels = x.shape
    taps = jnp.arange(kernel * kernel, dtype=positions.dtype).reshape(1, 1, kernel, 1, kernel, 1)
    spread = jnp.where(positions[:, :, None, :, None] == taps, x[:, :, None, :, None], 0)
    spread = spread.reshape(batch, rows * kernel, columns * kernel, channels)
    return jnp.pad(spread, ((0, 0), (0, height - rows * kernel), (0, width - columns * kernel), (0, 0)))


def mean_of_parts(
    x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"], height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """Adaptive average pooling of the top left part of each map, of `sizes` = height, width, to height x width bins.

    Bins are those of torch.nn.AdaptiveAvgPool2d on that part alone: bin i of k is the mean of rows floor(i H / k) to
    ceil((i + 1) H / k); columns alike. Sums are float32 (float64 for float64 maps), the result has the type of `x`.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    down, across = (
        _bins(sizes[:, axis], bins, x.shape[axis + 1]) for axis, bins in enumerate((height, width))
    )  # zeros and ones, which are exact in any type
    options = {"precision": "highest", "preferred_element_type": dtype}
    total = jnp.einsum("bih,bhwc->biwc", down.astype(x.dtype), x, **options)
    total = jnp.einsum("bjw,biwc->bijc", across.astype(dtype), total, **options)
    count = jnp.sum(down, axis=-1)[:, :, None] * jnp.sum(across, axis=-1)[:, None, :]
    return (total / count[..., None]).astype(x.dtype)


def _bins(size: Int[Array, "b"], bins: int, length: int) -> Bool[Array, "b {bins} {length}"]:
    """Which of `length` pixels belong to each bin, where the first `size` pixels are divided into `bins`."""
    size, number, cell = size[:, None, None], jnp.arange(bins)[:, None], jnp.arange(length)
    return (cell >= number * size // bins) & (cell < -(-(number + 1) * size // bins))
