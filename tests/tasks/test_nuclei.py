"""The nuclei papers' measures against brute force on pixels, and cases by hand."""

import json

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from morphism import tasks
from morphism.data.annotations import Annotations
from morphism.data.outlines import Outlines
from morphism.experiments.base import get_base
from morphism.runtime.validation import check_config
from morphism.tasks import nuclei

SIZE = (26, 34)


def outlines(masks):
    return [rle.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]


def measured(found, true, ignored=()):
    return nuclei.measure(*map(outlines, (found, true, ignored)))


def summary(found, true, ignored=()):
    return nuclei.numbers(measured(found, true, ignored))


def box(top, left, bottom, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def cells(rng, count, shift=0, overlap=False):
    """Masks of discs that do not overlap, or may."""
    free, found = np.ones(SIZE, bool), []
    for _ in range(count):
        y, x, radius = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1]), rng.uniform(1, 6)
        rows, columns = np.indices(SIZE)
        disc = np.hypot(rows - y, columns - x) < radius
        disc = disc if overlap else disc & free
        free &= ~disc
        found.append(np.roll(disc, shift, axis=1))
    return [mask for mask in found if mask.any()]


def brute_force(found, true):
    """jaccard by threshold, and AJI: loops over pixels' masks; the paper's algorithm line by line."""

    def iou(a, b):
        return (a & b).sum() / (a | b).sum()

    table = np.array([[iou(a, b) for b in true] for a in found]).reshape(len(found), len(true))
    counts = []
    for threshold in nuclei.THRESHOLDS:
        valid = table > threshold / 100
        matched = valid[linear_sum_assignment(-valid.astype(float))].sum()
        counts.append((matched, len(found) - matched, len(true) - matched))
    intersection = union = 0
    used = set()
    for column, mask in enumerate(true):
        best = max(range(len(found)), key=lambda row: table[row, column], default=None)
        if best is None or table[best, column] == 0:
            union += mask.sum()
            continue
        used.add(best)
        intersection += (mask & found[best]).sum()
        union += (mask | found[best]).sum()
    union += sum(found[row].sum() for row in range(len(found)) if row not in used)
    return np.array(counts).T, intersection, union


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.tuples(st.integers(0, 14), st.integers(0, 14)),
    shift=st.integers(0, 2),
    overlap=st.booleans(),
)
def test_measures_equal_brute_force(seed, counts, shift, overlap):
    rng = np.random.default_rng(seed)
    true = cells(rng, counts[0])
    found = [np.roll(mask, shift, axis=1) for mask in true if rng.random() < 0.8]
    found += cells(rng, counts[1], overlap=overlap)
    objects, intersection, union = brute_force(found, true)
    sums = measured(found, true)
    np.testing.assert_array_equal(sums.objects, objects)
    assert sums.aji[1:].tolist() == [intersection, union]
    if found or true:
        assert sums.aji[0] == intersection / union
        np.testing.assert_allclose(sums.jaccard, objects[0] / objects.sum(axis=0))


def test_two_found_objects_for_one_count_once():
    """Overlapping predictions, as a detector's are: the second of an object is wrong."""
    true = [box(2, 2, 12, 12)]
    found = [box(2, 2, 12, 12), box(2, 2, 12, 11)]
    assert measured(found, true).objects[:, 0].tolist() == [1, 1, 0]
    assert summary(found, true)["jaccard"]["50"] == 0.5
    assert summary(found, true)["aji"] == 100 / (100 + 90)  # the second is in no pair


def test_as_many_as_possible_match():
    """The first found object could take either of two; a greedy choice would leave the second alone."""
    pairs = np.array([[True, True], [True, False]])
    assert nuclei._matches(pairs, np.zeros(2, bool)) == (2, 0, 0)


def test_one_found_object_may_be_in_two_pairs_of_the_aji():
    """As in algorithm 1 of the paper: two true nuclei, merged by the prediction."""
    true = [box(0, 0, 10, 10), box(0, 10, 10, 20)]
    merged = [box(0, 0, 10, 20)]
    assert summary(merged, true)["aji"] == (100 + 100) / (200 + 200)
    assert summary(merged, true)["jaccard"]["50"] == 0  # IoU is 0.5 exactly, which is not above it


def test_a_case_by_hand():
    true = [box(0, 0, 10, 10), box(12, 0, 22, 10), box(0, 20, 10, 30)]
    found = [box(0, 0, 10, 8), box(12, 4, 22, 14), box(20, 20, 24, 24)]  # IoU 0.8, 60 / 140, none
    got = summary(found, true)
    # An IoU of 0.8 is not above 0.8.
    assert got["jaccard"] == {str(each): 1 / 5 if each < 80 else 0 for each in nuclei.THRESHOLDS}
    assert got["dsb"] == pytest.approx(0.6 / 5)
    assert got["aji"] == got["aji_pooled"] == (80 + 60) / (100 + 140 + 100 + 16)
    assert (got["found"], got["true"], got["images"]) == (3, 3, 1)


def test_pooled_and_mean_over_images():
    one = measured([box(0, 0, 4, 4)], [box(0, 0, 4, 4)])
    many = measured([], [box(0, left, 9, left + 3) for left in (0, 4, 8)])
    got = nuclei.numbers(one.plus(many))
    assert got["jaccard"]["50"] == 1 / 4 and got["jaccard_per_image"]["50"] == got["dsb"] == 1 / 2
    assert got["aji"] == 1 / 2 and got["aji_pooled"] == 16 / (16 + 81)
    assert (got["images"], got["missed"]) == (2, 1)
    rows = nuclei.table({"score": 0.5, **got})
    assert rows["TP / (TP + FP + FN) at IoU 0.5"] == 0.25 and rows["of these nothing found"] == 1


