"""Where the cells of an object's mask lie in an image.

A mask has `cells` x `cells` values. Its upper left cell starts at the pixel that holds the upper left corner of the
object's box. A cell is as large as a pixel; for a box of more than `cells` pixels along an axis it is larger, so that
the mask covers the box. A cell has the value of the pixel that holds its middle. So masks of small objects are exact.
"""

from typing import Any

from jaxtyping import Float

Array = Any  # of NumPy or of JAX: the host makes masks and the device reads them


def frame(boxes: Float[Array, "*n 4"], cells: int) -> tuple[Float[Array, "*n 2"], Float[Array, "*n 2"]]:
    """The upper left corner (x, y) of each box's mask and the sides of its cells, in pixels."""
    xp = boxes.__array_namespace__()
    corner = xp.floor(boxes[..., :2])
    return corner, xp.maximum((xp.ceil(boxes[..., 2:]) - corner) / cells, 1)


def middles(boxes: Float[Array, "*n 4"], cells: int) -> Float[Array, "*n 2 cells"]:
    """Where the middles of the cells lie, in pixels: x of the columns of each box's mask, then y of its rows."""
    xp = boxes.__array_namespace__()
    corner, side = frame(boxes, cells)
    return corner[..., None] + side[..., None] * (xp.arange(cells, dtype=boxes.dtype) + 0.5)
