"""Pascal VOC's average precision of the detections that tasks/detections.py gathers.

Our boxes are edges. The devkit's are the first and last column and row of pixels, counted from 1, and it adds 1 to
their differences: its xmin, ymin, xmax, ymax are x0 + 1, y0 + 1, x1, y1, and its overlaps are equal to ours.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from morphism.tasks.curves import Decisions, average_precision
from morphism.tasks.detections import Columns, Metrics, areas, columns

MIN_IOU = 0.5
Overlap = Callable[[Columns, np.ndarray, Columns, np.ndarray], np.ndarray]  # of rows of one and rows of another


class Judged(NamedTuple):
    """The detections that count, best first, and the objects to find.

    kind: the class of each detection. right: whether it has found an object. truths: objects per class.
    """

    kind: Int[np.ndarray, "n"]
    score: Float[np.ndarray, "n"]
    right: Bool[np.ndarray, "n"]
    truths: Int[np.ndarray, "k"]

    def decisions(self, index: int) -> Decisions:
        """The detections of a class."""
        own = self.kind == index
        right = np.cumsum(self.right[own])
        return Decisions(self.score[own], right, np.arange(1, len(right) + 1), int(self.truths[index]))


def summarise(metrics: Metrics, classes: Sequence[str]) -> dict[str, Any]:
    """map: VOC2010's area under the curve; map_07: VOC2007's mean precision at recalls 0, 0.1, ..., 1; both in 0..1.

    Both are means over the classes that have objects; per_class and per_class_07 hold -1 for the others.

    Source: Everingham et al. 2010, "The Pascal visual object classes challenge", section 4.2; VOCdevkit, VOCevaldet.m.
    """
    found, true = columns(metrics)[1:]
    judged = judge(found, true, len(classes))
    area, eleven = {}, {}
    for index, name in enumerate(classes):
        decisions = judged.decisions(index)
        area[name] = average_precision(decisions) if decisions.truths else -1.0
        eleven[name] = _eleven_points(decisions.right, decisions.truths) if decisions.truths else -1.0
    return {
        "map": _mean(area),
        "map_07": _mean(eleven),
        "images": len(columns(metrics)[0]),
        "per_class": area,
        "per_class_07": eleven,
    }


def judge(
    found: Columns, true: Columns, classes: int, iou: Overlap | None = None, within: Overlap | None = None
) -> Judged:
    """Which detections are right.

    A detection belongs to the object of its class with which it has the largest IoU, if that is at least 0.5. The
    detection of an object with the highest score is right, the others are wrong; those of a difficult object are left
    out. A crowd, which VOC does not know, is no object: a detection that belongs to no object, but lies in a crowd of
    its class by at least half, is left out, as in COCO. Recalls are compared as fractions of integers.

    Args:
      found, true: the columns of tasks/detections.py.
      classes: how many there are.
      iou, within: the overlap of detections with objects, and the share of detections in crowds; by default of boxes.
    """
    order = np.argsort(-found["score"], kind="stable")
    found = {name: column[order] for name, column in found.items()}
    crowds = {name: column[true["crowd"]] for name, column in true.items()}
    true = {name: column[~true["crowd"]] for name, column in true.items()}
    owner = _owners(found, true, iou or box_iou)
    first = np.zeros(len(owner), bool)
    first[np.unique(owner, return_index=True)[1]] = True
    right = first & (owner >= 0)
    wrong = (owner < 0) & (_owners(found, crowds, within or box_within) < 0)
    counts = wrong | ((owner >= 0) & ~np.append(true["difficult"], False)[owner])
    truths = np.bincount(true["class"][~true["difficult"]], minlength=classes)
    return Judged(found["class"][counts], found["score"][counts], right[counts], truths)


def _owners(found: Columns, true: Columns, overlap_of: Overlap) -> np.ndarray:
    """Per detection the row of the object of its class with the largest overlap, or -1 if that is below MIN_IOU."""
    owner = np.full(len(found["score"]), -1)
    for rows, truths in pairs(found["image"], true["image"]):
        overlap = np.where(
            found["class"][rows, None] == true["class"][truths], overlap_of(found, rows, true, truths), 0
        )
        owner[rows] = np.where(overlap.max(axis=1) >= MIN_IOU, truths[overlap.argmax(axis=1)], -1)
    return owner


def pairs(a: np.ndarray, b: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows of `a` and the rows of `b` that hold a value, for each value that both hold."""
    order_a, order_b = np.argsort(a, kind="stable"), np.argsort(b, kind="stable")
    both = np.intersect1d(a, b)
    spans = [
        (np.searchsorted(x[order], both), np.searchsorted(x[order], both, side="right"))
        for x, order in ((a, order_a), (b, order_b))
    ]
    return [(order_a[i:j], order_b[k:m]) for i, j, k, m in zip(*spans[0], *spans[1], strict=True)]


def box_iou(found: Columns, rows: np.ndarray, true: Columns, truths: np.ndarray) -> np.ndarray:
    a, b = found["box"][rows], true["box"][truths]
    overlap = _intersection(a, b)
    union = areas(a)[:, None] + areas(b) - overlap
    return overlap / np.where(union > 0, union, 1)


def box_within(found: Columns, rows: np.ndarray, true: Columns, truths: np.ndarray) -> np.ndarray:
    """The share of the area of each detection's box that lies within each object's."""
    a, b = found["box"][rows], true["box"][truths]
    area = areas(a)[:, None]
    return _intersection(a, b) / np.where(area > 0, area, 1)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    side = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    return np.prod(np.maximum(side, 0), axis=-1)


def _eleven_points(hits: np.ndarray, truths: int) -> float:
    precision = hits / np.arange(1, len(hits) + 1)
    return float(np.mean([np.max(precision[10 * hits >= tenth * truths], initial=0) for tenth in range(11)]))


def _mean(per_class: dict[str, float]) -> float:
    known = [value for value in per_class.values() if value >= 0]
    return sum(known) / len(known) if known else -1.0
