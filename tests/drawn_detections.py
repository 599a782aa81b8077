"""Batches of random detections and truths, as a detection task predicts them: with near misses, doubles and ties."""

import numpy as np
from faster_coco_eval.core import mask as rle

from morphism.data.annotations import Annotations
from morphism.tasks.detections import init_metrics, update_metrics

PADDING = 3


def draw_batches(seed, images=24, classes=5, batch=8):
    rng = np.random.default_rng(seed)
    rows = [_image(rng, classes) for _ in range(images)]
    for start in range(0, images, batch):
        found, true = zip(*rows[start : start + batch], strict=True)
        yield {"id": np.arange(start, start + len(found)), **_pad(found), **_pad(true)}


def gathered(batches):
    """The metrics of batches; true boxes of class -1 are unused slots."""
    metrics = init_metrics()
    for batch in batches:
        names = ("boxes", "classes", "crowd", "difficult", "area")
        truths = [
            Annotations(*(batch[f"true_{name}"][row][used] for name in names))
            for row, used in enumerate(batch["true_classes"] >= 0)
        ]
        metrics = update_metrics(metrics, batch, truths)
    return metrics


def _image(rng, classes):
    """Found and true objects. Whole pixels, and scores in hundredths, so that there are ties."""
    count = rng.integers(0, 8)
    x0, y0 = rng.integers(0, 200, (2, count))
    sides = np.exp(rng.uniform(1.5, 6, (2, count))).astype(int) + 1
    boxes = np.stack([x0, y0, x0 + sides[0], y0 + sides[1]], axis=-1)
    labels = rng.integers(0, classes - 1, count)  # the last class never occurs
    true = {
        "true_boxes": boxes.astype(np.float64),
        "true_classes": labels.astype(np.int32),
        "true_area": np.prod(sides, axis=0) * rng.uniform(0.5, 1, count),
        "true_crowd": rng.random(count) < 0.15,
        "true_difficult": rng.random(count) < 0.2,
    }
    of = rng.integers(0, max(count, 1), rng.integers(0, 14)) if count else np.zeros(0, int)
    near = boxes[of] + rng.normal(size=(len(of), 4)) * rng.choice([0, 1, 6], (len(of), 1))
    stray = np.sort(rng.uniform(0, 300, (3, 2, 2)), axis=1).reshape(-1, 4)
    found = np.concatenate([near, stray])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    guessed = np.concatenate([labels[of], rng.integers(0, classes, 3)])
    wrong = rng.random(len(guessed)) < 0.1
    return {
        "boxes": found.astype(np.float32),
        "classes": np.where(wrong, rng.integers(0, classes, len(guessed)), guessed).astype(np.int32),
        "scores": (rng.integers(1, 100, len(guessed)) / 100).astype(np.float32),
    }, true


def _pad(objects):
    """One array of each field, with unused slots, whose class is -1 and whose other fields must not matter."""
    slots = max(len(next(iter(each.values()))) for each in objects) + PADDING
    padded = {}
    for name, first in objects[0].items():
        fill = -1 if name.endswith("classes") else 1
        padded[name] = np.full((len(objects), slots, *first.shape[1:]), fill, first.dtype)
        for row, each in enumerate(objects):
            padded[name][row, : len(each[name])] = each[name]
    return padded


def known_to_tide(batches):
    """The batches without difficult objects, which tidecv does not know."""
    for batch in batches:
        yield batch | {"true_difficult": np.zeros_like(batch["true_difficult"])}


def ellipses(boxes, size=400):
    """COCO's compressed run lengths of the ellipse within each box, in an image of size x size pixels."""
    row, column = np.mgrid[:size, :size] + 0.5
    found = []
    for x0, y0, x1, y1 in np.asarray(boxes, float).tolist():
        across = (2 * column - x0 - x1) / (x1 - x0)
        down = (2 * row - y0 - y1) / (y1 - y0)
        found.append(rle.encode(np.asfortranarray(across**2 + down**2 <= 1, np.uint8))["counts"])
    return found
