from fractions import Fraction

import numpy as np
import pytest
from drawn_detections import draw_batches, gathered

from morphism.tasks import voc

CLASSES = ("a", "b", "c", "d", "never there")


def devkit(batches, label):
    """VOCevaldet's rule, detection by detection, on pixels counted from 1: (precision, recall) after each that counts.

    None where there is nothing to find.
    """
    truths, crowds, detections = {}, {}, []
    for batch in batches:
        for row, image in enumerate(batch["id"].tolist()):
            slots = np.flatnonzero((batch["true_classes"][row] == label) & ~batch["true_crowd"][row])
            truths[image] = [
                {"box": pixels(batch["true_boxes"][row, s]), "hard": batch["true_difficult"][row, s], "taken": False}
                for s in slots
            ]
            slots = np.flatnonzero((batch["true_classes"][row] == label) & batch["true_crowd"][row])
            crowds[image] = [pixels(batch["true_boxes"][row, s]) for s in slots]
            for s in np.flatnonzero(batch["classes"][row] == label):
                detections.append((-batch["scores"][row, s], len(detections), image, pixels(batch["boxes"][row, s])))
    wanted = sum(not truth["hard"] for each in truths.values() for truth in each)
    if not wanted:
        return None
    right = wrong = 0
    curve = []
    for _, _, image, box in sorted(detections, key=lambda d: d[:2]):
        best, best_overlap = None, Fraction(-1)
        for truth in truths[image]:
            overlap = overlap_of_pixels(box, truth["box"])
            if overlap > best_overlap:
                best, best_overlap = truth, overlap
        if best is None or best_overlap < Fraction(1, 2):
            if any(2 * common_pixels(box, crowd) >= common_pixels(box, box) for crowd in crowds[image]):
                continue
            wrong += 1
        elif best["hard"]:
            continue
        elif best["taken"]:
            wrong += 1
        else:
            right, best["taken"] = right + 1, True
        curve.append((Fraction(right, right + wrong), Fraction(right, wanted)))
    return curve


def pixels(edges):
    """xmin, ymin, xmax, ymax: the first and last pixel, counted from 1."""
    x0, y0, x1, y1 = (Fraction(float(edge)) for edge in edges)
    return x0 + 1, y0 + 1, x1, y1


def common_pixels(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(width, Fraction(0)) * max(height, Fraction(0))


def overlap_of_pixels(a, b):
    common = common_pixels(a, b)
    return common / (common_pixels(a, a) + common_pixels(b, b) - common)


def eleven_points(curve):
    return sum(max([p for p, r in curve if r >= Fraction(t, 10)], default=0) for t in range(11)) / Fraction(11)


def area_under(curve):
    """The precision at each recall is the highest at it or beyond."""
    area, before = Fraction(0), Fraction(0)
    for index, (_, recall) in enumerate(curve):
        area += (recall - before) * max(p for p, _ in curve[index:])
        before = recall
    return area


@pytest.mark.parametrize("seed", range(4))
def test_average_precisions_are_the_devkits_rule_in_fractions(seed):
    batches = list(draw_batches(seed))
    found = voc.summarise(gathered(batches), CLASSES)
    curves = [devkit(batches, label) for label in range(len(CLASSES))]
    assert curves[-1] is None and all(curves[:-1])
    for name, curve in zip(CLASSES[:-1], curves, strict=False):
        assert found["per_class"][name] == pytest.approx(float(area_under(curve)), abs=1e-12)
        assert found["per_class_07"][name] == pytest.approx(float(eleven_points(curve)), abs=1e-12)
    assert found["per_class"]["never there"] == found["per_class_07"]["never there"] == -1
    assert found["map"] == pytest.approx(np.mean([float(area_under(curve)) for curve in curves[:-1]]))
    assert found["map_07"] == pytest.approx(np.mean([float(eleven_points(curve)) for curve in curves[:-1]]))
    assert 0.05 < found["map"] < 0.95 and found["map_07"] != found["map"]
    assert voc.summarise(gathered(batches[::-1]), CLASSES) == found  # many scores are equal


def one_image(boxes, scores, true_boxes, difficult):
    count, truths = len(boxes), len(true_boxes)
    return {
        "id": np.array([0]),
        "boxes": np.float32(boxes).reshape(1, count, 4),
        "scores": np.float32(scores).reshape(1, count),
        "classes": np.zeros((1, count), np.int32),
        "true_boxes": np.float32(true_boxes).reshape(1, truths, 4),
        "true_classes": np.zeros((1, truths), np.int32),
        "true_area": np.ones((1, truths)),
        "true_crowd": np.zeros((1, truths), bool),
        "true_difficult": np.array(difficult, bool).reshape(1, truths),
    }


def test_a_second_detection_of_an_object_is_wrong_and_of_a_difficult_one_is_left_out():
    box, other = [0, 0, 10, 10], [50, 50, 60, 60]
    doubled = one_image([box, box, other], [0.9, 0.8, 0.7], [box, other], [False, False])
    assert voc.summarise(gathered([doubled]), ["a"])["map"] == pytest.approx((1 + 2 / 3) / 2)
    hard = one_image([box, box, other], [0.9, 0.8, 0.7], [box, other], [True, False])
    assert voc.summarise(gathered([hard]), ["a"])["map"] == 1


def test_detections_in_a_crowd_are_left_out_unless_they_find_an_object_and_a_crowd_need_not_be_found():
    crowd, person, aside = [0, 0, 100, 100], [10, 10, 20, 30], [150, 0, 160, 10]
    parts = [[50, 50, 60, 60], [90, 0, 109, 10], [91, 0, 112, 10]]  # of the last two 10 of 19 and 9 of 21 inside
    for boxes, expected in (
        ([person], 1.0),
        ([parts[0], parts[1], person], 1.0),
        ([parts[2], person], 0.5),
        ([crowd, person], 1.0),
        ([aside, person], 0.5),
        ([person, person, aside], 1.0),
    ):
        found = one_image(boxes, np.linspace(0.9, 0.1, len(boxes)), [crowd, person], [False, False])
        found["true_crowd"] = np.array([[True, False]])
        assert voc.summarise(gathered([found]), ["a"])["map"] == pytest.approx(expected)


def test_an_overlap_of_exactly_a_half_suffices():
    found = one_image([[0, 0, 10, 5], [20, 0, 30, 4.99]], [0.9, 0.8], [[0, 0, 10, 10], [20, 0, 30, 10]], [False] * 2)
    assert voc.summarise(gathered([found]), ["a"])["map"] == pytest.approx(0.5)


def test_without_truths_or_detections_nothing_fails():
    nothing = one_image([], [], [], [])
    assert voc.summarise(gathered([nothing]), ["a"])["map"] == -1
    missed = one_image([], [], [[0, 0, 10, 10]], [False])
    assert voc.summarise(gathered([missed]), ["a"])["map"] == 0
