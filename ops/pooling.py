"""Max-pooling that remembers where its maxima were, and what puts values back there.

Windows do not overlap, so that a position within its window says all: neither direction gathers or scatters.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


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
