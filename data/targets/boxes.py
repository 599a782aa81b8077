"""A box around each object, with its class.

boxes float32 [B,N,4], x0, y0, x1, y1 in pixels of the canvas; classes int32 [B,N], -1 in unused slots; crowd bool
[B,N]. N is config.data.max_boxes. Only training batches hold them, and those of evaluation with config.data.eval_loss:
otherwise evaluation takes boxes from the source, in pixels of the image.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism.data.annotations import NO_OBJECTS, Annotations, check_size
from morphism.data.records import Boxed, Record, Sized, Source, name_of
from morphism.data.targets import Placement
from morphism.data.windows import Size, Window, is_seen, placed
from morphism.errors import UserError

KEY = "annotations"
FIELDS = ("data.max_boxes",)
IS_PLACED, OF_IMAGE_SIZE = True, False
IN_EVALUATION = True
OF_OBJECTS = True
COUNTED, ODD = "objects", "odd boxes"


def empty(rows: int, shape: tuple[int, ...], data: ConfigDict) -> dict[str, np.ndarray]:
    return {
        "boxes": np.zeros((rows, data.max_boxes, 4), np.float32),
        "classes": np.full((rows, data.max_boxes), -1, np.int32),
        "crowd": np.zeros((rows, data.max_boxes), bool),
    }


def read(record: Record, size: Size, source: Sized, index: int) -> Annotations:
    check_size(record["name"], size, source.sizes[index])
    found = record.get("annotations", NO_OBJECTS)
    wrong = found.classes[(found.classes < 0) | (found.classes >= len(source.targets.get("boxes", ())))]
    if len(wrong):
        raise UserError(
            f"{record['name']}: label {wrong[0]} is outside the {len(source.targets['boxes'])} classes; mend it"
        )
    return found


def mapped(truth: Annotations, table: Int[np.ndarray, "own"]) -> Annotations:
    return replace(truth, classes=table[truth.classes])


def fingerprint(source: Source) -> bytes | None:
    """Sizes, counts and all boxes, of a source with a store."""
    store = getattr(source, "store", None)
    if store is None:
        return None
    flat = store.flat
    columns = (source.sizes, source.box_counts, *(getattr(flat, field.name) for field in fields(flat)))
    return b"".join(np.ascontiguousarray(column).tobytes() for column in columns)


def kept(truth: Annotations, window: Window, objects: Int[np.ndarray, "n"]) -> Int[np.ndarray, "k"]:
    """The objects of whose boxes some part is in the window."""
    return objects[is_seen(truth.boxes[objects], window)]


def train(truth: Annotations, placement: Placement, data: ConfigDict) -> dict[str, Any]:
    """Raises UserError for more objects than slots, and for a deformed image."""
    if placement.window.origins is not None:
        raise UserError("config.augment.elastic: boxes cannot be deformed with their image; set it to 0.0")
    objects, slots = truth[placement.objects], data.max_boxes
    if len(objects) > slots:
        raise UserError(f"{placement.name}: {len(objects)} boxes, more than config.data.max_boxes={slots}; raise that")
    spare = slots - len(objects)
    return {
        "boxes": np.pad(placed(objects.boxes, placement.window), ((0, spare), (0, 0))),
        "classes": np.pad(objects.classes, (0, spare), constant_values=-1),
        "crowd": np.pad(objects.crowd, (0, spare)),
    }


def evaluate(truth: Annotations, shape: tuple[int, ...], data: ConfigDict) -> dict[str, Any]:
    return {}


def check(source: Boxed, data: ConfigDict, where: str, training: bool) -> None:
    """Refuses a split without boxes. For training also refuses boxes that are all crowds or difficult, from which
    nothing is learned, and images with more boxes than slots.
    """
    boxes, slots, counted = source.box_counts.T
    aim = "learn" if training else "find"
    if not (counted if training else boxes).any():
        found = f"all its boxes ({boxes.sum():,}) are crowds or difficult" if boxes.any() else "it has no boxes"
        raise UserError(f"{where}: there is nothing to {aim}, {found}; look at the annotations, or at the split")
    if (training or data.eval_loss) and slots.max() > data.max_boxes:
        raise UserError(
            f"{where}: {np.count_nonzero(slots > data.max_boxes):,} of its {len(source):,} images have more boxes than "
            f"config.data.max_boxes={data.max_boxes}, up to {slots.max()} in {name_of(source, int(slots.argmax()))}; "
            f"set config.data.max_boxes={slots.max()}"
        )


def classes(truth: Annotations) -> list[int]:
    return truth.classes.tolist()


def text(truth: Annotations, names: Sequence[str]) -> str:
    return ""