def test_what_is_empty_counts_by_one_rule():
    cell = [box(3, 3, 9, 9)]
    for found, true, value, counts in (
        (cell, cell, 1, (1, 0, 0, 0)),
        ([], cell, 0, (1, 1, 0, 0)),
        (cell, [], 0, (1, 0, 1, 0)),
        ([], [], None, (0, 0, 0, 1)),
        ([box(0, 0, 0, 0)], [], None, (0, 0, 0, 1)),  # without a pixel it is no object
    ):
        got = summary(found, true)
        assert [got["aji"], got["dsb"], got["aji_pooled"], got["jaccard"]["50"]] == [value] * 4
        assert tuple(got[name] for name in nuclei.COUNTS) == counts
        json.dumps(got, allow_nan=False)
    assert nuclei.table({"score": 0.5, **summary([], [])})["images without objects"] == 1


def test_ignored_objects_are_neither_missed_nor_found_wrongly():
    crowd, cell = box(0, 0, 20, 12), box(0, 20, 10, 30)
    inside, half, outside = box(2, 2, 8, 8), box(0, 6, 10, 18), box(22, 0, 26, 4)
    got = summary([cell, inside], [cell], [crowd])
    assert got["jaccard"]["95"] == got["aji"] == 1 and got["found"] == 1
    assert summary([cell, half], [cell], [crowd])["jaccard"]["50"] == 0.5  # half of it, not more
    assert summary([cell, outside], [cell], [crowd])["jaccard"]["50"] == 0.5
    assert summary([cell], [cell], [crowd, cell])["aji"] == 1  # what matches counts, wherever it lies
    assert summary([inside], [], [crowd])["absent"] == 1
    assert summary([inside], [cell], [crowd])["missed"] == 1


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_measures_do_not_change_with_what_is_no_matter(seed):
    rng = np.random.default_rng(seed)
    true = cells(rng, 8)
    found = [ndimage.binary_dilation(mask) for mask in true[1:]] + cells(rng, 3)
    sums = measured(found, true)
    orders = [rng.permutation(len(found)), rng.permutation(len(true))]
    shuffled = measured([found[i] for i in orders[0]], [true[i] for i in orders[1]])
    mirrored = measured([mask[::-1] for mask in found], [mask[::-1] for mask in true])
    swapped = measured(true, found)
    np.testing.assert_array_equal(sums.objects, shuffled.objects)
    np.testing.assert_array_equal(sums.objects, mirrored.objects)
    np.testing.assert_array_equal(sums.aji, mirrored.aji)
    np.testing.assert_array_equal(sums.objects, swapped.objects[[0, 2, 1]])


class Cells:
    """Three images: a cell and a crowd, a cell of unknown outline, nothing."""

    classes, oddities, image_ids, category_ids = ("nucleus",), "", (1, 2, 3), (1,)
    targets, sizes = {"boxes": classes, "masks": classes}, np.full((3, 2), SIZE, np.int32)
    masks_of = ([box(2, 2, 12, 12), box(0, 16, 20, 34)], [None], [])

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise NotImplementedError

    def annotations(self, index):
        count = len(self.masks_of[index])
        boxes = np.float32([[2, 2, 12, 12], [16, 0, 34, 20]])[:count]
        crowd = np.array([False, True])[:count]
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return Annotations(boxes, np.zeros(count, np.int32), crowd, np.zeros(count, bool), area.astype(np.float64))

    def masks(self, index):
        return Outlines.of(None if mask is None else outlines([mask])[0]["counts"] for mask in self.masks_of[index])


def test_the_task_reports_them_only_when_asked_from_a_score_on():
    boxes = np.float32([[2, 2, 12, 12], [18, 2, 30, 12], [1, 14, 6, 19], [2, 2, 12, 12]])
    predictions = {
        "id": np.arange(3),
        "boxes": np.tile(boxes, (3, 1, 1)),
        "scores": np.tile(np.float32([0.9, 0.8, 0.7, 0.4]), (3, 1)),
        "classes": np.int32([[0, 0, 0, 0], [0, -1, -1, -1], [-1, -1, 0, -1]]),
        "masks": np.ones((3, 4, 28, 28), np.float32),
        "original_size": np.tile(np.int32(SIZE), (3, 1)),
    }
    config = get_base("instances")
    plain = tasks.of(config).measured(config, 0.25)
    config.metrics.medical = True
    check_config(config)
    medical = tasks.of(config).measured(config, 0.25)
    summaries = [
        task.summarise(task.update_metrics(task.init_metrics(Cells()), predictions)) for task in (plain, medical)
    ]
    assert "nuclei" not in summaries[0]
    got = summaries[1].pop("nuclei")
    assert summaries[0] == summaries[1]
    # Counted: in the first image one found and one wrong, in the last one wrong; on the crowd and the unknown none.
    assert (got["jaccard"]["50"], got["found"], got["true"]) == (1 / 3, 3, 1)
    assert [got[name] for name in nuclei.COUNTS] == [2, 0, 1, 1]
    rows = medical.table(summaries[1] | {"nuclei": got})
    assert rows["objects found, of score 0.5"] == 3 and rows["mask_ap"] == summaries[0]["mask_ap"]
    config.metrics.score = 0.95
    strict = tasks.of(config).measured(config, 0.25)
    got = strict.summarise(strict.update_metrics(strict.init_metrics(Cells()), predictions))["nuclei"]
    assert [got[name] for name in nuclei.COUNTS] == [1, 1, 0, 2] and got["aji"] == 0
