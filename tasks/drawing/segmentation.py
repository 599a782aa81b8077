"""Drawn segmentations."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from morphism.data.image import for_display
from morphism.data.palette import palette
from morphism.data.records import Source
from morphism.labels import IGNORE
from morphism.tasks.drawing import LABEL, plain_text, png

COLUMNS = 2
LEGEND = 60  # most classes in the legend

Mask = UInt8[np.ndarray, "h w"]


@plain_text
def draw(source: Source, found: Sequence[tuple[int, Mask, Mask]], data: ConfigDict) -> bytes:
    """A PNG of images, each with its true mask, the predicted one, and where they differ.

    `found` holds id, predicted and true mask per image. Ignored pixels are white in all three; a legend below shows the
    colours of the classes that occur.
    """
    rows = math.ceil(len(found) / COLUMNS)
    size = (20, 20 / (4 * COLUMNS) * rows + 1.5)
    figure, axes = plt.subplots(rows, 4 * COLUMNS, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    colours = palette()
    occurring = np.zeros(256, bool)
    for position, (index, predicted, true) in enumerate(found):
        record, ignored = source[index], true == IGNORE
        predicted = np.where(ignored, IGNORE, predicted)
        occurring[np.unique(true)] = occurring[np.unique(predicted)] = True
        wrong = np.where(ignored[..., None], 255, np.where((predicted != true)[..., None], (207, 34, 46), 0))
        images = [for_display(record, data), colours[true], colours[predicted], wrong.astype(np.uint8)]
        row, column = divmod(position, COLUMNS)
        for offset, image in enumerate(images):
            axes[row, 4 * column + offset].imshow(image)
        axes[row, 4 * column].set_title(Path(record["name"]).name, fontsize=8)
        if row == 0:
            for offset, title in enumerate(("true", "predicted", "wrong"), start=1):
                axes[row, 4 * column + offset].set_title(title, fontsize=8)
    named = np.flatnonzero(occurring[: len(source.classes)]).tolist()
    draw_legend(figure, [source.classes[number] for number in named], list(colours[named]))
    return png(figure, dpi=80)


def draw_legend(figure: Any, classes: Sequence[str], colours: Sequence[UInt8[np.ndarray, "3"]]) -> None:
    """The colours of the first LEGEND classes, below the figure; nothing if there are none."""
    patches = [plt.Rectangle((0, 0), 1, 1, color=colour / 255) for colour in colours[:LEGEND]]
    # The space is for names with a leading underscore, which matplotlib would leave out of the legend.
    names = [f" {name[:LABEL]}" for name in classes[:LEGEND]]
    if patches:
        figure.legend(patches, names, loc="outside lower center", ncols=11, fontsize=8)
