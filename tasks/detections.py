"""Detections and true boxes, gathered on the host image by image, for coco.py and voc.py."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from morphism.data import outlines
from morphism.data.annotations import Annotations
from morphism.data.outlines import Outlines
from morphism.errors import UserError

Metrics = dict[str, Any]
Columns = dict[str, np.ndarray]


def init_metrics() -> Metrics:
    return {"images": [], "found": [], "true": []}


def update_metrics(metrics: Metrics, predictions: dict[str, np.ndarray], truths: Sequence[Annotations]) -> Metrics:
    """Adds a batch, with the annotations of each of its images. Raises UserError for a number that is not finite.

    predictions: id [B]; boxes [B,N,4], x0, y0, x1, y1 in pixels of the stored image; scores [B,N]; classes [B,N], -1 in
    unused slots.
    """
    ids, used = predictions["id"], predictions["classes"] >= 0
    found = {
        "image": np.repeat(ids, used.sum(axis=1)),
        "class": predictions["classes"][used],
        "score": predictions["scores"][used].astype(np.float64),
        "box": predictions["boxes"][used].astype(np.float64),
    }
    _check_numbers(found)
    truth = {
        "image": np.repeat(ids, [len(each) for each in truths]),
        "class": np.concatenate([each.classes for each in truths]),
        "box": np.concatenate([each.boxes for each in truths]).astype(np.float64),
        "area": np.concatenate([each.area for each in truths]),
        "crowd": np.concatenate([each.crowd for each in truths]),
        "difficult": np.concatenate([each.difficult for each in truths]),
    }
    return {
        "images": [*metrics["images"], ids],
        "found": [*metrics["found"], found],
        "true": [*metrics["true"], truth],
    }


def with_outlines(
    metrics: Metrics, found: Sequence[bytes], truths: Sequence[Outlines], sizes: Int[np.ndarray, "b 2"]
) -> Metrics:
    """Adds the outlines of the detections and objects of the batch that was added last, as `segmentation`.

    The box of an object whose outline is unknown stands for it; `known` says which are.

    Args:
      found: COCO's compressed run lengths of the detections, in the order of the rows and slots in use.
      truths: the outlines of each image's objects.
      sizes: height and width of each image.
    """
    (*found_before, last_found), (*true_before, last_true) = metrics["found"], metrics["true"]
    size_of = dict(zip(metrics["images"][-1].tolist(), sizes.tolist(), strict=True))
    own = [counts for each in truths for counts in each]
    true = [
        counts or _around(box, size_of[image])
        for counts, box, image in zip(own, last_true["box"], last_true["image"].tolist(), strict=True)
    ]
    last_found = last_found | {"segmentation": _outlines(found, last_found["image"], size_of)}
    last_true = last_true | {
        "segmentation": _outlines(true, last_true["image"], size_of),
        "known": np.array([len(counts) > 0 for counts in own], bool),
    }
    return metrics | {"found": [*found_before, last_found], "true": [*true_before, last_true]}


def _outlines(counts: Sequence[bytes], images: np.ndarray, size_of: dict[int, list[int]]) -> np.ndarray:
    """COCO's dictionaries of outlines, in an array of objects."""
    found = np.empty(len(counts), object)
    found[:] = [{"size": size_of[image], "counts": each} for image, each in zip(images.tolist(), counts, strict=True)]
    return found


def _around(box: Float[np.ndarray, "4"], size: Sequence[int]) -> bytes:
    """The outline of a box."""
    x0, y0, x1, y1 = box.tolist()
    return outlines.read([x0, y0, x1, y0, x1, y1, x0, y1], size).counts


def columns(metrics: Metrics) -> tuple[np.ndarray, Columns, Columns]:
    """Ids of the images; image, class, score and box per detection; image, class, box, ... per true box.

    By image, whatever the order of the batches and the number of processes: it decides between equal scores.
    """
    found, true = (_by_image(_concatenate(metrics[kind])) for kind in ("found", "true"))
    return np.sort(np.concatenate(metrics["images"])), found, true


def areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _concatenate(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _by_image(columns: Columns) -> Columns:
    order = np.argsort(columns["image"], kind="stable")
    return {name: column[order] for name, column in columns.items()}


def _check_numbers(found: Columns) -> None:
    bad = ~(np.isfinite(found["score"]) & np.isfinite(found["box"]).all(axis=-1))
    if bad.any():
        image = found["image"][np.argmax(bad)]
        raise UserError(
            f"evaluation: image {image} has a detection whose score or box is not finite: the model has diverged; "
            "train it with a lower optimizer.learning_rate, or with optimizer.clip_norm"
        )
