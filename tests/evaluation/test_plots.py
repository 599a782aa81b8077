"""Plots: their numbers against brute force, and that whatever a split holds can be drawn."""

import io

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_detections import draw_batches, gathered
from faster_coco_eval.core import mask as rle
from PIL import Image

from morphism import tasks
from morphism.data.annotations import NO_OBJECTS, Annotations
from morphism.data.loose import LooseImages
from morphism.evaluation import curves, plots
from morphism.tasks import coco, detection_plots, voc
from morphism.tasks.curves import GRID, Decisions
from morphism.tasks.curves import curves as curves_of
from morphism.tasks.detections import init_metrics, update_metrics

CLASSES = ("$$ a^_{", "_hidden", "a name of more letters than there is room for in any image", "犬", "never there")
CLASSIFICATION = tasks.get("classification")


def size(png):
    return Image.open(io.BytesIO(png)).size


def classified(logits, labels, classes):
    """The plots' numbers of a classification, gathered in two batches."""
    metrics = CLASSIFICATION.init_metrics(LooseImages([], classes))
    for rows in (slice(None, 7), slice(7, None)):
        batch = {"label": jnp.array(labels[rows]), "id": jnp.arange(len(labels))[rows]}
        found = CLASSIFICATION.predict(nn.Module(), jnp.array(logits[rows], jnp.float32), batch)
        metrics = CLASSIFICATION.update_metrics(metrics, {name: np.asarray(x) for name, x in found.items()})
    return CLASSIFICATION.plots(metrics, CLASSIFICATION.summarise(metrics)), metrics


def found_everywhere(score):
    """One image with one object, and one detection at its place."""
    box = np.float32([[[1, 1, 9, 9]]])
    found = {"id": np.array([0]), "boxes": box, "scores": np.float32([[score]]), "classes": np.array([[0]])}
    one = Annotations(box[0], np.zeros(1, np.int32), np.zeros(1, bool), np.zeros(1, bool), np.ones(1) * 64.0)
    return update_metrics(init_metrics(), found, [one])


def test_curves_are_those_of_every_threshold_tried():
    rng = np.random.default_rng(0)
    scores, right = np.sort(rng.integers(0, 100, 60) / 100)[::-1], rng.random(60) < 0.6
    decisions = Decisions(scores, np.cumsum(right), np.arange(1, 61), 50)
    drawn = curves_of(("a", "b"), [decisions, decisions._replace(truths=0)], "any")
    f1 = [2 * right[scores >= t].sum() / ((scores >= t).sum() + 50) for t in GRID.round(2)]
    np.testing.assert_allclose(drawn["f1_threshold"]["f1"][0], f1, atol=1e-4)
    best = drawn["f1_threshold"]["mean"]["best"]
    assert best["f1"] == pytest.approx(max(f1)) and f1[round(100 * best["threshold"])] == pytest.approx(max(f1))
    points = [(right[:k].sum() / 50, right[:k].sum() / k) for k in range(1, 61)]
    highest = [max((p for r, p in points if r >= level - 1e-9), default=0) for level in GRID]
    np.testing.assert_allclose(drawn["precision_recall"]["precision"][0], highest, atol=1e-4)
    assert drawn["precision_recall"]["precision"][1] is None and drawn["f1_threshold"]["best"][1] is None


def test_the_area_under_the_drawn_precision_is_the_ap50_of_the_table():
    metrics = gathered(draw_batches(3))
    drawn = detection_plots.of_boxes(metrics, CLASSES, coco.summarise(metrics, CLASSES)["per_class"])
    table, area = voc.summarise(metrics, CLASSES), drawn["precision_recall"]["average_precision"]
    assert area == [None if value < 0 else value for value in table["per_class"].values()]
    assert drawn["precision_recall"]["mean"]["average_precision"] == pytest.approx(table["map"], abs=1e-12)
    rectangles = np.mean(drawn["precision_recall"]["mean"]["precision"])
    assert rectangles == pytest.approx(table["map"], abs=0.02)


def test_each_object_and_each_detection_is_in_the_confusion_once_unless_it_is_ignored():
    batches = list(draw_batches(1))
    matrix = np.array(
        detection_plots.of_boxes(gathered(batches), CLASSES, dict.fromkeys(CLASSES, -1.0))["confusion"]["counts"]
    )
    true = np.zeros(len(CLASSES), int)
    found = 0
    for batch in batches:
        counts = (batch["true_classes"] >= 0) & ~batch["true_crowd"] & ~batch["true_difficult"]
        true += np.bincount(batch["true_classes"][counts], minlength=len(CLASSES))
        found += int(((batch["classes"] >= 0) & (batch["scores"] >= np.float32(0.25))).sum())
    assert matrix[:-1].sum(axis=1).tolist() == true.tolist() and matrix[-1, -1] == 0
    assert 0.5 * found < matrix[:, :-1].sum() < found  # those on crowds and difficult objects are not there
    assert matrix[0, 0] > matrix[0, 1]


