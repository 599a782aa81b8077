"""A sheet of samples: records of a source with their truth, evenly spread over the split."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from morphism.data import image, targets
from morphism.data.records import Record, Source
from morphism.errors import UserError
from morphism.tasks.drawing.annotate import annotate
from morphism.tasks.drawing.lettering import fitting, height, write
from morphism.tasks.layers import Layer, Tag, of_mask, of_objects

COLUMNS, ROWS = 4, 3
CELL, LEAST = 640, 256  # most pixels per side of a sample, fewest of a column's width
GAP, LETTERS = 8, 13  # pixels between samples, and of the names below them
GROUND, INK = (24, 24, 24), (220, 220, 220)


def draw(source: Source, path: Path) -> None:
    """Writes a sheet of COLUMNS x ROWS samples, or fewer, with their names. One that cannot be read says so.

    Raises UserError if the file cannot be written.
    """
    count = min(COLUMNS * ROWS, len(source))
    indices = np.unique(np.linspace(0, len(source) - 1, count).astype(int)).tolist()
    sheet = _sheet([_sample(source, index) for index in indices])
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--draw {path}: cannot be written ({error}); name a .png in a folder that exists") from error


def _sheet(samples: list[tuple[str, Image.Image | None]]) -> Image.Image:
    """Columns are as wide as their widest sample, rows as high as their highest; each name is below its sample."""
    columns, line = min(COLUMNS, len(samples)), height(LETTERS)
    rows = [samples[start : start + columns] for start in range(0, len(samples), columns)]
    wide = [max([LEAST, *(sample.width for _, sample in samples[at::columns] if sample)]) for at in range(columns)]
    tall = [max([0, *(sample.height for _, sample in row if sample)]) + line + GAP for row in rows]
    sheet = Image.new("RGB", (sum(wide) + GAP * (columns - 1), sum(tall)), GROUND)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = sum(tall[:number])
        for column, (name, sample) in enumerate(row):
            left = sum(wide[:column]) + GAP * column
            if sample:
                sheet.paste(sample, (left, top))
            below = top + (sample.height if sample else 0)
            write(pen, fitting(name, LETTERS, wide[column]), (left, below), LETTERS, INK)
    return sheet


def _sample(source: Source, index: int) -> tuple[str, Image.Image | None]:
    """The name of a record, and its image with its truth; None for one that cannot be read."""
    try:
        record = source[index]
        pixels = image.to_8_bits(image.decode(record["image"], record["name"])[0])
        drawn = Image.fromarray(annotate(pixels, _layers(record, pixels.shape[:2], source, index)))
    except UserError as error:
        return f"bad: {error}", None
    drawn.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return Path(record["name"]).name, drawn


def _layers(record: Record, size: tuple[int, int], source: Source, index: int) -> list[Layer]:
    """What is drawn of the truths that the record has."""
    held = {name: names for name, names in source.targets.items() if targets.get(name).KEY in record}
    truths = {name: targets.get(name).read(record, size, source, index) for name in held}
    layers: list[Layer] = []
    if "segmentation" in held:
        layers.append(of_mask(held["segmentation"], truths["segmentation"]))
    if "boxes" in held:
        layers.append(of_objects(held["boxes"], truths["boxes"], record.get("masks")))
    texts = [text for name, names in held.items() if (text := targets.get(name).text(truths[name], names))]
    return [*layers, *(Tag([text], [(0, None)]) for text in texts)]
