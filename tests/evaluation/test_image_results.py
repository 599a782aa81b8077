"""What an evaluation says of each image, and which small images it keeps."""

import io
import json
import zipfile
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from drawn_detections import draw_batches, gathered
from PIL import Image

from morphism import tasks
from morphism.data.sources import load
from morphism.evaluation.image_results import BEST, PER_CELL, WORST, Choice, ImageResults
from morphism.experiments import quickstart
from morphism.experiments.base import get_base
from morphism.tasks import detection_plots
from morphism.tasks.composed import Composed, Part
from morphism.tasks.detections import columns

CLASSES = ("a", "b", "c", "d", "never there")


@pytest.fixture
def source():
    config = quickstart.get_config("classification")
    return load(config.data, "val"), config.data


def batches(source, count, size):
    """Predictions of classification: one in three is wrong, with a loss that grows with the record."""
    rng = np.random.default_rng(0)
    for start in range(0, count, size):
        ids = np.arange(start, min(start + size, count))
        label = source.labels[ids].astype(np.int32)
        found = np.where(ids % 3 == 0, (label + 1) % 10, label).astype(np.int32)
        yield {
            "id": ids,
            "label": label,
            "class": found,
            "confidence": rng.random(len(ids)).astype(np.float32),
            "rank": (found != label).astype(np.int32),
            "loss": np.log1p(ids / 10).astype(np.float32),
        }


def written(source, data, folder, confused):
    """The lines, and the archive, of 100 predictions."""
    task = tasks.get("classification")
    images = ImageResults(task, source, tuple(source.classes), data, 0.25, 50, confused)
    metrics = task.init_metrics(source)
    for batch in batches(source, 100, 16):
        metrics = task.update_metrics(metrics, batch)
        images.add(metrics, batch)
    path = images.write(folder / "eval_val", "")
    return [json.loads(line) for line in path.read_text().splitlines()], path.with_suffix(".zip"), metrics


def test_each_image_has_a_line_and_their_cells_are_the_confusion_matrix(source, tmp_path):
    source, data = source
    lines, _, metrics = written(source, data, tmp_path, 0)
    assert [line["id"] for line in lines] == list(range(100))
    assert lines[7]["score"] == pytest.approx(1 / 1.7, abs=1e-4)  # exp(-log(1 + 0.7))
    assert lines[9]["true"] == source.classes[source.labels[9]] != lines[9]["predicted"]
    total = np.zeros((10, 10), int)
    for true, found, count in (cell for line in lines for cell in line["cells"]):
        total[true, found] += count
    assert total.tolist() == tasks.get("classification").summarise(metrics)["confusion"]


def test_the_worst_the_best_and_the_first_of_each_confusion_are_kept(source, tmp_path):
    source, data = source
    lines, archive, _ = written(source, data, tmp_path, 120)
    with zipfile.ZipFile(archive) as opened:
        index, names = json.loads(opened.read("index.json")), set(opened.namelist())
        content = Image.open(io.BytesIO(opened.read("99_found.jpg")))
    assert index["worst"] == list(range(99, 99 - WORST, -1)) and index["best"] == list(range(BEST))
    assert content.size == (28, 28)
    seen, kept = Counter(), {*index["worst"], *index["best"]}
    for line in lines:
        [[true, found, _]] = line["cells"]
        seen[true, found] += true != found
        if true != found and seen[true, found] <= PER_CELL:
            kept.add(line["id"])
    assert names == {f"{each}_found.jpg" for each in kept} | {"index.json"}


def test_the_images_that_are_kept_depend_neither_on_their_order_nor_on_who_adds_them():
    rng = np.random.default_rng(3)
    cells = [rng.integers(0, [3, 3, 5000], (4, 3)).tolist() for _ in range(300)]
    scores = rng.random(300).round(2).tolist()
    results = [{"score": score, "cells": own} for score, own in zip(scores, cells, strict=True)]

    def choice(order):
        chosen = Choice(15)
        drawn = [index for index in order if chosen.add(index, results[index])]
        return chosen, drawn

    whole, drawn = choice(range(300))
    assert len(whole.kept) > WORST + BEST and len(drawn) < 200
    again = choice(rng.permutation(300).tolist())[0]
    assert (again.worst, again.best, again.kept) == (whole.worst, whole.best, whole.kept)
    parts = [choice(range(first, 300, 2))[0] for first in range(2)]
    assert {*parts[0].kept, *parts[1].kept} >= {*whole.kept}
    fullest = max(count for own in cells for true, found, count in own if true != found)
    assert fullest < 2 * max(count for index in whole.kept for true, found, count in cells[index] if true != found)


