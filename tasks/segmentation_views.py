"""How a segmenter sees an image in evaluation: whole or in windows, once, mirrored, or at several scales."""

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
STRIDE = 2 / 3  # from one window to the next, as a fraction of the window; as in mmsegmentation


def infer(
    apply: Callable[[Array, Array], dict[str, Array]],
    images: Float[Array, "b h w 3"],
    sizes: Int[Array, "b 2"],
    data: ConfigDict,
    views: str,
) -> dict[str, Float[Array, "b h w k"]]:
    """{"out": logits at the images' size}, or the logarithm of the mean softmax probabilities of several views.

    Views and windows of one size run one after the other, so that a program holds the network once per scale, and the
    logits of at most two views.

    Args:
      apply: the network: (images, sizes) -> outputs.
      images: canvases with an image at the top left.
      sizes: heights and widths of the images.
      data: config.data. `window` is the size of windows, () for whole images; `view_scales` are factors of the size.
      views: flip adds mirror images; scales and scales_flip see images at `view_scales` of their size.
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
    """Mirrors the part of `sizes` at the top left of each map, left to right, in place; the rest stays."""
    columns, width = jnp.arange(x.shape[2]), sizes[:, 1:]
    columns = jnp.where(columns < width, width - 1 - columns, columns)
    return jnp.take_along_axis(x, columns[:, None, :, None], axis=2)


def _by_window(
    apply: Callable, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"], window: tuple[int, int]
) -> Float[Array, "b h w k"]:
    """The mean of the logits of windows that cover the images and overlap by a third.

    A loop runs one window at a time, so that the program holds the network once: unrolled, it would hold 124 copies for
    Cityscapes's windows, scales and mirror images. On CPU it costs nothing, since convolutions as large as a window's
    use all threads within a loop too.

    Source: mmsegmentation's slide_inference.
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
        part = jax.lax.dynamic_slice(images, (0, *corner, 0), (images.shape[0], *window, images.shape[3]))
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
    """Where windows of `side` start along `length` so that they cover it, in pixels."""
    stride = max(1, int(side * STRIDE))
    count = max(0, -(-(length - side) // stride)) + 1
    return [min(index * stride, length - side) for index in range(count)]
