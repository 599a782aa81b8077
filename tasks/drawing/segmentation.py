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
from morphism.data.records import Source
from morphism.labels import IGNORE
from morphism.tasks.drawing import LABEL, plain_text, png
from morphism.tasks.palette import palette

COLUMNS = 2
LEGEND = 60  # classes, beyond which the others' colours are left out

Mask = UInt8[np.ndarray, "h w"]


@plain_text
def draw(source: Source, found: Sequence[tuple[int, Mask, Mask]], data: ConfigDict) -> bytes:
    """Images, each with its true classes, those predicted, and where they differ, as one PNG.

    `found` holds of each image its id, the predicted classes and the true ones. Ignored pixels are white in all of
    them; the colours of the classes that occur stand below.
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
    _draw_legend(figure, source.classes, occurring)
    return png(figure, dpi=80)


def _draw_legend(figure: Any, classes: Sequence[str], occurring: np.ndarray) -> None:
    colours, named = palette(), np.flatnonzero(occurring[: len(classes)])[:LEGEND].tolist()
    patches = [plt.Rectangle((0, 0), 1, 1, color=colours[number] / 255) for number in named]
    # matplotlib leaves out of a legend what begins with an underscore.
    names = [f" {classes[number][:LABEL]}" for number in named]
    figure.legend(patches, names, loc="outside lower center", ncols=11, fontsize=8)
