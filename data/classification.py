"""Classification's examples on the host: a record becomes a square crop of pixels and its label."""

from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism.data import image
from morphism.data.records import Record, Source
from morphism.errors import UserError

Shape = tuple[int, int]  # height, width of what a batch holds


def canvases(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Int[np.ndarray, "records"]]:
    """The shapes of batches, and which of them each record is put into: a single square."""
    size = data.image_size if training else data.eval_size or data.image_size
    return [(size, size)], np.zeros(len(source), np.int32)


def eval_note(source: Source, data: ConfigDict) -> str:
    """What a person must know of how evaluation sees the images of `source`: nothing."""
    return ""


def shape_at(shape: Shape, step: int, config: ConfigDict) -> Shape:
    """The canvas of training batch `step`: `shape`."""
    return shape


def empty(rows: int, data: ConfigDict, shape: Shape) -> dict[str, np.ndarray]:
    """What a batch holds beside pictures: label int32 [rows]."""
    return {"label": np.zeros(rows, np.int32)}


def train_example(
    source: Source, index: int, config: ConfigDict, shape: Shape, rng: np.random.Generator
) -> dict[str, Any]:
    """The record's picture, cropped as config.data.train_crop says, and its label."""
    data, record = config.data, source[index]
    if data.train_crop == "random_resized":
        pixels, odd = image.random_resized_crop(
            record["image"],
            record["name"],
            shape[0],
            data.crop_scale,
            data.crop_ratio,
            rng,
            tuple(data.intensity) or None,
        )
    else:
        pixels, odd = _center(record, data, shape[0])
    return _example(pixels, odd, record, source, data)


def eval_example(source: Source, index: int, config: ConfigDict, shape: Shape) -> dict[str, Any]:
    data, record = config.data, source[index]
    return _example(*_center(record, data, shape[0]), record, source, data)


def evaluated(record: Record, data: ConfigDict) -> image.Pixels:
    """The picture as evaluation sees it: the shorter side resized, the centre cut out."""
    pixels, odd = _center(record, data, data.eval_size or data.image_size)
    return image.accept(pixels, odd, record["name"], data)[0]


def _center(record: Record, data: ConfigDict, size: int) -> tuple[image.Pixels, image.Odd]:
    pixels, odd = image.decode_record(record, data)
    return image.resize_and_center_crop(pixels, data.resize_size, size), odd


def _example(pixels: image.Pixels, odd: image.Odd, record: Record, source: Source, data: ConfigDict) -> dict[str, Any]:
    label, classes = record["label"], len(source.classes)
    if not 0 <= label < classes:
        raise UserError(
            f"{record['name']}: label {label} is outside the {classes} classes, 0 to {classes - 1}; mend or remove it, "
            "or choose another split"
        )
    pixels, odd = image.accept(pixels, odd, record["name"], data)
    return {"image": pixels, "label": label, "odd": odd}
