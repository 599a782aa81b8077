"""Pictures of results."""

import math
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from ml_collections import ConfigDict

from data.boxes import IGNORE
from data.classification import evaluated
from data.image import decode
from data.sources import Source
from evaluation.masks import palette
from tasks import detection, segmentation

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = 8
DETECTION_COLUMNS = 4
CELLS = 500  # rows and columns that a drawn confusion matrix has at most
LEGEND = 40  # classes, beyond which their colours are not told
RIGHT, WRONG = "#1a7f37", "#cf222e"


def draw_classification(path: Path, source: Source, predictions: dict[str, np.ndarray], config: ConfigDict) -> None:
    """The first pictures of a split, the mistakes made with most confidence, and the confusion matrix, as one PNG.

    Each picture has its predicted class and confidence above; where that is wrong, the true class below it.
    What matplotlib's font lacks of a script is drawn as boxes.
    """
    ids, predicted, label = predictions["id"], predictions["class"], predictions["label"]
    first = np.argsort(ids)[: 3 * COLUMNS]
    mistakes = np.flatnonzero(predicted != label)
    worst = mistakes[np.argsort(-predictions["confidence"][mistakes])][: 2 * COLUMNS]
    groups = [
        (f"The first {len(first)}", first),
        (f"The {len(worst)} most confident of {len(mistakes)} mistakes", worst),
    ]
    groups = [(title, rows) for title, rows in groups if len(rows)]

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
            axis.imshow(evaluated(source[int(ids[row])], config.data))
            correct = predicted[row] == label[row]
            text = f"{source.classes[predicted[row]]} {predictions['confidence'][row]:.0%}"
            text += "" if correct else f"\nis {source.classes[label[row]]}"
            axis.set_title(text, fontsize=8, color=RIGHT if correct else WRONG)
    _draw_confusion(right, label, predicted, source.classes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_detection(path: Path, source: Source, predictions: dict[str, np.ndarray]) -> None:
    """The first pictures of a split with their objects and the detections worth notice, as one PNG.

    True boxes are white and dashed, crowds and difficult ones dotted; detections have a colour a class, with its name
    and the score.
    """
    first = np.argsort(predictions["id"])[: 3 * DETECTION_COLUMNS]
    rows = math.ceil(len(first) / DETECTION_COLUMNS)
    size = (5.2 * DETECTION_COLUMNS, 4.2 * rows)
    figure, axes = plt.subplots(rows, DETECTION_COLUMNS, figsize=size, layout="constrained", squeeze=False)
    colours = dict(zip(source.classes, plt.get_cmap("tab20")(np.linspace(0, 1, len(source.classes))), strict=True))
    for axis in axes.ravel():
        axis.axis("off")
    for axis, row in zip(axes.ravel(), first, strict=False):
        record = source[int(predictions["id"][row])]
        axis.imshow(decode(record["image"], record["name"])[0])
        axis.set_title(Path(record["name"]).name, fontsize=8)
        truth = record["annotations"]
        for box, ignored in zip(truth.boxes, truth.crowd | truth.difficult, strict=True):
            _draw_box(axis, box, "white", ":" if ignored else "--")
        for each in detection.describe(predictions, row, source.classes):
            colour = colours[each["class"]]
            _draw_box(axis, each["box"], colour, "-")
            text = f"{each['class']} {each['score']:.2f}"
            box = {"facecolor": colour, "edgecolor": "none", "pad": 0.5}
            axis.text(*each["box"][:2], text, fontsize=6, va="bottom", color="black", bbox=box)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_segmentation(path: Path, source: Source, batches: list[dict[str, np.ndarray]], count: int) -> None:
    """The first pictures of a split, each with its true classes, those found, and where they differ, as one PNG.

    Ignored pixels are white in all of them; the classes' colours stand below.
    """
    shown = [
        (int(batch["id"][row]), segmentation.mask(batch, row), batch["true"][row], batch["original_size"][row])
        for batch in batches
        for row in range(len(batch["id"]))
    ]
    shown = sorted(shown, key=lambda each: each[0])[:count]
    across = 2
    rows = math.ceil(len(shown) / across)
    figure, axes = plt.subplots(
        rows, 4 * across, figsize=(20, 20 / (4 * across) * rows + 1.5), layout="constrained", squeeze=False
    )
    for axis in axes.ravel():
        axis.axis("off")
    colours = palette()
    for place, (index, found, true, (height, width)) in enumerate(shown):
        record, true = source[index], true[:height, :width]
        ignored = true == IGNORE
        wrong = np.where(ignored[..., None], 255, np.where((found != true)[..., None], (207, 34, 46), 0)).astype(
            np.uint8
        )
        images = [decode(record["image"], record["name"])[0], colours[true], colours[np.where(ignored, IGNORE, found)]]
        row, column = divmod(place, across)
        for offset, image in enumerate([*images, wrong]):
            axes[row, 4 * column + offset].imshow(image)
        axes[row, 4 * column].set_title(Path(record["name"]).name, fontsize=8)
        if row == 0:
            for offset, title in enumerate(("true", "found", "wrong"), start=1):
                axes[row, 4 * column + offset].set_title(title, fontsize=8)
    if len(source.classes) <= LEGEND:
        patches = [plt.Rectangle((0, 0), 1, 1, color=colours[k] / 255) for k in range(len(source.classes))]
        figure.legend(patches, source.classes, loc="outside lower center", ncols=11, fontsize=8)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _draw_box(axis, box: np.ndarray, color, style: str) -> None:
    x0, y0, x1, y1 = box
    axis.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=color, linestyle=style, linewidth=1.5))


def _draw_confusion(figure, true: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> None:
    """Rows are true classes, in shares of the row; names and numbers only where they can be read.

    Of more than CELLS classes neighbours share a row and a column.
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
