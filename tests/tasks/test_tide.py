"""TIDE's numbers are those of its authors' tidecv 1.0.1 (tests/goldens/make_tide.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawn_detections import draw_batches, ellipses, gathered, known_to_tide

from morphism.data.outlines import Outlines
from morphism.tasks import tide
from morphism.tasks.detections import with_outlines

CLASSES = ("a", "b", "c", "d", "never there")
GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "tide.json").read_text())


def summary(seed, mode):
    metrics = {"images": [], "found": [], "true": []}
    for batch in known_to_tide(draw_batches(seed)):
        own = gathered([batch])
        if mode == "masks":
            used = batch["classes"] >= 0
            truths = [
                Outlines.of(ellipses(boxes[classes >= 0]))
                for boxes, classes in zip(batch["true_boxes"], batch["true_classes"], strict=True)
            ]
            own = with_outlines(own, ellipses(batch["boxes"][used]), truths, np.full((len(used), 2), 400))
        metrics = {name: [*metrics[name], *own[name]] for name in metrics}
    return tide.summarise(metrics, CLASSES, of_outlines=mode == "masks")


@pytest.mark.parametrize("mode", ["boxes", "masks"])
def test_every_number_is_tidecvs(mode):
    for seed, golden in enumerate(GOLDEN[mode]):
        found = summary(seed, mode)
        assert found["errors"] == golden["errors"]
        assert found["ap50"] == pytest.approx(golden["ap50"], abs=1e-9)
        assert found["dap"] == pytest.approx(golden["dap"], abs=1e-9)
    assert all(min(golden["errors"].values()) > 0 for golden in GOLDEN[mode][1:])


def one(boxes, classes, scores, true_boxes, true_classes, **more):
    """An image's errors; objects are ordinary unless `more` says otherwise."""
    rows = len(true_boxes)
    flags = {"crowd": [False] * rows, "difficult": [False] * rows} | more
    batch = {
        "id": np.array([0]),
        "boxes": np.array([boxes], np.float32).reshape(1, -1, 4),
        "classes": np.array([classes], np.int32),
        "scores": np.array([scores], np.float32),
        "true_boxes": np.array([true_boxes], np.float64).reshape(1, -1, 4),
        "true_classes": np.array([true_classes], np.int32),
        "true_area": np.full((1, rows), 100.0),
        "true_crowd": np.array([flags["crowd"]], bool),
        "true_difficult": np.array([flags["difficult"]], bool),
    }
    return tide.summarise(gathered([batch]), CLASSES)


def test_a_box_that_is_too_small_costs_all_of_the_ap_and_is_no_missed_object():
    found = one([[0, 0, 10, 4]], [0], [0.9], [[0, 0, 10, 10]], [0])
    assert found["errors"] == dict.fromkeys(tide.KINDS, 0) | {"loc": 1}
    assert found["ap50"] == 0 and found["dap"]["loc"] == pytest.approx(1)


def test_a_detection_of_a_difficult_object_is_spared():
    boxes, far = [[0, 0, 10, 10], [50, 50, 60, 60]], [[50, 50, 60, 60], [0, 0, 10, 10]]
    found = one(boxes, [0, 0], [0.9, 0.8], far, [0, 0], difficult=[False, True])
    assert found["ap50"] == pytest.approx(1) and found["dap"]["bkg"] == 0
    assert one(boxes, [0, 0], [0.9, 0.8], far[:1], [0])["dap"]["bkg"] == pytest.approx(0.5)


def test_without_objects_no_error_has_a_cost():
    found = one([[0, 0, 10, 10]], [0], [0.9], [], [])
    assert found["ap50"] == -1 and found["errors"]["bkg"] == 1 and set(tide.table(found).values()) == {-1}
    assert one([], [], [], [[0, 0, 10, 10]], [1])["errors"]["miss"] == 1
