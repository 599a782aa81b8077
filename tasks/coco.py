"""COCO's average precision and recall, of what tasks/detections.py gathers.

The rules are pycocotools': crowds neither count nor cost, truths and misses outside an area range are left out, the 100
detections of highest score of a class in a picture count. A difficult object, which COCO does not know, is ignored as
a crowd is: it need not be found, and detections of it are left out. faster-coco-eval applies the rules in C++;
tests/tasks/test_coco_ap.py compares it with pycocotools.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from morphism.tasks.detections import Columns, Metrics, areas, columns

NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def summarise(metrics: Metrics, classes: Sequence[str]) -> dict[str, Any]:
    """COCO's twelve numbers, in its order, and `per_class`, the AP of each class: in 0..1, -1 where there is no truth.

    ap: mean over IoU 0.50, 0.55, ..., 0.95, over classes and over 101 recalls of the precision; ar: of the highest
    recall with 1, 10 or 100 detections a picture and class. Small is up to 32^2 square pixels, medium from there to
    96^2, large from there to 1e10; an object on a limit belongs to both ranges.
    """
    pictures, found, true = columns(metrics)
    dataset = {
        "images": [{"id": picture} for picture in pictures.tolist()],
        "categories": [{"id": index, "name": name} for index, name in enumerate(classes)],
    }
    ignored = true["crowd"] | true["difficult"]
    truth = _annotations(true, area=true["area"], iscrowd=ignored.astype(int), crowd=true["crowd"].astype(int))
    detections = _annotations(found, area=areas(found["box"]), score=found["score"])
    run = _Evaluation(
        COCO(dataset | {"annotations": truth}), COCO(dataset | {"annotations": detections}), iouType="bbox"
    )
    run.run()
    precision = run.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class, area range, detections a picture
    return dict(zip(NAMES, map(float, run.all_stats), strict=False)) | {
        "pictures": len(pictures),
        "per_class": {name: _mean(precision[:, :, index]) for index, name in enumerate(classes)},
    }


class _Evaluation(COCOeval_faster):
    """Its truths have `iscrowd`, 1 for all that are ignored, and `crowd`, 1 for crowds only."""

    def computeIoU(self, imgId: int, catId: int) -> Any:
        """[detections, truths]: the intersection over the union, or with a crowd over the detection's area."""
        truths = self.gt_dataset.get_instances([imgId], [catId], True)[0][0]  # the records themselves, not copies
        ignored = [truth["iscrowd"] for truth in truths]
        for truth in truths:
            truth["iscrowd"] = truth["crowd"]
        overlaps = super().computeIoU(imgId, catId)
        for truth, value in zip(truths, ignored, strict=True):
            truth["iscrowd"] = value
        return overlaps


def results(
    metrics: Metrics, category_ids: Sequence[int | str | None], picture_ids: Sequence[int | str]
) -> list[dict[str, Any]]:
    """All that was found, as COCO's evaluation server wants it.

    `category_ids` and `picture_ids` are the dataset's own ids of classes and images. They stay as they are, whatever
    their size or kind. A class whose id is None is none of the data's: nothing can be judged by it, and what was found
    of it is left out.
    """
    _, found, _ = columns(metrics)
    rows = zip(*(found[name].tolist() for name in ("picture", "class", "score")), _xywh(found["box"]), strict=True)
    pictures = picture_ids.tolist() if isinstance(picture_ids, np.ndarray) else picture_ids
    return [
        {"image_id": pictures[picture], "category_id": category_ids[kind], "bbox": box, "score": score}
        for picture, kind, score, box in rows
        if category_ids[kind] is not None
    ]


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