@pytest.mark.parametrize(
    ("kind", "score", "expected"),
    [(0, 0.9, [[1, 0, 0], [0, 0, 0], [0, 0, 0]]), (1, 0.9, [[0, 1, 0], [0, 0, 0], [0, 0, 0]]), (0, 0.1, [[0, 0, 1]])],
)
def test_an_object_is_found_confused_or_missed(kind, score, expected):
    metrics = found_everywhere(score)
    metrics["found"][0]["class"] = np.array([kind])
    matrix = detection_plots.of_boxes(metrics, ("a", "b"), {"a": 1.0, "b": -1.0})["confusion"]["counts"]
    assert matrix[: len(expected)] == expected


def test_masks_are_judged_by_their_own_overlap():
    metrics = found_everywhere(0.9)
    half, whole = np.zeros((2, 10, 10), np.uint8)
    half[1:4, 1:9], whole[1:9, 1:9] = 1, 1
    encoded = [rle.encode(np.asfortranarray(each)) for each in (half, whole)]
    for name, outline in zip(("found", "true"), encoded, strict=True):
        metrics[name][0]["segmentation"] = np.array([outline], object)
    metrics["true"][0]["known"] = np.array([True])
    ap = {"a": 1.0}
    assert detection_plots.of_boxes(metrics, ("a",), ap)["confusion"]["counts"] == [[1, 0], [0, 0]]
    assert detection_plots.of_masks(metrics, ("a",), ap)["confusion"]["counts"] == [[0, 1], [1, 0]]


def test_one_class_against_the_rest_counts_every_example_once():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(40, 3)) * 2, rng.integers(0, 3, 40).astype(np.int32)
    drawn, metrics = classified(logits, labels, ("a", "b", "c"))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for index in range(3):
        accepted = p[:, index] >= 0.3
        f1 = 2 * (accepted & (labels == index)).sum() / (accepted.sum() + (labels == index).sum())
        assert drawn["f1_threshold"]["f1"][index][30] == pytest.approx(f1, abs=1e-4)
    assert metrics["scores"].sum(axis=(1, 2)).tolist() == [120, 40]
    predicted = logits.argmax(axis=1)
    recall = [(predicted[labels == index] == index).mean() for index in range(3)]
    assert drawn["per_class"]["bars"]["recall"] == pytest.approx(recall)
    reliability = drawn["reliability"]
    gaps = [
        n * abs(a - c)
        for n, a, c in zip(reliability["examples"], reliability["accuracy"], reliability["confidence"], strict=True)
        if n
    ]
    assert sum(gaps) / 40 == pytest.approx(reliability["calibration_error"])


@pytest.mark.parametrize("count", [1, 5, 60, 1001])
def test_any_number_of_classes_is_drawn_with_classes_that_are_missing(count):
    classes = tuple((*CLASSES, *map(str, range(count)))[:count])
    matrix = np.eye(count, dtype=int)
    matrix[-1] = 0
    cells = {"counts": matrix.tolist()} if count <= 1000 else {"cells": [[0, 0, 3], [0, 9, 1]]}
    bars = {"IoU": [None, *[0.5] * (count - 1)], "recall": [None] * count}
    precision = [None if index == 3 else [1.0] * 101 for index in range(min(count, 60))]
    curve = {"classes": classes[:60], "of": "boxes", "recall": GRID.tolist(), "precision": precision}
    area = [None if each is None else 0.5 for each in precision]
    curve |= {"average_precision": area, "mean": {"precision": [1.0] * 101, "average_precision": 0.5}}
    numbers = {
        "part/confusion": {"classes": classes, "of": "pixels"} | cells,
        "per_class": {"classes": classes, "bars": bars, "count": [10**6] * count, "of": "pixels"},
        "precision_recall": curve,
    }
    drawn = dict(plots.draw(numbers))
    assert drawn.keys() == numbers.keys() and all(min(size(each)) > 200 for each in drawn.values())


def test_a_split_without_objects_has_no_plots():
    empty = {"id": np.array([0]), "boxes": np.zeros((1, 1, 4)), "scores": np.zeros((1, 1)), "classes": np.array([[-1]])}
    metrics = update_metrics(init_metrics(), empty, [NO_OBJECTS])
    assert detection_plots.of_boxes(metrics, ("a",), {"a": -1.0}) == {}


def test_values_of_training_and_validation_share_a_panel():
    lines = ['{"step": 1, "train/loss": 2.0, "train/grad_norm": 1.0}', '{"step": 2, "val/loss": 3.0, "val/ap": -1}']
    assert curves.series(lines) == {
        "loss": {"train": [(1, 2.0)], "val": [(2, 3.0)]},
        "ap": {"val": [(2, -1)]},
        "grad_norm": {"train": [(1, 1.0)]},
    }
    assert min(size(curves.draw(lines))) > 200 and min(size(curves.draw([]))) > 100
