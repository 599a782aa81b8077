"""Marks on drawn samples: the colours and names of classes."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import ImageDraw

from morphism.data.palette import palette
from morphism.labels import IGNORE

Colour = tuple[int, int, int]


BACKGROUND = "background"  # a class of masks with this name is not painted
GROUND: Colour = (0, 0, 0)


def colours(classes: Iterable[Sequence[str]]) -> dict[str, Colour]:
    """A colour per name in the lists of `classes`, one list per target, in the order of the palette."""
    names = dict.fromkeys(name for each in classes for name in each if name != BACKGROUND)
    return {name: nth(index) for index, name in enumerate(names)} | {BACKGROUND: GROUND}


def nth(index: int) -> Colour:
    """The colour of number 0, 1, ... of the palette, without black and white; beyond them they repeat."""
    return tuple(palette()[1 + index % (IGNORE - 1)].tolist())


def write(
    pen: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], size: tuple[int, int], ground: Colour
) -> None:
    """Writes `text` on a `ground`, its top left at `corner`, moved if needed to stay within the image of `size`."""
    _, _, width, height = pen.textbbox((0, 0), text)
    x, y = (max(0, min(at, side - long - 3)) for at, side, long in zip(corner, size, (width, height), strict=True))
    pen.rectangle((x, y, x + width + 2, y + height + 1), fill=ground)
    light = np.dot(ground, (0.299, 0.587, 0.114)) > 127  # luma: ITU-R BT.601
    pen.text((x + 2, y), text, "black" if light else "white")
