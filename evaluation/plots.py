"""Pictures of results."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ml_collections import ConfigDict

from morphism.data.examples import evaluated
from morphism.data.image import for_display, to_8_bits
from morphism.data.records import Source
from morphism.evaluation.masks import palette
from morphism.labels import IGNORE
from morphism.runtime.paths import write_bytes
from morphism.tasks import detection, segmentation

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = 8
DETECTION_COLUMNS = 4
MASK_COLUMNS = 2
DRAWN = {"classification": 3 * COLUMNS, "detection": 3 * DETECTION_COLUMNS, "segmentation": 12}  # images of a split
CELLS = 500  # rows and columns that a drawn confusion matrix has at most
LEGEND = 60  # classes, beyond which the others' colours are left out
LABEL = 24  # letters of a class's name in an image
RIGHT, WRONG = "#1a7f37", "#cf222e"


# A class may be called "$$": names are no formulas.
_plain_text = matplotlib.rc_context({"text.parse_math": False})


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the records 0 to count - 1, evenly spread: the first of a sorted split would be of one kind."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


@_plain_text
def draw_classification(path: Path, source: Source, predictions: dict[str, np.ndarray], config: ConfigDict) -> None:
    """Images spread over a split, the mistakes made with most confidence, and the confusion matrix, as one PNG.

    Each image has its predicted class and confidence above; where that is wrong, the true class below it.
    """
    ids, predicted, label = predictions["id"], predictions["class"], predictions["label"]
    sample = np.argsort(ids)[spread(len(ids), DRAWN["classification"])]
    mistakes = np.flatnonzero(predicted != label)
    worst = mistakes[np.argsort(-predictions["confidence"][mistakes])][: 2 * COLUMNS]
    groups = [
        (f"{len(sample)} of {len(ids):,} images", sample),
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
            axis.imshow(to_8_bits(evaluated(source[int(ids[row])], config.data)))
            correct = predicted[row] == label[row]
            text = f"{source.classes[predicted[row]]} {predictions['confidence'][row]:.0%}"
            text += "" if correct else f"\nis {source.classes[label[row]]}"
            axis.set_title(text, fontsize=8, color=RIGHT if correct else WRONG)
    _draw_confusion(right, label, predicted, source.classes)
    _save(figure, path, dpi=100)


@_plain_text
def draw_detection(
    path: Path, source: Source, predictions: dict[str, np.ndarray], threshold: float, most: int, config: ConfigDict
) -> None:
    """Images of a split with their objects and at most `most` detections that score `threshold`, as one PNG.

    Each class has its colour. True boxes are dashed, with the class's name below; crowds and difficult ones are dotted.
    Detections have the class's name and the score above. `predictions` holds the images to draw.
    """
    rows = math.ceil(len(predictions["id"]) / DETECTION_COLUMNS)
    size = (5.2 * DETECTION_COLUMNS, 4.2 * rows)
    figure, axes = plt.subplots(rows, DETECTION_COLUMNS, figsize=size, layout="constrained", squeeze=False)
    colours = dict(zip(source.classes, np.resize(palette()[1:IGNORE] / 255, (len(source.classes), 3)), strict=True))
    for axis in axes.ravel():
        axis.axis("off")
    for axis, row in zip(axes.ravel(), np.argsort(predictions["id"]), strict=False):
        record = source[int(predictions["id"][row])]
        image = for_display(record, config.data)
        height, width = image.shape[:2]
        axis.imshow(image, extent=(0, width, height, 0))  # the first pixel covers 0 to 1, as in boxes
        found = detection.describe(predictions, row, source.classes)["detections"]
        shown = detection.shown(found, threshold, most)
        axis.set_title(f"{Path(record['name']).name}: {len(shown)} of {len(found)}", fontsize=8)
        truth = record["annotations"]
        for box, number, ignored in zip(truth.boxes, truth.classes, truth.crowd | truth.difficult, strict=True):
            name = source.classes[number]
            _draw_box(axis, box, colours[name], ":" if ignored else "--")
            _label(axis, name, box, (height, width), colours[name], above=False)
        for each in shown:
            _draw_box(axis, each["box"], colours[each["class"]], "-")
            text = f"{each['class'][:LABEL]} {each['score']:.2f}"
            _label(axis, text, each["box"], (height, width), colours[each["class"]], above=True)
    figure.suptitle(f"Detections that score at least {threshold:g}; true boxes dashed", fontsize=10)
    _save(figure, path, dpi=80)


@_plain_text
def draw_segmentation(path: Path, source: Source, batches: list[dict[str, np.ndarray]], config: ConfigDict) -> None:
    """The images of `batches`, each with its true classes, those predicted, and where they differ, as one PNG.

    Ignored pixels are white in all of them; the colours of the classes that occur stand below.
    """
    shown = [
        (int(batch["id"][row]), segmentation.mask(batch, row), batch["true"][row], batch["original_size"][row])
        for batch in batches
        for row in range(len(batch["id"]))
    ]
    shown = sorted(shown, key=lambda each: each[0])
    rows = math.ceil(len(shown) / MASK_COLUMNS)
    figure, axes = plt.subplots(
        rows,
        4 * MASK_COLUMNS,
        figsize=(20, 20 / (4 * MASK_COLUMNS) * rows + 1.5),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.ravel():
        axis.axis("off")
    colours = palette()
    occurring = np.zeros(256, bool)
    for place, (index, found, true, (height, width)) in enumerate(shown):
        record, true = source[index], true[:height, :width]
        ignored = true == IGNORE
        found = np.where(ignored, IGNORE, found)
        occurring[np.unique(true)] = occurring[np.unique(found)] = True
        wrong = np.where(ignored[..., None], 255, np.where((found != true)[..., None], (207, 34, 46), 0))
        images = [for_display(record, config.data), colours[true], colours[found], wrong.astype(np.uint8)]
        row, column = divmod(place, MASK_COLUMNS)
        for offset, image in enumerate(images):
            axes[row, 4 * column + offset].imshow(image)
        axes[row, 4 * column].set_title(Path(record["name"]).name, fontsize=8)
        if row == 0:
            for offset, title in enumerate(("true", "predicted", "wrong"), start=1):
                axes[row, 4 * column + offset].set_title(title, fontsize=8)
    named = np.flatnonzero(occurring[: len(source.classes)])[:LEGEND].tolist()
    patches = [plt.Rectangle((0, 0), 1, 1, color=colours[number] / 255) for number in named]
    # matplotlib leaves out of a legend what begins with an underscore.
    names = [f" {source.classes[number][:LABEL]}" for number in named]
    figure.legend(patches, names, loc="outside lower center", ncols=11, fontsize=8)
    _save(figure, path, dpi=80)


def _save(figure: Any, path: Path, dpi: int) -> None:
    """Writes the figure. Letters that the font lacks are drawn as boxes."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(drawn, dpi=dpi)
    plt.close(figure)
    write_bytes(path, drawn.getvalue(), "name another file as --output")


def _label(axis: Any, text: str, box: Sequence[float], size: tuple[int, int], colour: np.ndarray, above: bool) -> None:
    """`text` at the upper (or lower) edge of a box, on the side of that edge where the image has room for it."""
    (x0, y0, x1, y1), (height, width) = box, size
    room = 0.05 * height
    y = y0 if above else y1
    downwards = y < room if above else y < height - room
    left = x0 < 0.75 * width
    light = float(np.dot(colour, (0.299, 0.587, 0.114))) > 0.5  # luma: ITU-R BT.601
    axis.text(
        *(max(x0, 0) if left else min(x1, width), min(max(y, 0), height)),
        text[: LABEL + 5],
        fontsize=6,
        va="top" if downwards else "bottom",
        ha="left" if left else "right",
        color="black" if light else "white",
        clip_on=True,
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.5},
    )


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
