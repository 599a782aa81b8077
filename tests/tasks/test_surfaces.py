"""Dice and surface distances against brute force and an exact distance transform, and the rule for what is empty."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from morphism import tasks
from morphism.errors import UserError
from morphism.experiments.base import get_base
from morphism.runtime.validation import check_config
from morphism.tasks import surfaces
from morphism.tasks.composed import Composed, Part
from morphism.tasks.segmentation import Segmentation
from morphism.tasks.surfaces import COUNTS, MEASURES, Options, measure

IGNORE = 255
PIXELS = Options()


def shapes(rng, height, width, classes, smooth):
    """Random regions of classes, the larger the greater `smooth`."""
    noise = [ndimage.gaussian_filter(rng.normal(size=(height, width)), smooth) for _ in range(classes)]
    return np.argmax(noise, axis=0).astype(np.uint8)


def surface(mask):
    """Pixel by pixel: those of the mask with one of four neighbours outside it or outside the image."""
    height, width = mask.shape
    found = []
    for y, x in np.argwhere(mask):
        around = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        if any(not (0 <= v < height and 0 <= u < width) or not mask[v, u] for v, u in around):
            found.append((y, x))
    return np.array(found, np.float64)


def brute_force(found, true, options):
    """The four measures of two masks that are not empty, by all pairs of surface pixels in float64."""
    a, b = (surface(mask) * (options.spacing or (1, 1)) for mask in (found, true))
    pairs = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))
    directed = pairs.min(axis=1), pairs.min(axis=0)
    every = np.concatenate(directed)

    def percentile(values):
        values, rank = np.sort(values), 0.95 * (len(values) - 1)
        low, share = int(rank), rank - int(rank)
        return values[low] + share * (values[min(low + 1, len(values) - 1)] - values[low])

    return {
        "dice": 2 * (found & true).sum() / (found.sum() + true.sum()),
        "surface_dice": np.mean(every <= options.tolerance + 1e-9),
        "hd95": max(map(percentile, directed)),
        "assd": np.mean(every),
    }


def entry(found, true, options=PIXELS, classes=2):
    """The summary of class 1 over one image."""
    names = [str(number) for number in range(classes)]
    return surfaces.summarise(measure(found, true, classes, options), names, options)["per_class"]["1"]


def map_of(*pixels, size=(12, 20)):
    found = np.zeros(size, np.uint8)
    for y, x in pixels:
        found[y, x] = 1
    return found


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    smooth=st.floats(0.2, 4.0),
    spacing=st.sampled_from([(), (1.0, 1.0), (0.4, 1.7), (3.0, 0.25)]),
)
def test_measures_equal_brute_force(seed, height, width, smooth, spacing):
    rng, options = np.random.default_rng(seed), Options(spacing, 1.5)
    true, found = (shapes(rng, height, width, 3, smooth) for _ in range(2))
    true[rng.random(true.shape) < 0.05] = IGNORE
    sums = measure(found, true, 3, options)
    for number in range(3):
        masks = (found == number) & (true != IGNORE), true == number
        if all(mask.any() for mask in masks):
            expected = brute_force(*masks, options)
            got = dict(zip(MEASURES, sums[:4, number], strict=True))
            assert got == pytest.approx(expected, rel=1e-12, abs=1e-12)
            assert sums[4:, number].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("spacing", [(), (0.7, 2.3)])
def test_distances_equal_an_exact_distance_transform(spacing):
    rng = np.random.default_rng(3)
    sides = np.array(spacing or (1.0, 1.0))
    for size in ((97, 61), (33, 80)):
        found, true = (shapes(rng, *size, 2, 4) == 1 for _ in range(2))
        edges = [each & ~ndimage.binary_erosion(each) for each in (found, true)]
        far = [ndimage.distance_transform_edt(~edge, sampling=sides) for edge in edges]
        directed = surfaces.distances(found, true, sides)
        np.testing.assert_allclose(directed[0], far[1][edges[0]], rtol=1e-12)
        np.testing.assert_allclose(directed[1], far[0][edges[1]], rtol=1e-12)


def test_a_case_by_hand():
    """A square of 4 x 4 and the same moved right by 3: columns 2..5 and 5..8."""
    true, found = np.zeros((10, 12), np.uint8), np.zeros((10, 12), np.uint8)
    true[3:7, 2:6], found[3:7, 5:9] = 1, 1
    got = entry(found, true)
    # Of the 12 surface pixels per square, by columns: 4 at distance 3, two at 2, two at 1, four at 0.
    assert got["dice"] == 2 * 4 / 32
    assert got["assd"] == (4 * 3 + 2 * 2 + 2 * 1) / 12
    assert got["hd95"] == 3
    assert got["surface_dice"] == 8 / 12
    assert entry(found, true, Options((1.0, 0.5), 1.0))["hd95"] == 1.5
    assert entry(found, true, Options((7.0, 0.5), 1.0))["surface_dice"] == 8 / 12


def test_the_percentile_is_the_larger_of_both_directions():
    """One far pixel of 40 on one side is beyond its 95th percentile; the other side never sees it."""
    true = map_of(*((0, x) for x in range(39)), size=(30, 40))
    found = true.copy()
    found[29, 0] = 1
    assert entry(found, true)["hd95"] == entry(true, found)["hd95"] == 0
    true = map_of(*((0, x) for x in range(10)), size=(30, 40))
    found = true.copy()
    found[29, 0] = 1  # 1 of 11: its percentile lies half way to the far pixel
    assert entry(found, true)["hd95"] == pytest.approx(0.5 * 29)


@pytest.mark.parametrize("spacing", [(), (0.5, 2.0)])
def test_what_is_empty_counts_by_one_rule(spacing):
    options, size = Options(spacing), (12, 20)
    here, empty = map_of((3, 4), (3, 5)), map_of()
    diagonal = np.hypot(*(np.array(size) * (spacing or (1, 1))))
    worst = {"dice": 0, "surface_dice": 0, "hd95": diagonal, "assd": diagonal}
    best = {"dice": 1, "surface_dice": 1, "hd95": 0, "assd": 0}
    unknown = dict.fromkeys(MEASURES)
    for found, true, values, counts in (
        (here, here, best, (1, 0, 0, 0)),
        (empty, here, worst, (1, 1, 0, 0)),
        (here, empty, worst, (1, 0, 1, 0)),
        (empty, empty, unknown, (0, 0, 0, 1)),
    ):
        assert entry(found, true, options) == values | dict(zip(COUNTS, counts, strict=True))
    corners = entry(map_of((0, 0)), map_of((11, 19)), options)
    assert corners["hd95"] < diagonal  # a real distance is never as bad as a missed object


def test_a_mean_gets_no_better_when_an_object_is_missed():
    true, found = map_of((3, 4), (3, 5)), map_of((9, 15))
    one = measure(true, true, 2, PIXELS)
    for worse in (found, map_of()):
        means = surfaces.summarise(one + measure(worse, true, 2, PIXELS), ("0", "1"), PIXELS)["per_class"]["1"]
        assert means["images"] == 2 and means["hd95"] > 5 and means["dice"] == 0.5
    assert means["hd95"] == np.hypot(12, 20) / 2 and means["missed"] == 1


def test_ignored_pixels_are_left_out_of_both_maps():
    true, found = map_of((3, 4)), map_of((3, 4), (9, 9))
    assert entry(found, true)["dice"] == 2 / 3
    true[9, 9] = IGNORE
    assert entry(found, true) == entry(true * (true != IGNORE), map_of((3, 4)))
    true[3, 4] = IGNORE
    assert entry(found, true)["absent"] == 1


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_measures_do_not_change_with_what_is_no_matter(seed):
    rng = np.random.default_rng(seed)
    a, b = (shapes(rng, 17, 23, 3, 1.5) for _ in range(2))
    sums = measure(a, b, 3, Options((2.0, 0.5), 1.0))
    swapped = measure(b, a, 3, Options((2.0, 0.5), 1.0))[[0, 1, 2, 3, 4, 6, 5, 7]]  # missed is invented
    turned = measure(a.T, b.T, 3, Options((0.5, 2.0), 1.0))
    mirrored = measure(a[::-1, ::-1], b[::-1, ::-1], 3, Options((2.0, 0.5), 1.0))
    scaled = measure(a, b, 3, Options((20.0, 5.0), 10.0))
    scaled[2:4] /= 10
    for other in (swapped, turned, mirrored, scaled):
        np.testing.assert_allclose(sums, other, rtol=1e-12)
    assert (measure(a, a, 3, PIXELS)[2:4] == 0).all()


def test_a_tolerance_is_not_lost_to_rounding():
    true, found = map_of((3, 4)), map_of((3, 7))
    assert 3 * 0.1 > 0.3 and entry(found, true, Options((0.1, 0.1), 0.3))["surface_dice"] == 1


def predictions(found, true):
    size = np.array([each.shape for each in true])
    judged = {"loss": np.zeros(len(true), np.float32), "counted": np.full(len(true), 2, np.int32)}
    return judged | {
        "classes": np.array(found),
        "true": np.array(true),
        "original_size": size,
        "id": np.arange(len(true)),
    }


class Split:
    classes, oddities, sizes = ("ground", "tumour", "nothing"), "", np.full((4, 2), (12, 20), np.int32)
    targets = property(lambda self: {"segmentation": self.classes})

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        raise NotImplementedError


def test_the_task_reports_them_only_when_asked_and_never_a_mean_without_counts():
    config = get_base("segmentation")
    task = tasks.of(config)
    true = [map_of((3, 4)), map_of((3, 4)), map_of(), map_of()]
    found = [map_of((3, 4)), map_of(), map_of((9, 9)), map_of()]
    summaries = []
    for medical in (False, True):
        config.metrics.medical = medical
        config.data.spacing = (0.5, 2.0)
        check_config(config)
        measured = task.measured(config, 0.25)
        whole = measured.update_metrics(measured.init_metrics(Split()), predictions(found, true))
        parts = measured.init_metrics(Split())
        for row in range(4):
            parts = measured.update_metrics(parts, predictions(found[row : row + 1], true[row : row + 1]))
        summaries.append(measured.summarise(whole))
        assert json.dumps(summaries[-1], allow_nan=False) == json.dumps(measured.summarise(parts), allow_nan=False)
    plain, medical = summaries
    assert "surfaces" not in plain and plain == {name: medical[name] for name in plain}
    tumour = medical["surfaces"]["per_class"]["tumour"]
    assert tumour["hd95"] == pytest.approx(2 * np.hypot(6, 40) / 3) and tumour["dice"] == pytest.approx(1 / 3)
    assert medical["surfaces"]["per_class"]["nothing"]["hd95"] is None
    rows = measured.table(medical)
    assert rows["hd95 in mm, tumour"] == tumour["hd95"]
    counts = ("images counted", "of these missed", "of these invented", "images without")
    assert [rows[f"{name}, tumour"] for name in counts] == [3, 1, 1, 1]
    assert rows["images without, nothing"] == 4 and "hd95 in mm, nothing" not in rows
    assert [rows[f"{name}, all classes"] for name in counts] == [7, 1, 1, 5]
    assert rows["hd95 in mm, all classes"] == pytest.approx((tumour["hd95"] + rows["hd95 in mm, ground"]) / 2)


@pytest.mark.parametrize("spacing", [(0.5,), (0.5, 0.0), (1.0, 1.0, 3.0), 0.5])
def test_a_spacing_is_the_height_and_width_of_a_pixel(spacing):
    config = get_base("segmentation")
    with config.ignore_type():
        config.data.spacing = spacing
    with pytest.raises(UserError, match=r"^config.data.spacing is .*; it must be \(\) or two numbers above 0"):
        check_config(config)


def test_a_part_of_a_composed_task_has_the_measures_that_its_fields_ask_for():
    config = get_base("segmentation")
    with config.unlocked():
        config.parts = {"organs": {"metrics": {"medical": True}}, "ground": {}}
    composed = Composed((Part("organs", Segmentation()), Part("ground", Segmentation()))).measured(config, 0.25)
    assert composed.parts[0].task.surface_options == Options((), 2.0)
    assert composed.parts[1].task.surface_options is None