def test_no_image_is_kept_if_none_is_wanted(source, tmp_path):
    _, archive, _ = written(*source, tmp_path, 0)
    assert not archive.exists()


def test_detections_per_image_add_up_to_the_confusion_of_the_split():
    metrics, total = gathered(draw_batches(3)), np.zeros((6, 6), int)
    whole = detection_plots.box_confusion(*columns(metrics)[1:], 5)
    for batch in draw_batches(3):
        for each in detection_plots.per_image(gathered([batch]), CLASSES, detection_plots.box_confusion):
            for true, found, count in each["cells"]:
                total[true, found] += count
    assert total.tolist() == whole.tolist() and whole.sum() > 100


def test_an_images_score_is_the_f1_of_its_detections():
    (batch,) = draw_batches(0, images=1, batch=1)
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], float)
    far = [[60, 60, 70, 70]]
    batch |= {
        "true_boxes": boxes[None],
        "true_classes": np.array([[0, 1, 1]]),
        "true_crowd": np.zeros((1, 3), bool),
        "true_difficult": np.zeros((1, 3), bool),
        "true_area": np.full((1, 3), 100.0),
        "boxes": np.concatenate([boxes, far])[None].astype(np.float32),
        "classes": np.array([[0, 0, 1, 2]], np.int32),  # right, of another class, too unsure, on nothing
        "scores": np.array([[0.9, 0.8, 0.1, 0.7]], np.float32),
    }
    [found] = detection_plots.per_image(gathered([batch]), CLASSES, detection_plots.box_confusion)
    assert found["score"] == pytest.approx(2 * 1 / (3 + 3), abs=1e-4)
    assert found["true"] == {"a": 1, "b": 2} and found["predicted"] == {"a": 2, "c": 1}
    assert found["cells"] == [[0, 0, 1], [1, 0, 1], [1, 5, 1], [5, 2, 1]]
    task = tasks.get("detection").measured(get_base("detection"), 0.05)
    source = SimpleNamespace(classes=CLASSES)
    [found] = task.per_image({"gathered": gathered([batch]), "source": source}, batch)
    assert found["score"] == pytest.approx(2 * 2 / (4 + 3), abs=1e-4) and task.image_score.endswith("at least 0.05")
    plots = task.plots({"gathered": gathered([batch]), "source": source}, {"per_class": dict.fromkeys(CLASSES, -1.0)})
    assert np.trace(plots["confusion"]["counts"]) == 2 and "recall at score 0.05" in plots["per_class"]["bars"]


def test_a_segmentations_score_is_the_mean_iou_of_the_classes_in_the_image():
    task = tasks.get("segmentation")
    true = np.array([[[0, 0, 1], [1, 255, 1]]], np.uint8)
    found = np.array([[[0, 1, 1], [1, 2, 1]]], np.uint8)
    rows = {"id": np.array([4]), "true": true, "classes": found, "original_size": np.array([[2, 3]])}
    [each] = task.per_image({"classes": CLASSES}, rows)
    assert each["score"] == pytest.approx((1 / 2 + 3 / 4) / 2, abs=1e-4)
    assert each["true"] == {"b": 0.6, "a": 0.4} and each["cells"] == [[0, 1, 1]]
    unknown = rows | {"true": np.full_like(true, 255)}
    assert task.per_image({"classes": CLASSES}, unknown)[0]["score"] is None


def test_a_task_of_parts_judges_an_image_by_the_parts_whose_truth_it_has():
    task = Composed((Part("whole", tasks.get("classification")), Part("ground", tasks.get("segmentation"))))
    label = {"label": [1, 1], "class": [1, 0], "confidence": [1, 1], "rank": [0, 1], "loss": [0.0, 1.0]}
    rows = {"id": np.array([0, 1])} | {f"whole/{name}": np.array(each) for name, each in label.items()}
    rows |= {"whole/labelled": np.array([True, True]), "ground/labelled": np.array([True, False])}
    pixels = np.zeros((2, 2, 2), np.uint8)
    rows |= {"ground/classes": pixels, "ground/true": pixels, "ground/original_size": np.full((2, 2), 2)}
    metrics = {"parts": {"whole": {"names": CLASSES}, "ground": {"classes": CLASSES}}}
    both, one = task.per_image(metrics, rows)
    assert both["score"] == 1.0 and set(both["parts"]) == {"whole", "ground"}
    assert one["score"] == pytest.approx(np.exp(-1), abs=1e-4) and set(one["parts"]) == {"whole"}
