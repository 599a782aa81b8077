"""Makes an image smaller together with the layers that are drawn over it, so that labels stay large enough to read."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from morphism.data import outlines
from morphism.tasks.layers import Layer, Object, Objects, Regions
from morphism.tasks.paste import encoded

Pixels = UInt8[np.ndarray, "_ _ 3"]
Size = tuple[int, int]  # height and width


def shrunk(pixels: Pixels, layers: Sequence[Layer], side: int) -> tuple[Pixels, list[Layer]]:
    """The image with its longer side `side` pixels long, and its layers; both unchanged if it is not longer."""
    before = pixels.shape[:2]
    if max(before) <= side:
        return pixels, list(layers)
    height, width = after = tuple(max(1, round(each * side / max(before))) for each in before)
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
    return small, [_shrunk(layer, before, after) for layer in layers]


def _shrunk(layer: Layer, before: Size, after: Size) -> Layer:
    if isinstance(layer, Regions):
        return layer._replace(map=layer.map[_nearest(before, after)])
    if isinstance(layer, Objects):
        return layer._replace(objects=[_shrunk_object(each, before, after) for each in layer.objects])
    return layer


def _shrunk_object(each: Object, before: Size, after: Size) -> Object:
    factors = 2 * [after[1] / before[1], after[0] / before[0]]
    box = [value * factor for value, factor in zip(each.box, factors, strict=True)]
    if each.outline is None:
        return each._replace(box=box)
    inside = outlines.mask(each.outline, before)[_nearest(before, after)] > 0
    # A mask between two sampled pixels is gone; what is left of its object is the box.
    return each._replace(box=box, outline=encoded(inside, (0, 0), after) if inside.any() else None)


def _nearest(before: Size, after: Size) -> tuple[Int[np.ndarray, "h 1"], Int[np.ndarray, "1 w"]]:
    """The row and column that each pixel of the smaller image shows."""
    return np.ix_(*(((np.arange(b) + 0.5) * a / b).astype(np.int64) for a, b in zip(before, after, strict=True)))
