"""RoI Align: crops box regions from feature maps and resamples them to a fixed size.

Each box is divided into size x size bins. The value of a bin is the mean of the map at points spread evenly over it,
interpolated bilinearly between the centres of the map's pixels. Boxes get no gradient, as in torchvision and
detectron2.

Source: He et al. 2017, "Mask R-CNN", section 3.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from morphism.ops.platform import on_tpu

CANONICAL = (224, 4)  # a box whose area is 224^2 pixels belongs to the level of stride 2^4
CHUNK = 16  # boxes that matrix products pool at a time


def roi_align(
    x: Float[Array, "b h w c"],
    boxes: Float[Array, "b n 4"],
    scale: float,
    size: int,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Float[Array, "b n {size} {size} c"]:
    """RoI Align on one feature map.

    Args:
      x: feature maps.
      boxes: x0, y0, x1, y1 in pixels of the image.
      scale: pixels of the map per pixel of the image.
      size: bins per side.
      sampling_ratio: points per bin along each axis; 0: ceil(side of the box in the map's pixels / size), so that
        points are at most a pixel apart.
      aligned: the centre of pixel (0, 0) is at (0.5, 0.5) / scale, as in detectron2. Otherwise, as in torchvision's
        detectors, it is at (0, 0), and boxes are taken to be at least one of the map's pixels wide and high.

    Points up to one pixel outside the map take the value of its edge, points further away 0.

    Source: torchvision.ops.roi_align, whose compiled kernels define the edges; detectron2's ROIAlign.
    """
    levels = jnp.zeros(boxes.shape[:2], jnp.int32)
    return _pooled((x,), (scale,), levels, boxes, size, sampling_ratio, aligned)


def multilevel_roi_align(
    maps: Sequence[Float[Array, "b _h _w c"]],
    boxes: Float[Array, "b n 4"],
    image_size: tuple[int, int],
    size: int,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Float[Array, "b n {size} {size} c"]:
    """RoI Align of each box on the level of a feature pyramid that suits the box's area.

    Args:
      maps: of images of `image_size`, finest first, each half as large as the one before; their scales are rounded to
        powers of two.
      boxes: x0, y0, x1, y1 in pixels of the image.
      image_size: height and width of the canvas in pixels.
      size, sampling_ratio, aligned: as in `roi_align`.

    Source: Lin et al. 2016, "Feature pyramid networks", equation 1; torchvision's MultiScaleRoIAlign.
    """
    strides = [round(math.log2(image_size[0] / x.shape[1])) for x in maps]
    levels = level_of(boxes, strides[0], strides[-1])
    return _pooled(tuple(maps), tuple(2.0**-stride for stride in strides), levels, boxes, size, sampling_ratio, aligned)


def level_of(boxes: Float[Array, "*n 4"], first: int, last: int) -> Int[Array, "*n"]:
    """The level that a box is pooled from, counted from 0, of levels with strides 2^first to 2^last pixels."""
    side = jnp.sqrt((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))
    pixels, level = CANONICAL
    level = jnp.floor(level + jnp.log2(side / pixels) + 1e-6)
    return (jnp.clip(level, first, last) - first).astype(jnp.int32)


def _pooled(
    maps: tuple[Array, ...],
    scales: tuple[float, ...],
    levels: Int[Array, "b n"],
    boxes: Float[Array, "b n 4"],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Array, "b n {size} {size} c"]:
    boxes = jax.lax.stop_gradient(boxes)
    pool = _by_products if sampling_ratio == 0 or on_tpu() else _gathered
    start, side = _spans(boxes, jnp.asarray(scales, boxes.dtype)[levels], aligned)
    return pool(maps, levels, start, side, size, sampling_ratio).astype(maps[0].dtype)


def _spans(boxes: Array, scale: Array, aligned: bool) -> tuple[Float[Array, "b n 2"], Float[Array, "b n 2"]]:
    """Start and side lengths of boxes as y, x in pixels of their map, where (0, 0) is a pixel's centre."""
    scaled = boxes * scale[..., None] - (0.5 if aligned else 0.0)
    start, end = scaled[..., 1::-1], scaled[..., :1:-1]
    side = end - start
    return start, side if aligned else jnp.maximum(side, 1)


def _gathered(
    maps: tuple[Array, ...], levels: Array, start: Array, side: Array, size: int, points: int
) -> Float[Array, "b n {size} {size} c"]:
    """Pooling with a fixed number of points: each box gathers (2 points)^2 pixels per bin from its own level.

    To that end all maps become one list of pixels. The pixels of a bin are added up one after the other, and so are
    their gradients: no intermediate array is larger than the result.
    """
    images, channels = levels.shape[0], maps[0].shape[-1]
    sizes = np.array([x.shape[1:3] for x in maps], np.int32)
    ends = np.append(0, np.cumsum(np.prod(sizes, axis=1))).astype(np.int32)
    last = jnp.zeros((images, 1, channels), maps[0].dtype)  # right neighbour of the last pixel, in a map 1 pixel wide
    pixels = jnp.concatenate([*(x.reshape(images, -1, channels) for x in maps), last], axis=1)
    height, width = (jnp.asarray(sizes[:, axis])[levels][..., None, None] for axis in (0, 1))
    first = jnp.asarray(ends[:-1])[levels] + pixels.shape[1] * jnp.arange(images)[:, None]

    position = (jnp.arange(size)[:, None] + (jnp.arange(points) + 0.5) / points) / size
    y, x = (start[..., axis, None, None] + position * side[..., axis, None, None] for axis in (0, 1))
    row, row_weights = _neighbours(y, height)
    column, column_weights = _neighbours(x, width)
    rows = jnp.concatenate([row, jnp.minimum(row + 1, height - 1)], axis=-1)
    rows = first[..., None, None] + rows * width
    row_weights = jnp.concatenate([row_weights[..., 0], row_weights[..., 1]], axis=-1)
    return _sum_of_pixels(pixels.reshape(-1, channels), rows, column, row_weights, column_weights)


def _by_products(
    maps: tuple[Array, ...], levels: Array, start: Array, side: Array, size: int, points: int
) -> Float[Array, "b n {size} {size} c"]:
    """Pooling by two matrix products, with the weights of rows and columns; points=0: as many as a box's sides require.

    The latter is exact for boxes up to `size` pixels longer than their map; for longer ones the points are further
    apart. Runs a few boxes at a time on every level, so that the work is proportional to the maps' pixels. The backward
    pass recomputes.
    """

    # Float32 maps are pooled in float32: that much a gather does not round either.
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

    def one_image(args: tuple) -> Array:
        maps, *boxes = args

        @jax.checkpoint
        def box(args: tuple[Array, Array, Array]) -> Float[Array, "s s c"]:
            level, start, side = args
            pooled = 0
            for number, x in enumerate(maps):
                rows, columns = (
                    _mean_of_points(start[axis], side[axis], size, points, x.shape[axis]) for axis in (0, 1)
                )
                here = jnp.where(level == number, rows, 0).astype(x.dtype)
                pooled += product("jw,iwc->ijc", columns.astype(x.dtype), product("ih,hwc->iwc", here, x))
            return pooled

        return jax.lax.map(box, tuple(boxes), batch_size=CHUNK)

    return jax.lax.map(one_image, (maps, levels, start, side))


def _mean_of_points(start: Array, side: Array, size: int, points: int, length: int) -> Float[Array, "{size} {length}"]:
    """The weight of each pixel of an axis in each bin."""
    most = points or -(-length // size) + 1
    count = points or jnp.minimum(jnp.ceil(side / size), most)
    point = jnp.arange(most)
    at = start + (jnp.arange(size)[:, None] + (point + 0.5) / jnp.maximum(count, 1)) * side / size
    counts = (point < count) & (at >= -1) & (at <= length)
    distance = jnp.abs(jnp.clip(at, 0, length - 1)[..., None] - jnp.arange(length))
    weights = jnp.where(counts[..., None], jnp.maximum(1 - distance, 0), 0)
    return jnp.sum(weights, axis=1) / jnp.maximum(count, 1)


def _neighbours(at: Float[Array, "*n"], length: Array) -> tuple[Int[Array, "*n"], Float[Array, "*n 2"]]:
    """The first of the two pixels next to each point, on an axis of `length` pixels, and the weights of both."""
    inside = (at >= -1) & (at <= length)
    at = jnp.clip(at, 0, length - 1)
    low = jnp.minimum(jnp.floor(at), jnp.maximum(length - 2, 0))
    weights = jnp.stack([1 - (at - low), at - low], axis=-1) / at.shape[-1]
    return low.astype(jnp.int32), jnp.where(inside[..., None], weights, 0)


@jax.custom_vjp
def _sum_of_pixels(
    pixels: Float[Array, "p c"],
    rows: Int[Array, "b n s k"],
    columns: Int[Array, "b n s m"],
    row_weights: Float[Array, "b n s k"],
    column_weights: Float[Array, "b n s m 2"],
) -> Float[Array, "b n s s c"]:
    """Bins i, j: the weighted sum over k, m of pixels rows[i, k] + columns[j, m] and their right neighbours."""
    out = 0
    for k in range(rows.shape[-1]):
        for m in range(columns.shape[-1]):
            index, weights = _pair(k, m, rows, columns, row_weights, column_weights)
            for side in (0, 1):
                out += pixels.at[index + side].get(mode="promise_in_bounds") * weights[..., side, None]
    return out


def _sum_of_pixels_forward(pixels: Array, *where: Array) -> tuple[Array, tuple]:
    return _sum_of_pixels(pixels, *where), (jnp.zeros((0, *pixels.shape), pixels.dtype), where)


def _sum_of_pixels_gradients(residuals: tuple, gradient: Float[Array, "b n s s c"]) -> tuple:
    """Gradients of the pixels, in a loop that holds one addend at a time and adds to two neighbours at once."""
    like, where = residuals
    ks, ms = where[0].shape[-1], where[1].shape[-1]
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(1, 2), inserted_window_dims=(), scatter_dims_to_operand_dims=(0,)
    )

    def add(step: int | Array, total: Array) -> Array:
        index, weights = _pair(step // ms, step % ms, *where)
        addend = weights[..., None] * gradient[..., None, :]
        return jax.lax.scatter_add(
            total,
            index.reshape(-1, 1),
            addend.reshape(-1, 2, gradient.shape[-1]),
            numbers,
            mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS,
        )

    total = add(0, jnp.zeros(like.shape[1:], gradient.dtype))
    total = jax.lax.fori_loop(1, ks * ms, add, total)
    return total.astype(like.dtype), None, None, None, None


_sum_of_pixels.defvjp(_sum_of_pixels_forward, _sum_of_pixels_gradients)


def _pair(
    k: int | Array, m: int | Array, rows: Array, columns: Array, row_weights: Array, column_weights: Array
) -> tuple[Int[Array, "b n s s"], Float[Array, "b n s s 2"]]:
    """The first pixel and the weights of both, of the pair in row k and column m of every bin."""
    index = rows[..., :, None, k] + columns[..., None, :, m]
    return index, row_weights[..., :, None, k, None] * column_weights[..., None, :, m, :]
