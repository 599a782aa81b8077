"""Marks on drawn samples: the colours and names of classes."""

from collections.abc import Iterable, Sequence

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
