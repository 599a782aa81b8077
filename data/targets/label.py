"""The class of an image.

label int32 [B], in 0..K-1; -1 for a record without a label, 0 in padding rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism.data.records import Record, Source
from morphism.data.targets import Placement
from morphism.data.windows import Size, Window
from morphism.errors import UserError

KEY = "label"
FIELDS = ()
IS_PLACED = OF_IMAGE_SIZE = False
IN_EVALUATION = True
OF_OBJECTS = False
COUNTED, ODD = "labels", "odd files"
UNKNOWN = -1


def empty(rows: int, shape: tuple[int, ...], data: ConfigDict) -> dict[str, np.ndarray]:
    return {"label": np.zeros(rows, np.int32)}


def read(record: Record, size: Size, source: Source, index: int) -> int:
    if "label" not in record:
        return UNKNOWN
    label, classes = record["label"], len(source.targets["label"])
    if not 0 <= label < classes:
        raise UserError(
            f"{record['name']}: label {label} is outside the {classes} classes, 0 to {classes - 1}; mend or remove it, "
            "or choose another split"
        )
    return label


def mapped(truth: int, table: Int[np.ndarray, "own"]) -> int:
    return int(table[truth])


def fingerprint(source: Source) -> bytes | None:
    """All labels; of TFDS, which would read all records for them, the version stands for them."""
    labels = None if hasattr(source, "version") else getattr(source, "labels", None)
    return None if labels is None else np.ascontiguousarray(labels).tobytes()


def kept(truth: int, window: Window, objects: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """All: it tells nothing of single objects."""
    return objects


def train(truth: int, placement: Placement, data: ConfigDict) -> dict[str, Any]:
    return {"label": truth}


def evaluate(truth: int, shape: tuple[int, ...], data: ConfigDict) -> dict[str, Any]:
    return {"label": truth}


def check(source: Source, data: ConfigDict, where: str, training: bool) -> None:
    """Nothing to check: a source of labels without any is refused when it is opened."""


def classes(truth: int) -> list[int]:
    return [] if truth == UNKNOWN else [truth]


def text(truth: int, names: Sequence[str]) -> str:
    return names[truth]
