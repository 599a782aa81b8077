"""Sheets of annotated images: examples with predictions beside their truth, and what the network sees in training."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from morphism.data.image import for_display
from morphism.data.marks import BACKGROUND
from morphism.data.records import Source, name_of
from morphism.tasks import Task
from morphism.tasks.drawing import batch, lettering
from morphism.tasks.drawing.annotate import annotate
from morphism.tasks.drawing.shrink import shrunk
from morphism.tasks.layers import VOID, Layer, Regions
from morphism.tasks.task import Predictions

SEEN = 16  # images of a batch
SIDE, GAP = 384, 12  # pixels of the longer side of an image at most; between images
LETTERS, INK, PAPER = 15, (26, 26, 26), (255, 255, 255)
WIDE = 6  # images per row
WRONG = (BACKGROUND, "wrong")  # what is right is not tinted

Pixels = UInt8[np.ndarray, "_ _ 3"]


class Tile(NamedTuple):
    """An image with what stands above it."""

    title: str
    pixels: Pixels


def examples(
    task: Task,
    source: Source,
    kept: Sequence[Predictions],
    classes: Any,
    data: ConfigDict,
    threshold: float,
    most: int,
) -> Image.Image:
    """Images of `source` with their truth and their predictions side by side; of regions also where they differ.

    Args:
      kept: the predictions to draw, batch by batch.
      classes: those of the task.
      data: config.data.
      threshold, most: as for `Task.lines`.
    """
    found = [(int(index), batch, row) for batch in kept for row, index in enumerate(batch["id"])]
    groups = []
    for index, predictions, row in sorted(found, key=lambda each: each[0]):
        record = source[index]
        pixels = for_display(record, data)
        true = task.true_layers(source, index)
        layers = task.found_layers(predictions, row, classes, threshold, most)
        tiles = [Tile(f"{Path(record['name']).name}: truth", _annotated(pixels, true))]
        tiles.append(Tile("prediction", _annotated(pixels, layers)))
        wrong = _wrong(true, layers)
        groups.append([*tiles, Tile("wrong", _annotated(_faint(pixels), [wrong]))] if wrong else tiles)
    return _sheet(groups)


def seen(rows: Mapping[str, np.ndarray], source: Source, augment: ConfigDict) -> Image.Image:
    """The images of a training batch after augmentation, with their targets.

    Args:
      rows: examples of the batch, augmented and normalised.
      source: the split that they come from.
      augment: config.augment, by which images were normalised.
    """
    images = denormalised(rows["image"], augment)
    groups = []
    for row in np.flatnonzero(rows["valid"]).tolist():
        own = {name: np.asarray(value[row]) for name, value in rows.items()}
        title = Path(name_of(source, int(own["id"]))).name
        groups.append([Tile(title, _annotated(images[row], batch.layers(own, source.targets)))])
    return _sheet(groups)


def denormalised(images: np.ndarray, augment: ConfigDict) -> UInt8[np.ndarray, "b h w 3"]:
    """The inverse of `augment.normalise`, cut to 0..255."""
    pixels = (images.astype(np.float64) * np.array(augment.std) + np.array(augment.mean)) * 255
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def png(sheet: Image.Image) -> bytes:
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _annotated(pixels: Pixels, layers: Sequence[Layer]) -> Pixels:
    return annotate(*shrunk(pixels, layers, SIDE))


def _wrong(true: Sequence[Layer], found: Sequence[Layer]) -> Regions | None:
    """Where regions of the truth have another class in the prediction; None if not both have regions."""
    maps = [next((each for each in layers if isinstance(each, Regions)), None) for layers in (true, found)]
    if maps[0] is None or maps[1] is None:
        return None
    names = [np.array([*each.classes, ""])[each.kinds[each.map]] for each in maps]  # the last is void
    known = maps[0].kinds[maps[0].map] != VOID
    return Regions(WRONG, np.where(known, (names[0] != names[1]) * 1, 2), np.array([0, 1, VOID]))


def _faint(pixels: Pixels) -> Pixels:
    """Dark and grey, so that a tint stands out."""
    grey = pixels.mean(axis=-1, keepdims=True) / 2
    return np.broadcast_to(grey, pixels.shape).astype(np.uint8)


def _sheet(groups: Sequence[Sequence[Tile]]) -> Image.Image:
    """The tiles in rows of about WIDE, each with its title above; a wider gap between groups."""
    per_row = max(1, WIDE // max((len(group) for group in groups), default=1))
    rows = [groups[start : start + per_row] for start in range(0, len(groups), per_row)]
    line = lettering.height(LETTERS) + 2
    heights = [max(tile.pixels.shape[0] for group in row for tile in group) + line + GAP for row in rows]
    placed = [list(_placed(row)) for row in rows]
    width = max((left + tile.pixels.shape[1] + GAP for row in placed for left, tile in row), default=2 * GAP)
    sheet = Image.new("RGB", (width, GAP + sum(heights)), PAPER)
    pen, top = ImageDraw.Draw(sheet), GAP
    for row, height in zip(placed, heights, strict=True):
        for left, tile in row:
            title = lettering.fitting(tile.title, LETTERS, tile.pixels.shape[1])
            lettering.write(pen, title, (left, top), LETTERS, INK)
            sheet.paste(Image.fromarray(np.ascontiguousarray(tile.pixels)), (left, top + line))
        top += height
    return sheet


def _placed(groups: Sequence[Sequence[Tile]]) -> Iterator[tuple[int, Tile]]:
    """Where each tile of a row starts, in pixels from the left."""
    left = GAP
    for group in groups:
        for tile in group:
            yield left, tile
            left += tile.pixels.shape[1] + GAP
        left += 2 * GAP if len(group) > 1 else 0
