"""Max-pooling that remembers where its maxima were, with its inverse; and means of the part of a map that is image.

Windows of the max-pooling do not overlap, so a position within its window says all: neither direction gathers or
scatters.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def max_pool_positions(x: Float[Array, "b h w c"], kernel: int = 2) -> Int[Array, "b h2 w2 c"]:
    """Where in its window, counted row by row from 0, each maximum of max_pool(x, kernel, kernel, 0) is; int8.

    Of equal maxima the first. Rows and columns left over at the end belong to no window.
    Source: the indices of torch.nn.MaxPool2d(kernel, return_indices=True), there counted in the whole picture.
    """
    batch, height, width, channels = x.shape
    height, width = height // kernel, width // kernel
    windows = x[:, : height * kernel, : width * kernel].reshape(batch, height, kernel, width, kernel, channels)
    windows = windows.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height, width, channels, kernel * kernel)
    return jnp.argmax(windows, axis=-1).astype(jnp.int8)


def max_unpool(
    x: Float[Array, "b h2 w2 c"], positions: Int[Array, "b h2 w2 c"], height: int, width: int, kernel: int = 2
) -> Float[Array, "b {height} {width} c"]:
    """Every value at its position in a window of kernel x kernel, zeros elsewhere, in a map of height x width.

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
    """Means over height x width bins of each example's part of `sizes` at the top left, in x's own type.

    Bins are those of torch.nn.AdaptiveAvgPool2d on the part alone: bin i of k is the mean of rows floor(i H / k) to
    ceil((i + 1) H / k); columns alike. Sums are float32, or float64 where that is computed with.
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
    """Which of `length` cells lie in each of the bins that `size` of them are divided into."""
    size, number, cell = size[:, None, None], jnp.arange(bins)[:, None], jnp.arange(length)
    return (cell >= number * size // bins) & (cell < -(-(number + 1) * size // bins))
