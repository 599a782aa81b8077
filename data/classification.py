"""Classification's examples on the host: a record becomes a square crop of uint8 pixels and its label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from data import image
from data.sources import Record, Source
from errors import UserError

Shape = tuple[int, int]  # height, width of what a batch holds


def canvases(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Int[np.ndarray, "records"]]:
    """The shapes of batches, and which of them each record is put into: a single square."""
    size = data.image_size if training else data.eval_size or data.image_size
    return [(size, size)], np.zeros(len(source), np.int32)


def empty(rows: int, data: ConfigDict) -> dict[str, np.ndarray]:
    """What a batch holds beside pictures: label int32 [rows]."""
    return {"label": np.zeros(rows, np.int32)}


def train_example(
    record: Record, classes: Sequence[str], config: ConfigDict, shape: Shape, rng: np.random.Generator
) -> tuple[dict[str, Any], image.Odd]:
    """The record cropped as config.data.train_crop says."""
    data = config.data
    if data.train_crop == "random_resized":
        pixels, odd = image.random_resized_crop(
            record["image"], record["name"], shape[0], data.crop_scale, data.crop_ratio, rng
        )
    else:
        pixels, odd = _center(record, data.resize_size, shape[0])
    return {"image": pixels, "label": _checked_label(record, classes)}, odd


def eval_example(
    record: Record, classes: Sequence[str], data: ConfigDict, shape: Shape
) -> tuple[dict[str, Any], image.Odd]:
    pixels, odd = _center(record, data.resize_size, shape[0])
    return {"image": pixels, "label": _checked_label(record, classes)}, odd


def evaluated(record: Record, data: ConfigDict) -> image.Pixels:
    """The picture as evaluation sees it: the shorter side resized, the centre cut out."""
    return _center(record, data.resize_size, data.eval_size or data.image_size)[0]


def _center(record: Record, resize_size: int, size: int) -> tuple[image.Pixels, image.Odd]:
    pixels, odd = image.decode(record["image"], record["name"])
    return image.resize_and_center_crop(pixels, resize_size, size), odd


def _checked_label(record: Record, classes: Sequence[str]) -> int:
    if not 0 <= record["label"] < len(classes):
        raise UserError(
            f"{record['name']}: label {record['label']} is outside the {len(classes)} classes, "
            f"0 to {len(classes) - 1}; mend or remove it, or choose another split"
        )
    return record["label"]
