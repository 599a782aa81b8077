"""Pascal VOC's average precision of the detections that tasks/detections.py gathers.

Our boxes are edges. The devkit's are the first and last column and row of pixels, counted from 1, and it adds 1 to
their differences: its xmin, ymin, xmax, ymax are x0 + 1, y0 + 1, x1, y1, and its overlaps are equal to ours.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from morphism.tasks.detections import Columns, Metrics, areas, columns

MIN_IOU = 0.5


def summarise(metrics: Metrics, classes: Sequence[str]) -> dict[str, Any]:
    """map: VOC2010's area under the curve; map_07: VOC2007's mean precision at recalls 0, 0.1, ..., 1; both in 0..1.

    Both are means over the classes that have objects; per_class and per_class_07 hold -1 for the others. A detection
    belongs to the object of its class with which it has the largest IoU, if that is at least 0.5. The detection of an
    object with the highest score is right, the others are wrong; those of a difficult object are left out. A crowd,
    which VOC does not know, is no object: a detection that belongs to no object, but lies in a crowd of its class by at
    least half, is left out, as in COCO. Recalls are compared as fractions of integers.

    Source: Everingham et al. 2010, "The Pascal visual object classes challenge", section 4.2; VOCdevkit, VOCevaldet.m.
    """
    images, found, true = columns(metrics)
    order = np.argsort(-found["score"], kind="stable")
    found = {name: column[order] for name, column in found.items()}
    crowds = {name: column[true["crowd"]] for name, column in true.items()}
    true = {name: column[~true["crowd"]] for name, column in true.items()}
    owner = _owners(found, true, _iou)
    first = np.zeros(len(owner), bool)
    first[np.unique(owner, return_index=True)[1]] = True
    right = first & (owner >= 0)
    wrong = (owner < 0) & (_owners(found, crowds, _share_within) < 0)
    counts = wrong | ((owner >= 0) & ~np.append(true["difficult"], False)[owner])
    area, eleven = {}, {}
    for index, name in enumerate(classes):
        truths = int(np.sum((true["class"] == index) & ~true["difficult"]))
        hits = np.cumsum(right[counts & (found["class"] == index)])
        area[name] = _area(hits, truths) if truths else -1.0
        eleven[name] = _eleven_points(hits, truths) if truths else -1.0
    return {
        "map": _mean(area),
        "map_07": _mean(eleven),
        "images": len(images),
        "per_class": area,
        "per_class_07": eleven,
    }


def _owners(found: Columns, true: Columns, overlap_of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Per detection the row of the object of its class with the largest overlap, or -1 if that is below MIN_IOU."""
    owner = np.full(len(found["score"]), -1)
    for rows, truths in _pairs(found["image"], true["image"]):
        overlap = overlap_of(found["box"][rows], true["box"][truths])
        overlap[found["class"][rows, None] != true["class"][truths]] = 0
        owner[rows] = np.where(overlap.max(axis=1) >= MIN_IOU, truths[overlap.argmax(axis=1)], -1)
    return owner


def _pairs(a: np.ndarray, b: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows of `a` and the rows of `b` that hold a value, for each value that both hold."""
    order_a, order_b = np.argsort(a, kind="stable"), np.argsort(b, kind="stable")
    both = np.intersect1d(a, b)
    spans = [
        (np.searchsorted(x[order], both), np.searchsorted(x[order], both, side="right"))
        for x, order in ((a, order_a), (b, order_b))
    ]
    return [(order_a[i:j], order_b[k:m]) for i, j, k, m in zip(*spans[0], *spans[1], strict=True)]


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    overlap = _intersection(a, b)
    union = areas(a)[:, None] + areas(b) - overlap
    return overlap / np.where(union > 0, union, 1)


def _share_within(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The share of the area of each box of `a` that lies within each of `b`."""
    area = areas(a)[:, None]
    return _intersection(a, b) / np.where(area > 0, area, 1)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    side = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    return np.prod(np.maximum(side, 0), axis=-1)


def _area(hits: np.ndarray, truths: int) -> float:
    """The area under the precision, made monotone, over recall. hits[i]: right ones of the first i + 1 detections."""
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(hits, prepend=0) * precision) / truths)


def _eleven_points(hits: np.ndarray, truths: int) -> float:
    precision = hits / np.arange(1, len(hits) + 1)
    return float(np.mean([np.max(precision[10 * hits >= tenth * truths], initial=0) for tenth in range(11)]))


def _mean(per_class: dict[str, float]) -> float:
    known = [value for value in per_class.values() if value >= 0]
    return sum(known) / len(known) if known else -1.0
