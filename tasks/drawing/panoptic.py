"""Drawn panoptic results."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from morphism.data.image import for_display
from morphism.data.marks import BACKGROUND
from morphism.data.palette import palette
from morphism.data.records import Source
from morphism.labels import IGNORE
from morphism.tasks.drawing import LABEL, plain_text, png
from morphism.tasks.drawing.detection import draw_box, label
from morphism.tasks.drawing.segmentation import draw_legend
from morphism.tasks.panoptic_quality import Segments

COLUMNS = 3
TINT = 0.55  # opacity of regions


@plain_text
def draw(source: Source, found: Sequence[tuple[int, Segments, list[dict[str, Any]]]], data: ConfigDict) -> bytes:
    """A PNG of images with their segments; `found` holds id, segments and the things to label per image.

    Regions have the colours of their classes and white borders; background has no colour, and what is void is dark.
    Boxes of things are labelled with their id, class, score and agreement. A legend below shows the colours of the
    classes that occur.
    """
    rows = math.ceil(len(found) / COLUMNS)
    size = (6 * COLUMNS, 5 * rows + 1)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    categories = source.classes.names
    colours = np.resize(palette()[1:IGNORE], (len(categories), 3))  # as those of detections
    tints = np.array([0 if name == BACKGROUND else TINT for name in categories])
    occurring: set[int] = set()
    for axis, (index, segments, things) in zip(axes.ravel(), found, strict=False):
        record = source[index]
        occurring |= set(segments.classes[np.unique(segments.map[segments.map > 0]).astype(int) - 1].tolist())
        image = painted(for_display(record, data), segments, colours, tints)
        _draw_things(axis, image, things, dict(zip(source.classes.things, colours / 255, strict=False)))
        axis.set_title(f"{Path(record['name']).name}, things: {len(things)}", fontsize=8)
    named = [number for number in sorted(occurring) if tints[number]]
    draw_legend(figure, [categories[number] for number in named], list(colours[named]))
    figure.suptitle("Fused segments; of things the id, class, score, and share of pixels that agree", fontsize=10)
    return png(figure, dpi=80)


def painted(
    image: UInt8[np.ndarray, "h w 3"],
    segments: Segments,
    colours: UInt8[np.ndarray, "k 3"],
    tints: Float[np.ndarray, "k"],
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with each segment tinted in the colour of its class and outlined in white; what is void is dark.

    tints: the opacity of each class.
    """
    table = np.concatenate([np.zeros((1, 3), np.uint8), colours[segments.classes]])
    tint = np.append(TINT, tints[segments.classes])[segments.map][..., None]
    mixed = (1 - tint) * image + tint * table[segments.map]
    border = np.zeros(segments.map.shape, bool)
    border[:-1] |= segments.map[:-1] != segments.map[1:]
    border[:, :-1] |= segments.map[:, :-1] != segments.map[:, 1:]
    return np.where(border[..., None], 255, mixed).astype(np.uint8)


def _draw_things(
    axis: Any, image: UInt8[np.ndarray, "h w 3"], things: list[dict[str, Any]], colours: dict[str, np.ndarray]
) -> None:
    height, width = image.shape[:2]
    axis.imshow(image, extent=(0, width, height, 0))  # the first pixel covers 0 to 1, as in boxes
    for each in reversed(things):  # the best on top
        colour = colours[each["class"]]
        text = f"{each['id']} {each['class'][:LABEL]} {each['score']:.2f} {each['agreement']:.0%}"
        draw_box(axis, each["box"], colour, "-")
        label(axis, text, each["box"], (height, width), colour, above=True, most=len(text))
