"""What training and evaluation would refuse of a split, reported before the first step: from counts and sizes alone.

No image is decoded, so that a split of a million records is checked in about a second.
"""

import numpy as np
from ml_collections import ConfigDict

from morphism.data.pipeline import EXAMPLES
from morphism.data.records import Source, name_of
from morphism.errors import UserError


def task_of(source: Source) -> str:
    """The task that `source` has the truth for: of boxes, of masks, or of a label an image."""
    if hasattr(source, "category_ids"):
        return "detection"
    return "segmentation" if hasattr(source, "image_ids") else "classification"


def check_split(source: Source, config: ConfigDict, split: str, *, training: bool) -> None:
    """Raises UserError where `source`, opened at `split`, cannot be trained on, or with `training` False evaluated.

    That is data for another task; an image that no canvas holds; a split without boxes; and in training an image with
    more boxes than there are slots, and a split whose boxes are all crowds or difficult, from which nothing is learned.
    Whether there is anything in masks is known only when they are read.
    """
    where = f"{config.data.source} {split}"
    if task_of(source) != config.task:
        raise UserError(
            f"{where} is data for {task_of(source)}, config.task is {config.task}; give another config.data.source, or "
            "an experiment for that task"
        )
    try:
        EXAMPLES[config.task].canvases(source, config.data, training)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if config.task == "detection":
        _check_boxes(source, config.data.max_boxes, where, training)


def _check_boxes(source: Source, max_boxes: int, where: str, training: bool) -> None:
    boxes, slots, counted = source.box_counts.T
    aim = "learn" if training else "find"
    if not (counted if training else boxes).any():
        found = f"all its boxes ({boxes.sum():,}) are crowds or difficult" if boxes.any() else "it has no boxes"
        raise UserError(f"{where}: there is nothing to {aim}, {found}; look at the annotations, or at the split")
    if training and slots.max() > max_boxes:
        raise UserError(
            f"{where}: {np.count_nonzero(slots > max_boxes):,} of its {len(source):,} images have more boxes than "
            f"config.data.max_boxes={max_boxes}, up to {slots.max()} in {name_of(source, int(slots.argmax()))}; "
            f"set config.data.max_boxes={slots.max()}"
        )
