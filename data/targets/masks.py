"""A mask of each object: the pixels that are seen of it.

masks uint8 [B,N,M,M], in the slots of the boxes and in the frames of their boxes (frames.py): 1 inside the object, 0
outside, IGNORE where its outline is unknown; 0 in unused slots. N is config.data.max_boxes, M config.data.mask_size.
Only training batches hold them: evaluation takes masks from the source, in pixels of the image.

An object of which no pixel of its mask is left in the window is dropped, with its box.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism.data.annotations import NO_OBJECTS, Annotations
from morphism.data.outlines import Outlines
from morphism.data.records import Outlined, Record, Source
from morphism.data.render_masks import render_masks, seen_pixels
from morphism.data.runs import Runs
from morphism.data.targets import Placement
from morphism.data.windows import Size, Window, placed
from morphism.errors import UserError
from morphism.labels import IGNORE

KEY = "masks"
FIELDS = ("data.max_boxes", "data.mask_size")
IS_PLACED, OF_IMAGE_SIZE = True, False
IN_EVALUATION = False
OF_OBJECTS = True
COUNTED, ODD = "objects with masks", "odd outlines"
OPACITY = 110  # of 255, of drawn masks


@dataclass(frozen=True)
class Shapes:
    """The objects of an image of `size`, and their outlines."""

    objects: Annotations
    outlines: Outlines
    size: Size

    @cached_property
    def runs(self) -> Runs:
        return self.outlines.runs()


def empty(rows: int, shape: tuple[int, ...], data: ConfigDict) -> dict[str, np.ndarray]:
    return {"masks": np.zeros((rows, data.max_boxes, data.mask_size, data.mask_size), np.uint8)}


def read(record: Record, size: Size, source: Source, index: int) -> Shapes:
    """Without masks in the record, those of all its objects are unknown."""
    objects = record.get("annotations", NO_OBJECTS)
    return Shapes(objects, record.get("masks") or Outlines.of([None] * len(objects)), size)


def mapped(truth: Outlines, table: Int[np.ndarray, "own"]) -> Outlines:
    """Outlines have no classes of their own."""
    return truth


def fingerprint(source: Source) -> bytes | None:
    """A checksum of all outlines, of a source with a store."""
    outlines = getattr(getattr(source, "store", None), "outlines", None)
    if outlines is None:
        return None
    digest = hashlib.sha256(np.diff(outlines.ends).astype(np.int64).tobytes())
    digest.update(outlines.counts)
    return digest.digest()


def kept(truth: Shapes, window: Window, objects: Int[np.ndarray, "n"]) -> Int[np.ndarray, "k"]:
    """The objects with a pixel in the window, or with an unknown outline."""
    left = (seen_pixels(truth.runs, truth.size, window) > 0) | ~truth.outlines.known
    return objects[left[objects]]


def train(truth: Shapes, placement: Placement, data: ConfigDict) -> dict[str, Any]:
    """Raises UserError for a deformed image."""
    if placement.window.origins is not None:
        raise UserError("config.augment.elastic: masks cannot be deformed with their image; set it to 0.0")
    rows, slots = placement.objects, data.max_boxes
    found = np.zeros((slots, data.mask_size, data.mask_size), np.uint8)
    boxes = placed(truth.objects.boxes[rows], placement.window)
    found[: len(rows)] = render_masks(truth.runs.take(rows), truth.size, placement.window, boxes, data.mask_size)
    found[: len(rows)][~truth.outlines.known[rows]] = IGNORE
    return {"masks": found}


def evaluate(truth: Shapes, shape: tuple[int, ...], data: ConfigDict) -> dict[str, Any]:
    return {}


def check(source: Outlined, data: ConfigDict, where: str, training: bool) -> None:
    """Refuses masks without boxes, and a split in which no outline is known, as far as its store shows."""
    if "boxes" not in data.targets:
        raise UserError('config.data.targets: masks lie in boxes; add "boxes" in front of "masks"')
    outlines = getattr(getattr(source, "store", None), "outlines", None)
    if outlines is not None and not outlines.known.any():
        raise UserError(
            f"{where}: none of its objects has a mask; look at the outlines in its annotations, or take a "
            "config.task that needs only boxes"
        )


def classes(truth: Shapes) -> list[int]:
    return truth.objects.classes[truth.outlines.known].tolist()


def text(truth: Shapes, names: Sequence[str]) -> str:
    return ""
