"""COCO's average precision over a validation set's worth of detections: tasks/coco.py beside pycocotools.

    python benchmarks/coco_ap.py [--images 5000] [--detections 100] [--classes 80]

Both start from the same arrays and end with the twelve numbers; `difference` is the largest between the two. On a
shared machine only CPU seconds count. pycocotools takes a minute.
"""

import argparse
import contextlib
import io
import json
import os
import time
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from morphism.data.annotations import Annotations
from morphism.tasks import coco
from morphism.tasks.detections import columns, init_metrics, update_metrics

BATCH = 8
TRUTHS = 7  # an image, on average, as in COCO
KINDS = 3  # classes in an image, as in COCO


def draw(args):
    """Batches as a detection task predicts them: half of the detections near a true box."""
    rng = np.random.default_rng(0)
    for start in range(0, args.images, BATCH):
        size = min(BATCH, args.images - start)
        slots = (size, 4 * TRUTHS)
        corners, sides = rng.uniform(0, 500, (*slots, 2)), np.exp(rng.uniform(2, 5.5, (*slots, 2)))
        kinds = rng.integers(args.classes, size=(size, KINDS))
        classes = np.take_along_axis(kinds, rng.integers(KINDS, size=slots), axis=1)
        used = np.arange(slots[1]) < rng.poisson(TRUTHS, (size, 1))
        true_boxes = np.concatenate([corners, corners + sides], axis=-1)

        of = rng.integers(slots[1], size=(size, args.detections // 2))
        near = np.take_along_axis(true_boxes, of[..., None], axis=1)
        near = near + 0.08 * np.take_along_axis(sides, of[..., None], axis=1)[..., [0, 1, 0, 1]] * rng.normal(
            size=near.shape
        )
        rest = args.detections - of.shape[1]
        corner = rng.uniform(0, 500, (size, rest, 2))
        stray = np.concatenate([corner, corner + np.exp(rng.uniform(2, 5.5, corner.shape))], axis=-1)
        batch = {
            "id": np.arange(start, start + size),
            "boxes": np.concatenate([near, stray], axis=1).astype(np.float32),
            "scores": rng.random((size, args.detections)).astype(np.float32),
            "classes": np.concatenate(
                [np.take_along_axis(classes, of, axis=1), rng.integers(args.classes, size=(size, rest))], axis=1
            ),
        }
        crowd, difficult, area = rng.random(slots) < 0.02, np.zeros(slots, bool), np.prod(sides, axis=-1) * 0.7
        truth = (true_boxes, classes, crowd, difficult, area)
        yield batch | {"truths": [Annotations(*(each[row][used[row]] for each in truth)) for row in range(size)]}


def gathered(batches):
    metrics = init_metrics()
    for batch in batches:
        metrics = update_metrics(metrics, batch, batch["truths"])
    return metrics


def morphism(batches, classes) -> list[float]:
    found = coco.summarise(gathered(batches), classes)
    return [found[name] for name in coco.NAMES]


def pycocotools(batches, classes) -> list[float]:
    images, found, true = columns(gathered(batches))
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in images.tolist()],
        "categories": [{"id": index, "name": name} for index, name in enumerate(classes)],
        "annotations": [
            {"id": row + 1, "image_id": image, "category_id": kind, "bbox": box, "area": area, "iscrowd": crowd}
            for row, (image, kind, box, area, crowd) in enumerate(
                zip(
                    *(true[n].tolist() for n in ("image", "class")),
                    xywh(true),
                    true["area"],
                    true["crowd"],
                    strict=True,
                )
            )
        ],
    }
    results = [
        {"image_id": image, "category_id": kind, "bbox": box, "score": score}
        for image, kind, box, score in zip(
            *(found[n].tolist() for n in ("image", "class")), xywh(found), found["score"].tolist(), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats.tolist()


def xywh(rows) -> list[list[float]]:
    boxes = rows["box"]
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=-1).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "coco_ap.json")
    args = parser.parse_args()

    batches, classes = list(draw(args)), [f"class {index}" for index in range(args.classes)]
    results, numbers = {}, {}
    for name, contender in (("morphism", morphism), ("pycocotools", pycocotools)):
        wall, cpu = time.perf_counter(), time.process_time()
        numbers[name] = contender(batches, classes)
        results[name] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    difference = float(np.max(np.abs(np.subtract(numbers["morphism"], numbers["pycocotools"]))))

    print(f"{args.images} images, {args.detections} detections each, {args.classes} classes")
    print(f"{'':14}{'CPU s':>8}{'wall s':>8}{'CPU, x morphism':>17}{'ap':>8}")
    for name, row in results.items():
        row["times_morphism"] = row["cpu"] / results["morphism"]["cpu"]
        print(f"{name:14}{row['cpu']:8.1f}{row['wall']:8.1f}{row['times_morphism']:17.1f}{numbers[name][0]:8.4f}")
    print(f"difference {difference:.1e}")

    settings = {name: value for name, value in vars(args).items() if name != "output"}
    record = {"cores": os.cpu_count(), **settings, "results": results, "numbers": numbers, "difference": difference}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
