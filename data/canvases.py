"""Which canvas of config.data.canvases each image is put on, and what becomes of images that none of them holds.

Each canvas is a program to compile. Where a recipe lists those to train on, an image that none of them holds is an
error; where it lists none, the images decide. Evaluation and prediction take images as they come: what no canvas holds
gets another, which changes nothing for the others.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism.errors import UserError

Shape = tuple[int, int]  # height, width

STEP = 32  # pixels: the sides of canvases that are added are multiples, as the networks' strides want them


def listed(data: ConfigDict) -> list[Shape]:
    """config.data.canvases, smallest first; without any the square of config.data.image_size."""
    shapes = data.canvases or ((data.image_size, data.image_size),)
    return sorted(map(tuple, shapes), key=lambda shape: shape[0] * shape[1])


def smallest(shapes: list[Shape], sizes: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n"]:
    """The position of the first of `shapes` that holds each of `sizes`, -1 where none does."""
    holds = (sizes[:, None] <= np.array(shapes)[None]).all(axis=-1)
    return np.where(holds.any(axis=1), holds.argmax(axis=1), -1)


def with_others(shapes: list[Shape], sizes: Int[np.ndarray, "n 2"]) -> list[Shape]:
    """`shapes`, and behind them what `sizes` that none of them holds need.

    That is a canvas of `shapes` turned by a quarter, where it holds the size, else one as large as the largest of the
    landscapes left, and one for the portraits.
    """
    shapes = list(shapes)
    turned = [(width, height) for height, width in shapes if (width, height) not in shapes]
    left = sizes[smallest(shapes, sizes) < 0]
    if turned and len(left):
        held = smallest(turned, left)
        shapes += [turned[position] for position in np.unique(held[held >= 0])]
        left = left[held < 0]
    portrait = left[:, 0] > left[:, 1]
    for each in (left[~portrait], left[portrait]):
        if len(each):
            height, width = (-(-each.max(axis=0) // STEP) * STEP).tolist()
            shapes.append((height, width))
    return shapes


def check_held(
    shapes: list[Shape], stored: Int[np.ndarray, "n 2"], resized: Int[np.ndarray, "n 2"], name: Callable[[int], str]
) -> None:
    """Raises UserError where none of `shapes` holds an image; name(k) is what it is called. Sizes are height, width."""
    unheld = np.flatnonzero(smallest(shapes, resized) < 0)
    if not len(unheld):
        return
    height, width = stored[unheld[0]].tolist()
    needed = [tuple(map(int, shape)) for shape in with_others(shapes, resized)]
    raise UserError(
        f"{name(int(unheld[0]))}: {height} x {width} (height x width), becomes "
        f"{resized[unheld[0]][0]} x {resized[unheld[0]][1]}, which no canvas of config.data.canvases holds: {shapes}; "
        f"set config.data.canvases='{tuple(needed)}', or resize=fit"
    )


def others_note(shapes: list[Shape], sizes: Int[np.ndarray, "n 2"]) -> str:
    """Tells of canvases beyond `shapes`; "" where there are none."""
    added = with_others(shapes, sizes)[len(shapes) :]
    if not added:
        return ""
    count, names = int((smallest(shapes, sizes) < 0).sum()), ", ".join(f"{h} x {w}" for h, w in added)
    these = f"images of {count:,} size{'s' * (count > 1)}"
    return f"{these} are larger than the canvases and get others: {names} (height x width)"
