"""COCO's average precision and recall of the detections that tasks/detections.py gathers.

The rules are those of pycocotools: crowds, and detections of them, do not count; nor do objects and unmatched
detections outside an area range. The 100 detections with the highest scores per class and image count. A difficult
object, which COCO does not know, is ignored as a crowd is. faster-coco-eval applies the rules in C++;
tests/tasks/test_coco_ap.py compares it with pycocotools.
"""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle

from morphism.tasks.detections import Columns, Metrics, areas, columns

NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def summarise(metrics: Metrics, classes: Sequence[str], of_outlines: bool = False) -> dict[str, Any]:
    """COCO's twelve numbers, in its order, and `per_class`, the AP per class; in 0..1, -1 if there are no objects.

    Overlaps are those of boxes, or `of_outlines`; an object whose outline is unknown is then ignored as a difficult
    one is (`with_outlines` of detections.py).

    ap: the mean precision over IoU thresholds 0.50, 0.55, ..., 0.95, classes and 101 recalls. ar: the mean over
    thresholds and classes of the highest recall with 1, 10 or 100 detections per image and class. Small objects have
    up to 32^2 square pixels, medium ones up to 96^2, large ones up to 1e10; an object on a limit belongs to both.
    """
    images, found, true = columns(metrics)
    ignored, area = true["crowd"] | true["difficult"], areas(found["box"])
    if of_outlines:
        ignored = ignored | ~true["known"]
        area = np.array([rle.area(each) for each in found["segmentation"]], np.float64)
    dataset = {
        "images": _images(images.tolist(), (found, true) if of_outlines else ()),
        "categories": [{"id": index, "name": name} for index, name in enumerate(classes)],
    }
    truth = _annotations(true, area=true["area"], iscrowd=ignored.astype(int), crowd=true["crowd"].astype(int))
    detections = _annotations(found, area=area, score=found["score"])
    kind = "segm" if of_outlines else "bbox"
    run = _Evaluation(COCO(dataset | {"annotations": truth}), COCO(dataset | {"annotations": detections}), iouType=kind)
    run.run()
    precision = run.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class, area range, detections per image
    return dict(zip(NAMES, map(float, run.all_stats), strict=False)) | {
        "images": len(images),
        "per_class": {name: _mean(precision[:, :, index]) for index, name in enumerate(classes)},
    }


class _Evaluation(COCOeval_faster):
    """Its objects have `iscrowd`, 1 for all that are ignored, and `crowd`, 1 only for crowds."""

    def computeIoU(self, imgId: SupportsIndex, catId: SupportsIndex) -> Any:
        """[detections, objects]: the intersection over the union; with a crowd over the detection's area."""
        truths = self.gt_dataset.get_instances([imgId], [catId], True)[0][0]  # the records themselves, not copies
        ignored = [truth["iscrowd"] for truth in truths]
        for truth in truths:
            truth["iscrowd"] = truth["crowd"]
        overlaps = super().computeIoU(imgId, catId)
        for truth, value in zip(truths, ignored, strict=True):
            truth["iscrowd"] = value
        return overlaps


def results(
    metrics: Metrics, category_ids: Sequence[int | str | None], image_ids: Sequence[int | str] | np.ndarray
) -> list[dict[str, Any]]:
    """All detections in the format of COCO's evaluation server, with their outlines if they have some.

    `category_ids` and `image_ids` are the dataset's own ids of classes and images, integers or strings. Detections of a
    class whose id is None, which the dataset does not have, are left out.
    """
    _, found, _ = columns(metrics)
    rows = zip(*(found[name].tolist() for name in ("image", "class", "score")), _xywh(found["box"]), strict=True)
    images = image_ids.tolist() if isinstance(image_ids, np.ndarray) else image_ids
    records = [
        {"image_id": images[image], "category_id": category_ids[kind], "bbox": box, "score": score}
        for image, kind, score, box in rows
    ]
    if "segmentation" in found:
        records = [a | {"segmentation": text_of(b)} for a, b in zip(records, found["segmentation"], strict=True)]
    return [each for each in records if each["category_id"] is not None]


def text_of(outline: dict[str, Any]) -> dict[str, Any]:
    """An outline, {"size": [height, width], "counts": run lengths}, as JSON has it."""
    return outline | {"counts": outline["counts"].decode()}


def _images(images: Sequence[int], outlined: Sequence[Columns]) -> list[dict[str, int]]:
    """COCO's records of the images; those that rows of `outlined` have an outline in also have their size."""
    sizes = {
        image: dict(zip(("height", "width"), outline["size"], strict=True))
        for rows in outlined
        for image, outline in zip(rows["image"].tolist(), rows["segmentation"], strict=True)
    }
    return [{"id": image, **sizes.get(image, {})} for image in images]


def _annotations(rows: Columns, **more: np.ndarray) -> list[dict[str, Any]]:
    """COCO's records, numbered from 1, since 0 means "no record" in its matching."""
    if "segmentation" in rows:
        more["segmentation"] = rows["segmentation"]
    names = ("id", "image_id", "category_id", "bbox", *more)
    count = len(rows["image"])
    values = (range(1, count + 1), rows["image"].tolist(), rows["class"].tolist(), _xywh(rows["box"]))
    more_values = (column.tolist() for column in more.values())
    return [dict(zip(names, row, strict=True)) for row in zip(*values, *more_values, strict=True)]


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=-1).tolist()


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0
