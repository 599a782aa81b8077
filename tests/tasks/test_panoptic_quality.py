"""Panoptic quality against panopticapi's rules, written slowly, in float64, over sets of pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphism.tasks import panoptic_quality
from morphism.tasks.panoptic_quality import Segments

K = 4


def by_sets(found, true):
    """panopticapi's pq_compute_single_core on dictionaries of pixel sets; the crowd of a class is one segment."""

    def sets(segments):
        pixels = {}
        for at, number in np.ndenumerate(segments.map):
            pixels.setdefault(int(number), set()).add(at)
        return {n: (segments.classes[n - 1], segments.crowd[n - 1], pixels[n]) for n in pixels if n}, pixels.get(
            0, set()
        )

    (predicted, _), (truths, void) = sets(found), sets(true)
    sums = np.zeros((K, 4))
    matched_true, matched_found = set(), set()
    for t, (category, crowd, pixels) in truths.items():
        for f, (other, _, more) in predicted.items():
            if crowd or category != other:
                continue
            union = len(more) + len(pixels) - len(pixels & more) - len(void & more)
            iou = len(pixels & more) / union
            if iou > 0.5:
                sums[category] += (iou, 1, 0, 0)
                matched_true.add(t)
                matched_found.add(f)
    crowds = {category: pixels for category, crowd, pixels in truths.values() if crowd}
    for t, (category, crowd, _) in truths.items():
        if t not in matched_true and not crowd:
            sums[category] += (0, 0, 0, 1)
    for f, (category, _, pixels) in predicted.items():
        if f in matched_found:
            continue
        ignored = len(void & pixels) + len(crowds.get(category, set()) & pixels)
        if ignored / len(pixels) > 0.5:
            continue
        sums[category] += (0, 0, 1, 0)
    return sums


@st.composite
def pairs(draw):
    """A found and a true map of blocks, much alike, with void, empty segments, and at most one crowd per class."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    block = draw(st.integers(1, 5))
    count = draw(st.integers(0, 7))

    def blocks():
        coarse = rng.integers(0, count + 1, (12, 12)).repeat(block, axis=0).repeat(block, axis=1)
        return coarse[:height, :width]

    true_map = blocks()
    found_map = np.where(rng.random((height, width)) < draw(st.sampled_from((0.0, 0.2, 0.6))), blocks(), true_map)
    classes = rng.integers(0, K, count)
    crowd = np.zeros(count, bool)
    for category in np.unique(classes[rng.random(count) < 0.4]):
        crowd[np.flatnonzero(classes == category)[0]] = True
    found_classes = np.where(rng.random(count) < 0.2, rng.integers(0, K, count), classes)
    return Segments(found_map, found_classes, np.zeros(count, bool)), Segments(true_map, classes, crowd)


@settings(max_examples=300, deadline=None)
@given(pairs())
def test_sums_are_panopticapis_on_random_maps(pair):
    np.testing.assert_allclose(panoptic_quality.sums_of(*pair, K), by_sets(*pair), rtol=1e-12)


def test_torchmetricss_example():
    found = [
        [[6, 0], [0, 0], [6, 0], [6, 0]],
        [[0, 0], [0, 0], [6, 0], [0, 1]],
        [[0, 0], [0, 0], [6, 0], [0, 1]],
        [[0, 0], [7, 0], [6, 0], [1, 0]],
        [[0, 0], [7, 0], [7, 0], [7, 0]],
    ]
    true = [
        [[6, 0], [0, 1], [6, 0], [0, 1]],
        [[0, 1], [0, 1], [6, 0], [0, 1]],
        [[0, 1], [0, 1], [6, 0], [1, 0]],
        [[0, 1], [7, 0], [1, 0], [1, 0]],
        [[0, 1], [7, 0], [7, 0], [7, 0]],
    ]

    def segments(pixels):
        each, numbers = np.unique(np.array(pixels).reshape(-1, 2), axis=0, return_inverse=True)
        return Segments(numbers.reshape(5, 4) + 1, each[:, 0], np.zeros(len(each), bool))

    sums = panoptic_quality.sums_of(segments(found), segments(true), 8)
    assert panoptic_quality.means(sums)[0] == pytest.approx(0.5463, abs=5e-5)


def test_what_lies_on_void_or_on_its_crowd_is_no_mistake():
    def sums(on_void, on_crowd, on_other):
        """A found segment of class 0 with so many pixels on void, on a crowd of its class, and on one of another."""
        true = np.repeat([0, 1, 2], (on_void, on_crowd, on_other))[None]
        truth = Segments(true, np.array([0, 1]), np.array([True, True]))
        return panoptic_quality.sums_of(Segments(np.ones_like(true), np.array([0]), np.zeros(1, bool)), truth, 2)

    assert sums(3, 3, 5).sum() == 0
    np.testing.assert_array_equal(sums(3, 3, 6), [[0, 0, 1, 0], [0, 0, 0, 0]])  # half is not more than half


def test_qualities_are_means_over_the_classes_that_occur():
    sums = np.array([[1.5, 2, 1, 1], [0, 0, 0, 0], [0, 0, 2, 0]])
    np.testing.assert_allclose(panoptic_quality.qualities(sums), [[0.5, 0.75, 2 / 3], [-1, -1, -1], [0, 0, 0]])
    assert panoptic_quality.means(sums) == pytest.approx((0.25, 0.375, 1 / 3))
    assert panoptic_quality.means(sums, np.array([False, True, False])) == (-1, -1, -1)
