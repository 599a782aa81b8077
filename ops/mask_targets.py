"""The masks that a mask head is trained on: objects' masks, cropped to boxes and resampled to a fixed size."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from morphism.frames import frame


def project_masks(
    cells: Bool[Array, "b n m m"],
    objects: Float[Array, "b n 4"],
    boxes: Float[Array, "b n 4"],
    sizes: Int[Array, "b 2"],
    bins: int,
) -> Float[Array, "b n {bins} {bins}"]:
    """RoI Align of each object's mask, as a map of the image's pixels, in a box: values in 0..1.

    As torchvision makes them: not aligned, at a scale of 1, points at most a pixel apart. No map is made: RoI Align is
    a sum over rows of sums over columns, so that weights [bins, m] of each axis are enough. The result is exact for
    objects of at most m pixels per side; of larger ones each pixel has the value of the cell that holds its middle.

    Args:
      cells: of the masks, in the frame of `objects` (frames.py).
      objects: boxes of the objects, as the batch holds them.
      boxes: where to crop.
      sizes: height and width of each image.
      bins: per side.

    Source: torchvision's project_masks_on_boxes.
    """
    count, (corner, cell) = cells.shape[-1], frame(objects, cells.shape[-1])
    rows, columns = (
        _weights(boxes[..., axis::2], sizes[:, 1 - axis], corner[..., axis], cell[..., axis], bins, count)
        for axis in (1, 0)
    )
    rows, columns = jax.lax.stop_gradient((rows, columns))
    return jnp.einsum("bnim,bnmk,bnjk->bnij", rows, cells.astype(rows.dtype), columns, precision="highest")


def _weights(
    span: Float[Array, "b n 2"],
    edge: Int[Array, "b"],
    corner: Float[Array, "b n"],
    cell: Float[Array, "b n"],
    bins: int,
    cells: int,
) -> Float[Array, "b n {bins} {cells}"]:
    """The weight of each cell of an axis in each bin.

    A bin is the mean of points spread evenly over it, and a point is interpolated between the middles of two pixels.

    Args:
      span: start and end of each box, in pixels.
      edge: number of the image's pixels.
      corner, cell: start of the masks and the size of their cells, in pixels.
      bins: per box.
      cells: per mask.
    """
    span = jax.lax.stop_gradient(span)
    start, side = span[..., 0], jnp.maximum(span[..., 1] - span[..., 0], 1)
    points = jnp.ceil(side / bins)
    last = edge[:, None, None].astype(span.dtype) - 1

    def add(point: int | Int[Array, ""], total: Array) -> Array:
        share = (point + 0.5) / points
        at = start[..., None] + (jnp.arange(bins) + share[..., None]) * (side / bins)[..., None]
        inside = (point < points)[..., None] & (at >= -1) & (at <= last + 1)
        at = jnp.clip(at, 0, last)
        low = jnp.floor(at)
        for pixel, weight in ((low, 1 - (at - low)), (low + 1, at - low)):
            number = jnp.floor((pixel + 0.5 - corner[..., None]) / cell[..., None])
            here = inside[..., None] & (number[..., None] == jnp.arange(cells))
            total += jnp.where(here, weight[..., None], 0)
        return total

    # A loop, since the number of points depends on the boxes; its first round has the type of all others.
    total = add(0, jnp.zeros((), span.dtype))
    total = jax.lax.fori_loop(1, jnp.max(points, initial=1).astype(jnp.int32), add, total)
    return total / points[..., None, None]
