"""Drawn detections."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from morphism.data import outlines
from morphism.data.image import for_display
from morphism.data.palette import palette
from morphism.data.records import Record, Source
from morphism.labels import IGNORE
from morphism.tasks.drawing import LABEL, plain_text, png

COLUMNS = 4
TINT = 0.5  # opacity of masks

Found = list[dict[str, Any]]  # "class", "score" and "box" of each detection
Box = Sequence[float] | np.ndarray  # x0, y0, x1, y1


@plain_text
def draw(source: Source, found: Sequence[tuple[int, Found, Found]], threshold: float, data: ConfigDict) -> bytes:
    """A PNG of images with their objects and detections; `found` holds id, shown and all detections per image.

    Each class has its colour. True boxes are dashed, with the class's name below; crowds and difficult ones are dotted.
    The class's name and the score stand above detections, and their masks, if they have some, are tinted.
    """
    rows = math.ceil(len(found) / COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(5.2 * COLUMNS, 4.2 * rows), layout="constrained", squeeze=False)
    colours = dict(zip(source.classes, np.resize(palette()[1:IGNORE] / 255, (len(source.classes), 3)), strict=True))
    for axis in axes.ravel():
        axis.axis("off")
    for axis, (index, shown, every) in zip(axes.ravel(), found, strict=False):
        record = source[index]
        _draw_image(axis, record, for_display(record, data), source.classes, shown, colours)
        axis.set_title(f"{Path(record['name']).name}: {len(shown)} of {len(every)}", fontsize=8)
    figure.suptitle(f"Detections that score at least {threshold:g}; true boxes dashed", fontsize=10)
    return png(figure, dpi=80)


def _draw_image(
    axis: Any, record: Record, image: np.ndarray, classes: Sequence[str], shown: Found, colours: dict[str, np.ndarray]
) -> None:
    height, width = image.shape[:2]
    axis.imshow(image, extent=(0, width, height, 0))  # the first pixel covers 0 to 1, as in boxes
    truth = record["annotations"]
    for box, number, ignored in zip(truth.boxes, truth.classes, truth.crowd | truth.difficult, strict=True):
        name = classes[number]
        draw_box(axis, box, colours[name], ":" if ignored else "--")
        label(axis, name, box, (height, width), colours[name], above=False)
    for each in reversed(shown):  # the best on top
        if "mask" in each:
            _draw_mask(axis, mask_of(each["mask"]), colours[each["class"]])
    for each in shown:
        draw_box(axis, each["box"], colours[each["class"]], "-")
        text = f"{each['class'][:LABEL]} {each['score']:.2f}"
        label(axis, text, each["box"], (height, width), colours[each["class"]], above=True)


def label(
    axis: Any, text: str, box: Box, size: tuple[int, int], colour: np.ndarray, above: bool, most: int = LABEL + 5
) -> None:
    """Writes `most` letters of `text` at the upper or lower edge of a box, on the side where the image has room."""
    (x0, y0, x1, y1), (height, width) = box, size
    room = 0.05 * height
    y = y0 if above else y1
    downwards = y < room if above else y < height - room
    left = x0 < 0.75 * width
    light = float(np.dot(colour, (0.299, 0.587, 0.114))) > 0.5  # luma: ITU-R BT.601
    axis.text(
        *(max(x0, 0) if left else min(x1, width), min(max(y, 0), height)),
        text[:most],
        fontsize=6,
        va="top" if downwards else "bottom",
        ha="left" if left else "right",
        color="black" if light else "white",
        clip_on=True,
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.5},
    )


def mask_of(outline: dict[str, Any]) -> UInt8[np.ndarray, "h w"]:
    """1 for pixels within an outline of `describe`, 0 for the others."""
    return outlines.mask(outline["counts"].encode(), outline["size"])


def _draw_mask(axis: Any, mask: UInt8[np.ndarray, "h w"], colour: np.ndarray) -> None:
    height, width = mask.shape
    tinted = np.concatenate([np.broadcast_to(colour, (height, width, 3)), TINT * mask[..., None]], axis=-1)
    axis.imshow(tinted, extent=(0, width, height, 0), interpolation="nearest")


def draw_box(axis: Any, box: Box, colour: np.ndarray, style: str) -> None:
    x0, y0, x1, y1 = box
    axis.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, linestyle=style, linewidth=1.5))
