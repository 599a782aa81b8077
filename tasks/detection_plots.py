"""The numbers of a detection's plots: curves at IoU 0.5, which classes are confused, and the classes' AP and recall."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle
from jaxtyping import Float, Int

from morphism.tasks import curves, voc
from morphism.tasks.detections import Columns, Metrics, columns

SCORE = 0.25  # unless given, detections with a lower score are neither confused nor counted in the recall
BACKGROUND = "background"


def of_boxes(metrics: Metrics, classes: Sequence[str], ap: dict[str, float], least: float = SCORE) -> dict[str, Any]:
    """The numbers of `precision_recall`, `f1_threshold`, `confusion` and `per_class`; {} where nothing is to be found.

    Args:
      metrics: those of tasks/detections.py.
      classes: their names.
      ap: COCO's AP per class, -1 without objects.
      least: detections with a lower score are neither in the confusion matrix nor in the recall per class.
    """
    _, found, true = columns(metrics)
    return _numbers(found, true, classes, ap, least, "boxes", voc.box_iou, voc.box_within)


def of_masks(metrics: Metrics, classes: Sequence[str], ap: dict[str, float], least: float = SCORE) -> dict[str, Any]:
    """As `of_boxes`, of masks; an object whose outline is unknown counts as a difficult one does."""
    _, found, true = columns(metrics)
    true = true | {"difficult": true["difficult"] | ~true["known"]}
    return _numbers(found, true, classes, ap, least, "masks", _mask_iou, _mask_within)


def _numbers(
    found: Columns,
    true: Columns,
    classes: Sequence[str],
    ap: dict[str, float],
    least: float,
    of: str,
    iou: voc.Overlap,
    within: voc.Overlap,
) -> dict[str, Any]:
    judged = voc.judge(found, true, len(classes), iou, within)
    decisions = [judged.decisions(index) for index in range(len(classes))]
    drawn = curves.curves(classes, decisions, f"{of}, IoU 0.5")
    if not drawn:
        return {}
    recall = [curves.recall_at(each, least) for each in decisions]
    return drawn | {
        "confusion": {
            "classes": [*classes, BACKGROUND],
            "counts": confusion(found, true, len(classes), iou, within, least).tolist(),
            "of": f"{of} with a score of at least {least:g}, IoU 0.5",
        },
        "per_class": {
            "classes": list(classes),
            "bars": {
                "AP": [None if ap[name] < 0 else ap[name] for name in classes],
                "AP50": drawn["precision_recall"]["average_precision"],
                f"recall at score {least:g}": recall,
            },
            "count": judged.truths.tolist(),
            "of": "objects",
        },
    }


def box_confusion(found: Columns, true: Columns, classes: int, least: float = SCORE) -> Int[np.ndarray, "side side"]:
    return confusion(found, true, classes, voc.box_iou, voc.box_within, least)


def mask_confusion(found: Columns, true: Columns, classes: int, least: float = SCORE) -> Int[np.ndarray, "side side"]:
    true = true | {"difficult": true["difficult"] | ~true["known"]}
    return confusion(found, true, classes, _mask_iou, _mask_within, least)


def per_image(
    metrics: Metrics, classes: Sequence[str], confusion_of: Callable, least: float = SCORE
) -> list[dict[str, Any]]:
    """Each image of the batch that was added last, as Task.per_image says.

    The score is F1, with what `confusion` counts; 1 for an image that rightly has no detection.
    """
    images, found, true = (metrics[name][-1] for name in ("images", "found", "true"))
    results = []
    for image in images.tolist():
        own = ({name: column[rows["image"] == image] for name, column in rows.items()} for rows in (found, true))
        matrix = confusion_of(*own, len(classes), least)
        right = int(np.trace(matrix))
        predicted, objects = matrix[:, :-1].sum(axis=0), matrix[:-1].sum(axis=1)
        every = int(predicted.sum() + objects.sum())
        a, b = np.nonzero(matrix)
        results.append(
            {
                "score": round(2 * right / every, 4) if every else 1.0,
                "true": {classes[each]: int(objects[each]) for each in np.flatnonzero(objects)},
                "predicted": {classes[each]: int(predicted[each]) for each in np.flatnonzero(predicted)},
                "cells": np.stack([a, b, matrix[a, b]], axis=-1).tolist(),
            }
        )
    return results


def confusion(
    found: Columns, true: Columns, classes: int, iou: voc.Overlap, within: voc.Overlap, least: float
) -> Int[np.ndarray, "side side"]:
    """How often objects of each class (row) are found as each class (column); the last of both is the background.

    Detections with a score of at least `least` and objects, of any classes, are matched one to one, the pair with the
    largest IoU first, if that is at least 0.5; of equal ones first the pair of one class, then that with the higher
    score. Difficult objects and crowds are not in the matrix, nor are detections of their class on them.
    """
    shown = found["score"] >= least
    found = {name: column[shown] for name, column in found.items()}
    ignored = true["difficult"] | true["crowd"]
    counted, spared = ({name: column[rows] for name, column in true.items()} for rows in (~ignored, ignored))
    missed, wrong = np.ones(len(counted["class"]), bool), np.ones(len(found["class"]), bool)
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for rows, truths in voc.pairs(found["image"], counted["image"]):
        for row, truth in _matches(found, rows, counted, truths, iou):
            matrix[counted["class"][truth], found["class"][row]] += 1
            wrong[row] = missed[truth] = False
    for rows, truths in voc.pairs(found["image"], spared["image"]):
        overlap = np.where(
            spared["crowd"][truths], within(found, rows, spared, truths), iou(found, rows, spared, truths)
        )
        same = found["class"][rows, None] == spared["class"][truths]
        wrong[rows] &= ~(same & (overlap >= voc.MIN_IOU)).any(axis=1)
    np.add.at(matrix, (classes, found["class"][wrong]), 1)
    np.add.at(matrix, (counted["class"][missed], classes), 1)
    return matrix


def _matches(
    found: Columns, rows: np.ndarray, true: Columns, truths: np.ndarray, iou: voc.Overlap
) -> list[tuple[int, int]]:
    """The rows of the matched detections and objects of one image."""
    overlap = iou(found, rows, true, truths)
    a, b = np.nonzero(overlap >= voc.MIN_IOU)
    differs = found["class"][rows[a]] != true["class"][truths[b]]
    pairs, used_a, used_b = [], set(), set()
    for each in np.lexsort((-found["score"][rows[a]], differs, -overlap[a, b])).tolist():
        if a[each] not in used_a and b[each] not in used_b:
            used_a.add(a[each])
            used_b.add(b[each])
            pairs.append((int(rows[a[each]]), int(truths[b[each]])))
    return pairs


def _mask_iou(found: Columns, rows: np.ndarray, true: Columns, truths: np.ndarray) -> Float[np.ndarray, "n m"]:
    return _mask_overlap(found, rows, true, truths, crowd=0)


def _mask_within(found: Columns, rows: np.ndarray, true: Columns, truths: np.ndarray) -> Float[np.ndarray, "n m"]:
    return _mask_overlap(found, rows, true, truths, crowd=1)


def _mask_overlap(
    found: Columns, rows: np.ndarray, true: Columns, truths: np.ndarray, crowd: int
) -> Float[np.ndarray, "n m"]:
    """The IoU of masks; with `crowd` the intersection over the area of the detection."""
    a, b = list(found["segmentation"][rows]), list(true["segmentation"][truths])
    return np.asarray(rle.iou(a, b, [crowd] * len(b)), np.float64).reshape(len(a), len(b))
