import resource

import numpy as np
import pytest
from pycocotools import mask as reference

from morphism.data import outlines

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools


def by_pycocotools(polygons, size):
    return reference.decode(reference.merge(reference.frPyObjects(polygons, *size)))


def drawn(segmentation, size):
    return outlines.mask(outlines.read(segmentation, size).counts, size)


def polygon(rng, size, spread):
    """Corners in the image and around it, up to `spread` image sides away, whole or not."""
    count = rng.integers(3, 9)
    inside = rng.random((count, 2)) * size[::-1]
    outside = (rng.normal(size=(count, 2)) * spread + 0.5) * size[::-1]
    corners = np.where(rng.random((count, 2)) < 0.5, inside, outside)
    return (np.round(corners) if rng.random() < 0.4 else corners).ravel().tolist()


@pytest.mark.parametrize(("spread", "count"), [(0.5, 100), (5, 100), (200, 60), (5000, 4)])
def test_polygons_are_drawn_as_pycocotools_draws_them_however_far_their_corners_are(spread, count):
    rng = np.random.default_rng(count)
    for _ in range(count):
        size = rng.integers(1, 50, 2).tolist()
        polygons = [polygon(rng, size, spread) for _ in range(rng.integers(1, 3))]
        np.testing.assert_array_equal(drawn(polygons, size), by_pycocotools(polygons, size))


def test_every_edge_is_drawn_alike_by_both_ways(monkeypatch):
    monkeypatch.setattr(outlines, "FAR", -1)
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = rng.integers(1, 50, 2).tolist()
        each = polygon(rng, size, 1)
        np.testing.assert_array_equal(drawn([each], size), by_pycocotools([each], size))


@pytest.mark.parametrize("far", [3e7, 1e12, 1e300, 1.7e308])
def test_a_corner_far_away_costs_nothing(far):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = outlines.read([[5, 5, far, 5, far, 15, 5, 15]], [40, 60]).counts
    assert outlines.area(counts, [40, 60]) == 55 * 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def runs_of(mask):
    flat = mask.ravel(order="F")
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, flat, 2]))).tolist()
    return [0, *runs] if flat[0] else runs


def test_run_lengths_are_read_compressed_or_not_and_damaged_ones_refused():
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        size = rng.integers(1, 70, 2).tolist()
        mask = (rng.random(size) < rng.random()).astype(np.uint8)
        counts = reference.encode(np.asfortranarray(mask))["counts"].decode()
        for form in (counts, runs_of(mask)):
            np.testing.assert_array_equal(drawn({"size": size, "counts": form}, size), mask)
        spot = rng.integers(len(counts))
        damaged = counts[:spot] + chr(rng.integers(40, 130)) * int(rng.integers(0, 3)) + counts[spot + 1 :]
        try:
            assert drawn({"size": size, "counts": damaged}, size).shape == tuple(size)
        except ValueError:
            refused += 1
    assert refused > 200


SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]


@pytest.mark.parametrize(
    ("segmentation", "pixels", "dropped"),
    [
        ([SQUARE], 16, 0),
        (SQUARE, 16, 0),
        ([SQUARE, [4, 4, 8, 4, 8, 8, 4, 8]], 28, 0),
        ([[1, 1, 7, 7], SQUARE], 16, 1),  # two points, which pycocotools would take for a box
        ([[1, 1, 7, 7], [3, 3], [], [*SQUARE, 1]], None, 4),
        ([[]], None, 1),
        ([], None, 0),
        (None, None, 0),
        ({"size": [10, 10], "counts": [100]}, 0, 0),
        ({"size": [10, 10], "counts": [0, 100]}, 100, 0),
    ],
)
def test_what_is_no_polygon_is_dropped_and_counted(segmentation, pixels, dropped):
    found = outlines.read(segmentation, [10, 10])
    assert found.dropped == dropped
    assert (None if found.counts is None else outlines.area(found.counts, [10, 10])) == pixels


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("none", "neither a list of polygons nor run lengths"),
        (5, "neither a list of polygons nor run lengths"),
        ([[1, 2, 3, 4, 5, "x"]], "a polygon must be a list of finite numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a polygon must be a list of finite numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "a polygon must be a list of finite numbers"),
        ([[[1, 2], [3, 4], [5, 6]]], "a polygon must be a list of finite numbers"),
        ([SQUARE, {"size": [10, 10]}], "a polygon must be a list of finite numbers"),
        ({}, r"its run lengths have size None, its image is \[10, 10\]"),
        ({"size": [5, 20], "counts": [100]}, r"its run lengths have size \[5, 20\], its image is \[10, 10\]"),
        ({"size": [10, 10]}, "counts must be a list of finite numbers"),
        ({"size": [10, 10], "counts": [5, 10]}, "add up to 10 x 10 pixels"),
        ({"size": [10, 10], "counts": [5, -10, 105]}, "add up to 10 x 10 pixels"),
        ({"size": [10, 10], "counts": [5.5, 94.5]}, "add up to 10 x 10 pixels"),
        ({"size": [10, 10], "counts": ""}, "damaged"),
        ({"size": [10, 10], "counts": "犬"}, "damaged"),
        ({"size": [10, 10], "counts": "o" * 20 + "0"}, "damaged"),
        ({"size": [10, 10], "counts": "To"}, "damaged"),  # ends within a number
    ],
)
def test_what_cannot_be_read_says_why(segmentation, message):
    with pytest.raises(ValueError, match=message):
        outlines.read(segmentation, [10, 10])
