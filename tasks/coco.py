"""COCO's average precision and recall, of what tasks/detections.py gathers.

The rules are pycocotools': crowds neither count nor cost, truths and misses outside an area range are left out, the 100
detections of highest score of a class in a picture count. faster-coco-eval applies them in C++;
tests/tasks/test_coco_ap.py compares it with pycocotools.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from tasks.detections import Columns, Metrics, areas, columns

NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def summarise(metrics: Metrics, classes: Sequence[str]) -> dict[str, Any]:
    """COCO's twelve numbers, in its order, and `per_class`, the AP of each class: in 0..1, -1 where there is no truth.

    ap: mean over IoU 0.50, 0.55, ..., 0.95, over classes and over 101 recalls of the precision; ar: of the highest
    recall with 1, 10 or 100 detections a picture and class. Small is under 32^2 square pixels, large from 96^2.
    """
    pictures, found, true = columns(metrics)
    dataset = {
        "images": [{"id": picture} for picture in pictures.tolist()],
        "categories": [{"id": index, "name": name} for index, name in enumerate(classes)],
    }
    truth = _annotations(true, area=true["area"], iscrowd=true["crowd"].astype(int))
    detections = _annotations(found, area=areas(found["box"]), score=found["score"])
    run = COCOeval_faster(
        COCO(dataset | {"annotations": truth}), COCO(dataset | {"annotations": detections}), iouType="bbox"
    )
    run.run()
    precision = run.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class, area range, detections a picture
    return dict(zip(NAMES, map(float, run.all_stats), strict=False)) | {
        "pictures": len(pictures),
        "per_class": {name: _mean(precision[:, :, index]) for index, name in enumerate(classes)},
    }


def write_results(path: Path, metrics: Metrics, category_ids: Sequence[int], picture_ids: Sequence[int | str]) -> None:
    """What was found, as COCO's evaluation server wants it: `category_ids` of the classes, `picture_ids` of the ids."""
    _, found, _ = columns(metrics)
    rows = zip(*(found[name].tolist() for name in ("picture", "class", "score")), _xywh(found["box"]), strict=True)
    pictures = np.asarray(picture_ids).tolist()
    results = [
        {"image_id": pictures[picture], "category_id": category_ids[kind], "bbox": box, "score": score}
        for picture, kind, score, box in rows
    ]
    path.write_text(json.dumps(results, allow_nan=False))


def _annotations(rows: Columns, **more: np.ndarray) -> list[dict[str, Any]]:
    """COCO's records, numbered from 1: to its matching 0 is no record."""
    names = ("id", "image_id", "category_id", "bbox", *more)
    count = len(rows["picture"])
    values = (range(1, count + 1), rows["picture"].tolist(), rows["class"].tolist(), _xywh(rows["box"]))
    more_values = (column.tolist() for column in more.values())
    return [dict(zip(names, row, strict=True)) for row in zip(*values, *more_values, strict=True)]


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=-1).tolist()


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0
