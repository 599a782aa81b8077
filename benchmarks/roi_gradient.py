"""RoI Align's forward pass, and its gradient in four formulations, at the sizes of Faster R-CNN's training.

    python benchmarks/roi_gradient.py [--size 800x1344] [--batch 2] [--boxes 512] [--channels 256] [--rounds 20]

scatter-add: ops/roi_align.py, a loop of indexed additions. XLA may add in any order on a GPU, and one after the other
with config.deterministic.
sorted segments: all addends sorted by their pixel, then summed.
products: the weights of rows and columns as dense matrices; the gradient is two matrix products per level, over all
boxes on every level, the others' weights being 0. Its order of addition does not vary.
products in chunks: the form for TPUs of ops/roi_align.py: a few boxes at a time; the forward pass is recomputed.

`difference` is the largest one from scatter-add's gradient, relative to its largest value. Medians over rounds.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import turns
from jaxtyping import Array, Float

from morphism.ops import roi_align as ops
from morphism.ops.platform import as_tpu

STRIDES, BINS, POINTS = (4, 8, 16, 32), 7, 2


def drawn(args: argparse.Namespace, dtype: jnp.dtype) -> tuple[list[Array], Array, Array]:
    """Maps of a pyramid, boxes [B,N,4] of all levels, and a gradient of their pooled features."""
    rng = np.random.default_rng(0)
    height, width = args.size
    shapes = [(args.batch, -(-height // each), -(-width // each), args.channels) for each in STRIDES]
    maps = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    area = np.exp2(rng.uniform(8, 18, (args.batch, args.boxes, 1)))  # 16 to 512 pixels a side
    ratio = np.exp2(rng.uniform(-1, 1, area.shape))
    side = np.concatenate([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=-1)
    corner = rng.uniform(0, 1, side.shape) * np.maximum([width, height] - side, 1)
    boxes = np.concatenate([corner, corner + side], axis=-1).clip(0, [width, height] * 2)
    gradient = rng.normal(size=(args.batch, args.boxes, BINS, BINS, args.channels))
    return maps, jnp.asarray(boxes, jnp.float32), jnp.asarray(gradient, dtype)


def pooled(maps: list[Array], boxes: Array, size: tuple[int, int]) -> Array:
    return ops.multilevel_roi_align(maps, boxes, size, BINS, POINTS)


def by_scatter_add(maps: list[Array], boxes: Array, gradient: Array, size: tuple[int, int]) -> list[Array]:
    return jax.vjp(lambda *maps: pooled(list(maps), boxes, size), *maps)[1](gradient)


def placed(boxes: Array) -> tuple[Array, Array, Array]:
    """The level of each box, and its start and side lengths there, as y, x."""
    levels = ops.level_of(boxes, 2, 5)
    return levels, *ops._spans(boxes, jnp.asarray([1 / each for each in STRIDES], boxes.dtype)[levels], aligned=False)


def positions(start: Array, side: Array) -> Float[Array, "*n bins points"]:
    """The points of each bin along one axis, in pixels of the map."""
    at = (jnp.arange(BINS)[:, None] + (jnp.arange(POINTS) + 0.5) / POINTS) / BINS
    return start[..., None, None] + at * side[..., None, None]


def by_products(maps: list[Array], boxes: Array, gradient: Array, size: tuple[int, int]) -> list[Array]:
    levels, start, side = placed(boxes)
    found = []
    for number, x in enumerate(maps):
        rows, columns = (
            jax.vmap(jax.vmap(partial(ops._mean_of_points, size=BINS, points=POINTS, length=x.shape[1 + axis])))(
                start[..., axis], side[..., axis]
            )
            for axis in (0, 1)
        )
        rows = jnp.where((levels == number)[..., None, None], rows, 0)
        half = jnp.einsum("bnih,bnijc->bnhjc", rows.astype(x.dtype), gradient)
        found.append(jnp.einsum("bnjw,bnhjc->bhwc", columns.astype(x.dtype), half))
    return found


def by_sorted_segments(maps: list[Array], boxes: Array, gradient: Array, size: tuple[int, int]) -> list[Array]:
    levels, start, side = placed(boxes)
    shapes = np.array([x.shape[1:3] for x in maps], np.int32)
    ends = np.append(0, np.cumsum(shapes.prod(axis=1))).astype(np.int32)
    indices, factors = [], []
    for axis in (0, 1):
        length = jnp.asarray(shapes[:, axis])[levels][..., None, None]
        low, weight = ops._neighbours(positions(start[..., axis], side[..., axis]), length)
        both = jnp.stack([low, jnp.minimum(low + 1, length - 1)], axis=-1)
        indices.append(both.reshape(*both.shape[:-2], -1))  # [b, n, bins, points x 2]
        factors.append(weight.reshape(*both.shape[:-2], -1))
    width = jnp.asarray(shapes[:, 1])[levels][..., None, None, None, None]
    image = ends[-1] * jnp.arange(len(boxes))[:, None] + jnp.asarray(ends[:-1])[levels]
    rows, columns = indices[0][:, :, :, None, :, None], indices[1][:, :, None, :, None, :]
    pixel = image[..., None, None, None, None] + rows * width + columns
    factor = factors[0][:, :, :, None, :, None] * factors[1][:, :, None, :, None, :]
    each = pixel.shape[-2] * pixel.shape[-1]
    order = jnp.argsort(pixel.reshape(-1))
    flat = gradient.reshape(-1, gradient.shape[-1])
    addends = flat[order // each] * factor.reshape(-1)[order, None].astype(flat.dtype)
    total = jax.ops.segment_sum(
        addends, pixel.reshape(-1)[order], num_segments=len(boxes) * int(ends[-1]), indices_are_sorted=True
    )
    total = total.reshape(len(boxes), int(ends[-1]), -1)
    return [total[:, a:b].reshape(x.shape) for x, a, b in zip(maps, ends, ends[1:], strict=False)]


def by_products_in_chunks(maps: list[Array], boxes: Array, gradient: Array, size: tuple[int, int]) -> list[Array]:
    with as_tpu():
        return by_scatter_add(maps, boxes, gradient, size)


GRADIENTS = {
    "scatter-add": by_scatter_add,
    "sorted segments": by_sorted_segments,
    "products": by_products,
    "products in chunks": by_products_in_chunks,
}


def measured(args: argparse.Namespace, dtype: str, options: dict | None = None) -> list[turns.Row]:
    """A row for the forward pass and each formulation of the gradient; `options` are the compiler's."""
    maps, boxes, gradient = drawn(args, jnp.dtype(dtype))
    rows, expected = [], None

    def timed(function: Callable, *arrays: Array) -> tuple[turns.Row, Array]:
        run = jax.jit(function, compiler_options=options)
        found = jax.block_until_ready(run(*arrays))
        medians = turns.medians({"run": lambda: jax.block_until_ready(run(*arrays))}, args.rounds)
        return {"ms": 1e3 * medians["run"]["wall"]}, found

    row, _ = timed(lambda maps, boxes: pooled(maps, boxes, args.size), maps, boxes)
    rows.append({"what": f"RoI Align, {dtype}", "who": "forward", **row})
    for name, function in GRADIENTS.items():
        call = lambda maps, boxes, gradient, function=function: function(maps, boxes, gradient, args.size)  # noqa: E731
        row, found = timed(call, maps, boxes, gradient)
        found = [np.asarray(x, np.float32) for x in found]
        expected = expected or found
        largest = max(np.abs(x).max() for x in expected)
        apart = max(np.abs(x - y).max() for x, y in zip(found, expected, strict=True))
        rows.append({"what": f"RoI Align, {dtype}", "who": name, **row, "difference": float(apart / largest)})
    return rows


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=turns.sides, default="800x1344", help="height x width of the images")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--boxes", type=int, default=512)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "roi_gradient.json")
    return parser


def main() -> None:
    args = make_parser().parse_args()
    rows = measured(args, args.dtype)
    print(f"{jax.devices()[0].device_kind}, {args.dtype}, medians of {args.rounds}")
    for row in rows:
        print(f"{row['who']:18}{row['ms']:10.2f} ms{row.get('difference', 0):12.1e}")
    turns.save(args.output, {"device": jax.devices()[0].device_kind, "rows": rows})


if __name__ == "__main__":
    main()
