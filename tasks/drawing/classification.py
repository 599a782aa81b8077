"""Drawn classifications."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from ml_collections import ConfigDict

from morphism.data.examples import evaluated
from morphism.data.image import for_display, to_8_bits
from morphism.data.records import Source
from morphism.tasks.drawing import plain_text, png
from morphism.tasks.task import Predictions, spread

COLUMNS = 8
DRAWN = 3 * COLUMNS  # images per split
MISTAKES = 2 * COLUMNS
CELLS = 500  # most rows and columns of a drawn confusion matrix
RIGHT, WRONG = "#1a7f37", "#cf222e"


@plain_text
def draw(source: Source, predictions: Predictions, data: ConfigDict) -> bytes:
    """A PNG of images spread over a split, the most confident mistakes, and the confusion matrix.

    The predicted class and its confidence stand above each image, and below them the true class if it is another.
    """
    groups = _groups(predictions)
    heights = [math.ceil(len(rows) / COLUMNS) for _, rows in groups]
    figure = plt.figure(figsize=(1.55 * COLUMNS + 8, 1.75 * sum(heights) + 0.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.55 * COLUMNS, 8))
    for (title, rows), part in zip(
        groups, np.atleast_1d(left.subfigures(len(groups), 1, height_ratios=heights)), strict=False
    ):
        part.suptitle(title)
        axes = part.subplots(math.ceil(len(rows) / COLUMNS), COLUMNS, squeeze=False).ravel()
        for axis in axes:
            axis.axis("off")
        for axis, row in zip(axes, rows, strict=False):
            _draw_image(axis, source, predictions, int(row), data)
    _draw_confusion(right, predictions["label"], predictions["class"], source.classes)
    return png(figure, dpi=100)


def _groups(predictions: Predictions) -> list[tuple[str, np.ndarray]]:
    """Titles with their rows of `predictions`, without empty groups."""
    ids = predictions["id"]
    sample = np.argsort(ids)[spread(len(ids), DRAWN)]
    mistakes = np.flatnonzero(predictions["class"] != predictions["label"])
    worst = mistakes[np.argsort(-predictions["confidence"][mistakes])][:MISTAKES]
    groups = [
        (f"{len(sample)} of {len(ids):,} images", sample),
        (f"The {len(worst)} most confident of {len(mistakes)} mistakes", worst),
    ]
    return [(title, rows) for title, rows in groups if len(rows)]


def _draw_image(axis: Any, source: Source, predictions: Predictions, row: int, data: ConfigDict) -> None:
    predicted, label = predictions["class"][row], predictions["label"][row]
    record = source[int(predictions["id"][row])]
    is_cut = data.window_rule == "square"  # other windows show the whole image
    axis.imshow(to_8_bits(evaluated(record, data)) if is_cut else for_display(record, data))
    text = f"{source.classes[predicted]} {predictions['confidence'][row]:.0%}"
    text += "" if predicted == label else f"\nis {source.classes[label]}"
    axis.set_title(text, fontsize=8, color=RIGHT if predicted == label else WRONG)


def _draw_confusion(figure: Any, true: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> None:
    """Rows are true classes, cells shares of their row; names and numbers only where there is room to read them.

    If there are more than CELLS classes, neighbours share a row and a column.
    """
    side = min(len(classes), CELLS)
    pairs = true.astype(np.int64) * side // len(classes) * side + predicted.astype(np.int64) * side // len(classes)
    confusion = np.bincount(pairs, minlength=side**2).reshape(side, side)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(title="Confusion: rows true, columns predicted, % of the row")
    if len(classes) <= 30:
        axis.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
        axis.set_yticks(range(len(classes)), classes)
        for row, column in np.argwhere(shares >= 0.01):
            share = shares[row, column]
            color = "white" if share > 0.5 else "black"
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=color)
