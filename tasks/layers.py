"""What is drawn over an image, of predictions and truth alike: tags, objects, regions (tasks/drawing/annotate.py).

Positions are in pixels of the decoded image. `classes` are the names of all classes that could occur in a layer: a
class then has the same colour in every image.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer, UInt8

from morphism.data.annotations import Annotations
from morphism.data.outlines import Outlines
from morphism.labels import IGNORE

VOID = -1


class Tag(NamedTuple):
    """What is said of the whole image: classes, best first, or other text; with scores, which truth does not have.

    of: the part of a task.
    """

    classes: Sequence[str]
    lines: Sequence[tuple[str, float | None]]
    of: str = ""


class Object(NamedTuple):
    """A detected or true object.

    number: of its class. score: None for truth. outline: compressed run lengths, or None. framed: whether its box is
    drawn, in dashes if it is `ignored`: a crowd, or difficult.
    """

    number: int
    score: float | None
    box: Sequence[float]
    outline: bytes | None = None
    framed: bool = True
    ignored: bool = False


class Objects(NamedTuple):
    """The objects to draw, best first."""

    classes: Sequence[str]
    objects: Sequence[Object]


class Regions(NamedTuple):
    """The segment of each pixel, and the class of each segment, VOID for none."""

    classes: Sequence[str]
    map: Integer[np.ndarray, "h w"]
    kinds: Int[np.ndarray, "n"]


Layer = Tag | Objects | Regions


def of_mask(classes: Sequence[str], mask: UInt8[np.ndarray, "h w"]) -> Regions:
    """The regions of a class per pixel; ignored ones are void."""
    kinds = np.full(IGNORE + 1, VOID)
    kinds[: len(classes)] = np.arange(len(classes))[:IGNORE]
    return Regions(classes, mask, kinds)


def of_objects(classes: Sequence[str], objects: Annotations, outlines: Outlines | None = None) -> Objects:
    """True objects. Those whose outline is known are drawn without their box."""
    known = [outlines[row] or None if outlines else None for row in range(len(objects))]
    rows = zip(objects.classes.tolist(), objects.boxes.tolist(), known, strict=True)
    ignored = (objects.crowd | objects.difficult).tolist()
    found = [
        Object(number, None, box, outline, framed=outline is None, ignored=each)
        for (number, box, outline), each in zip(rows, ignored, strict=True)
    ]
    return Objects(classes, found)


def of_detections(classes: Sequence[str], shown: Sequence[dict[str, Any]]) -> Objects:
    """Detections as `describe` returns them. Those with masks are drawn without their box."""
    numbers = {name: number for number, name in enumerate(classes)}
    outlines = [each["mask"]["counts"].encode() if "mask" in each else None for each in shown]
    found = [
        Object(numbers[each["class"]], each["score"], each["box"], outline, framed=outline is None)
        for each, outline in zip(shown, outlines, strict=True)
    ]
    return Objects(classes, found)
