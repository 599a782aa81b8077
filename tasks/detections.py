"""Detections and true boxes, gathered on the host image by image, for coco.py and voc.py."""

from typing import Any

import numpy as np

from morphism.errors import UserError

Metrics = dict[str, Any]
Columns = dict[str, np.ndarray]


def init_metrics() -> Metrics:
    return {"images": [], "found": [], "true": []}


def update_metrics(metrics: Metrics, predictions: dict[str, np.ndarray]) -> Metrics:
    """Adds a batch. Boxes are x0, y0, x1, y1: their edges in pixels of the stored image.

    predictions: id [B]; boxes [B,N,4], scores [B,N] and classes [B,N], -1 in unused slots; true_boxes [B,M,4] and
    true_classes [B,M], -1 in unused slots, with true_area [B,M] in square pixels, true_crowd and true_difficult [B,M],
    as in data.annotations.Annotations. Raises UserError for a number that is not finite.
    """
    ids, used, true = predictions["id"], predictions["classes"] >= 0, predictions["true_classes"] >= 0
    found = {
        "image": np.repeat(ids, used.sum(axis=1)),
        "class": predictions["classes"][used],
        "score": predictions["scores"][used].astype(np.float64),
        "box": predictions["boxes"][used].astype(np.float64),
    }
    _check_numbers(found)
    truth = {
        "image": np.repeat(ids, true.sum(axis=1)),
        "class": predictions["true_classes"][true],
        "box": predictions["true_boxes"][true].astype(np.float64),
        "area": predictions["true_area"][true].astype(np.float64),
        "crowd": predictions["true_crowd"][true].astype(bool),
        "difficult": predictions["true_difficult"][true].astype(bool),
    }
    return {
        "images": [*metrics["images"], ids],
        "found": [*metrics["found"], found],
        "true": [*metrics["true"], truth],
    }


def columns(metrics: Metrics) -> tuple[np.ndarray, Columns, Columns]:
    """Ids of the images; image, class, score and box per detection; image, class, box, ... per true box."""
    found, true = (_concatenate(metrics[kind]) for kind in ("found", "true"))
    return np.concatenate(metrics["images"]), found, true


def areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _concatenate(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_numbers(found: Columns) -> None:
    bad = ~(np.isfinite(found["score"]) & np.isfinite(found["box"]).all(axis=-1))
    if bad.any():
        image = found["image"][np.argmax(bad)]
        raise UserError(
            f"evaluation: image {image} has a detection whose score or box is not finite: the model has diverged; "
            "train it with a lower optimizer.learning_rate, or with optimizer.clip_norm"
        )
