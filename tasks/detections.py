"""What a detector found, and what there was to find: gathered picture by picture on the host, for coco.py, voc.py."""

from typing import Any

import numpy as np

from morphism.errors import UserError

Metrics = dict[str, Any]
Columns = dict[str, np.ndarray]


def init_metrics() -> Metrics:
    return {"pictures": [], "found": [], "true": []}


def update_metrics(metrics: Metrics, predictions: dict[str, np.ndarray]) -> Metrics:
    """Adds a batch. Boxes are x0, y0, x1, y1: the edges of boxes in pixels of the picture as it is stored.

    id [B]; boxes [B,N,4], scores [B,N], classes [B,N] with -1 in unused slots; of the truth true_boxes [B,M,4],
    true_classes [B,M] with -1 in unused slots, and what data.annotations.Annotations tells of each: true_area [B,M] in
    square pixels, true_crowd and true_difficult [B,M]. Raises UserError at a number that is not finite.
    """
    ids, used, true = predictions["id"], predictions["classes"] >= 0, predictions["true_classes"] >= 0
    found = {
        "picture": np.repeat(ids, used.sum(axis=1)),
        "class": predictions["classes"][used],
        "score": predictions["scores"][used].astype(np.float64),
        "box": predictions["boxes"][used].astype(np.float64),
    }
    _check_numbers(found)
    truth = {
        "picture": np.repeat(ids, true.sum(axis=1)),
        "class": predictions["true_classes"][true],
        "box": predictions["true_boxes"][true].astype(np.float64),
        "area": predictions["true_area"][true].astype(np.float64),
        "crowd": predictions["true_crowd"][true].astype(bool),
        "difficult": predictions["true_difficult"][true].astype(bool),
    }
    return {
        "pictures": [*metrics["pictures"], ids],
        "found": [*metrics["found"], found],
        "true": [*metrics["true"], truth],
    }


def columns(metrics: Metrics) -> tuple[np.ndarray, Columns, Columns]:
    """Ids of the pictures; of every box found its picture, class, score, box; of every true one picture, class, ..."""
    found, true = (_concatenate(metrics[kind]) for kind in ("found", "true"))
    return np.concatenate(metrics["pictures"]), found, true


def areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _concatenate(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_numbers(found: Columns) -> None:
    bad = ~(np.isfinite(found["score"]) & np.isfinite(found["box"]).all(axis=-1))
    if bad.any():
        picture = found["picture"][np.argmax(bad)]
        raise UserError(
            f"evaluation: picture {picture} has a detection whose score or box is no finite number: "
            "the model has diverged; train it with a lower optimizer.lr or with gradient clipping"
        )
