"""The targets of a training batch as layers to draw."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from morphism import frames
from morphism.labels import IGNORE
from morphism.tasks.layers import Layer, Object, Objects, Tag, of_mask
from morphism.tasks.paste import encoded

Row = Mapping[str, np.ndarray]  # one example of a batch, after augmentation


def layers(row: Row, targets: Mapping[str, Sequence[str]]) -> list[Layer]:
    """What the network learns from an example: of its `targets`, with the names of their classes, those it carries."""
    found: list[Layer] = []
    if "segmentation" in row and "segmentation" in targets:
        found.append(of_mask(targets["segmentation"], row["segmentation"].astype(np.uint8)))
    if "boxes" in row and "boxes" in targets:
        found.append(_objects(row, targets["boxes"]))
    if "label" in row and "label" in targets:
        found.append(Tag(targets["label"], _labels(row["label"], targets["label"])))
    return found


def _labels(label: np.ndarray, classes: Sequence[str]) -> list[tuple[str, float | None]]:
    """The class of an image; of a mixed one its classes with their weights."""
    if label.ndim == 0:
        return [(classes[int(label)], None)] if label >= 0 else []
    order = np.argsort(-label, kind="stable")[:3]
    return [(classes[index], float(label[index])) for index in order if label[index] > 0.005]


def _objects(row: Row, classes: Sequence[str]) -> Objects:
    size = row["image"].shape[:2]
    found = []
    for slot in np.flatnonzero(row["classes"] >= 0).tolist():
        outline = _outline(row["masks"][slot], row["boxes"][slot], size) if "masks" in row else None
        crowd = bool(row["crowd"][slot])
        number, box = int(row["classes"][slot]), row["boxes"][slot].tolist()
        found.append(Object(number, None, box, outline, framed=outline is None, ignored=crowd))
    return Objects(classes, found)


def _outline(mask: UInt8[np.ndarray, "m m"], box: np.ndarray, size: tuple[int, int]) -> bytes | None:
    """The outline of a mask in the frame of its box (frames.py), in an image of `size`; None if it is unknown."""
    inside = pasted(mask == 1, box, size)
    return None if (mask == IGNORE).any() or not inside.any() else encoded(inside, (0, 0), size)


def pasted(mask: Bool[np.ndarray, "m m"], box: np.ndarray, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Each pixel of the image has the value of the cell that holds its middle; False outside of all cells."""
    corner, side = frames.frame(box.astype(np.float64), mask.shape[0])
    cells = [np.floor((np.arange(size[1 - axis]) + 0.5 - corner[axis]) / side[axis]).astype(int) for axis in (1, 0)]
    rows, columns = (np.where((each >= 0) & (each < len(mask)), each, -1) for each in cells)
    return mask[rows[:, None], columns] & (rows[:, None] >= 0) & (columns >= 0)
