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

COUNT = 12
WIDTH, HEIGHT = 1920, 420  # most pixels of a row's width, and of the height of its samples
WIDEST, NARROWEST = 840, 200  # pixels of a sample with its name
ENLARGED = 2  # most that a small image is
GAP, LETTERS = 8, 13  # pixels between samples, and of the names below them
GROUND, INK = (24, 24, 24), (220, 220, 220)
Sample = tuple[str, Image.Image | None]


def draw(source: Source, path: Path) -> None:
    """Writes a sheet of COUNT samples, or fewer, with their names. One that cannot be read says so.

    Raises UserError if the file cannot be written.
    """
    count = min(COUNT, len(source))
    indices = np.unique(np.linspace(0, len(source) - 1, count).astype(int)).tolist()
    sheet = _sheet([_sample(source, index) for index in indices])
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--draw {path}: cannot be written ({error}); name a .png in a folder that exists") from error


def _sheet(samples: list[Sample]) -> Image.Image:
    """Rows of samples, each with its name below."""
    rows = _rows(samples)
    line = height(LETTERS)
    tall = [max([0, *(sample.height for _, sample in row if sample)]) + line + GAP for row in rows]
    wide = [sum(_width(sample) + GAP for _, sample in row) - GAP for row in rows]
    sheet = Image.new("RGB", (max(wide), sum(tall)), GROUND)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top, left = sum(tall[:number]), 0
        for name, sample in row:
            if sample:
                sheet.paste(sample, (left, top))
            below = top + (sample.height if sample else 0)
            write(pen, fitting(name, LETTERS, _width(sample)), (left, below), LETTERS, INK)
            left += _width(sample) + GAP
    return sheet


def _rows(samples: list[Sample]) -> list[list[Sample]]:
    """The samples in order, as many in a row as there is room for."""
    rows: list[list[Sample]] = [[]]
    used = 0
    for sample in samples:
        if used + _width(sample[1]) > WIDTH:
            rows.append([])
            used = 0
        rows[-1].append(sample)
        used += _width(sample[1]) + GAP
    return rows


def _width(sample: Image.Image | None) -> int:
    return max(NARROWEST, sample.width) if sample else WIDEST


def _sample(source: Source, index: int) -> Sample:
    """The name of a record, and its image with its truth; None for one that cannot be read."""
    try:
        record = source[index]
        pixels = image.to_8_bits(image.decode(record["image"], record["name"])[0])
        drawn = Image.fromarray(annotate(pixels, _layers(record, pixels.shape[:2], source, index)))
    except UserError as error:
        return f"bad: {error}", None
    scale = min(HEIGHT / drawn.height, WIDEST / drawn.width, ENLARGED)
    size = [max(1, round(side * scale)) for side in drawn.size]
    return Path(record["name"]).name, drawn.resize(size, Image.Resampling.LANCZOS)


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
