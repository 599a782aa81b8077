"""How a segmenter sees an image in evaluation: whole or by windows, once, mirrored, or at several scales."""

import itertools
from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from morphism.ops.resize import resize_bilinear

VIEWS = ("center", "flip", "scales", "scales_flip")
FRACTION = 2 / 3  # of a window that the next one is further on: mmsegmentation's stride of its window


def infer(
    apply: Callable[[Array, Array], dict[str, Array]],
    images: Float[Array, "b h w 3"],
    sizes: Int[Array, "b 2"],
    data: ConfigDict,
    views: str,
) -> dict[str, Float[Array, "b h w k"]]:
    """{"out": logits at the images' size}, of the whole images or by config.data.window, from `views` of them.

    apply(images, sizes) are the network's outputs; of each canvas `sizes` are image, at the top left. flip: they and
    their mirror images. scales: they at config.data.view_scales of their size. With several views the result is the
    logarithm of the mean of their softmax probabilities. Views and windows of one size run one after the other, so that
    a program holds the network once for each scale, and logits of two views at most.
    """

    def logits(images: Array, sizes: Array) -> Array:
        return _by_window(apply, images, sizes, tuple(data.window)) if data.window else apply(images, sizes)["out"]

    if views == "center":
        return {"out": logits(images, sizes)}
    canvas, found = images.shape[1:3], []
    for scale in data.view_scales if views.startswith("scales") else (1.0,):
        scaled_canvas = tuple(max(1, round(side * scale)) for side in canvas)
        x = resize_bilinear(images, *scaled_canvas)
        scaled = -(-sizes * jnp.array(scaled_canvas) // jnp.array(canvas))
        if views.endswith("flip"):
            pair = jax.lax.map(lambda x: logits(x, scaled), jnp.stack([x, mirrored(x, scaled)]))  # noqa: B023
            each = [pair[0], mirrored(pair[1], scaled)]
        else:
            each = [logits(x, scaled)]
        found += [jax.nn.log_softmax(resize_bilinear(x, *canvas)) for x in each]
    return {"out": reduce(jnp.logaddexp, found) - jnp.log(len(found))}


def mirrored(x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"]) -> Float[Array, "b h w c"]:
    """The part of `sizes` at the top left of each map mirrored where it is, left to right; the rest as it was."""
    columns, width = jnp.arange(x.shape[2]), sizes[:, 1:]
    columns = jnp.where(columns < width, width - 1 - columns, columns)
    return jnp.take_along_axis(x, columns[:, None, :, None], axis=2)


def _by_window(
    apply: Callable, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"], window: tuple[int, int]
) -> Float[Array, "b h w k"]:
    """Windows side by side, each two thirds on from the one before, the last ones at the end: the mean of their logits.

    They run one after the other, in a loop, so that the program holds the network once: written out it would hold 124
    of it for Cityscapes's windows, scales and mirror images. On CPU too, where convolutions as large as a window's use
    all threads within a loop. Source: mmsegmentation's slide_inference.
    """
    canvas = images.shape[1:3]
    window = tuple(min(side, length) for side, length in zip(window, canvas, strict=True))
    starts = list(itertools.product(*(window_starts(*each) for each in zip(canvas, window, strict=True))))
    if len(starts) == 1:
        return apply(images, sizes)["out"]
    count = np.zeros((*canvas, 1), np.float32)
    for top, left in starts:
        count[top : top + window[0], left : left + window[1]] += 1

    def logits(corner: Int[Array, "2"]) -> Array:
        part = jax.lax.dynamic_slice(images, (0, *corner, 0), (len(images), *window, images.shape[3]))
        return apply(part, jnp.clip(sizes - corner, 1, jnp.array(window)))["out"]

    def add(total: Array, corner: Int[Array, "2"]) -> tuple[Array, None]:
        found, where = logits(corner), (0, *corner, 0)
        before = jax.lax.dynamic_slice(total, where, found.shape)
        return jax.lax.dynamic_update_slice(total, before + found, where), None

    corners = jnp.array(starts)
    like = jax.eval_shape(logits, corners[0])
    total, _ = jax.lax.scan(add, jnp.zeros((*images.shape[:3], like.shape[-1]), like.dtype), corners)
    return total / count


def window_starts(length: int, side: int) -> list[int]:
    """Where windows of `side` begin along `length`, so that they cover it."""
    stride = max(1, int(side * FRACTION))
    count = max(0, -(-(length - side) // stride)) + 1
    return [min(index * stride, length - side) for index in range(count)]
