"""Means, deviations and paired intervals over seeds, against scipy, the standard library and brute force."""

import itertools
import statistics as standard

import numpy as np
import pytest
from scipy import stats

from morphism.sweeps import statistics
from morphism.sweeps.statistics import TOO_FEW, clear_best, compare, expanded_tail, interval, summarise

VALUES = [0.71, 0.74, 0.69, 0.73, 0.75, 0.70, 0.78, 0.72]


def of(*values):
    return dict(enumerate(values))


def test_mean_and_deviation_are_those_of_numpy_and_of_one_value_there_is_no_deviation():
    found = summarise(VALUES)
    assert found.n == 8 and found.mean == pytest.approx(np.mean(VALUES))
    assert found.sd == pytest.approx(np.std(VALUES, ddof=1))
    assert summarise([0.5]).sd is None and summarise([]).mean is None


def test_the_interval_is_scipys_percentile_interval_at_the_expanded_level():
    """The tail by hand from Hesterberg's formula, with table values of t: n = 8, t = 2.3646."""
    tail = 1 - standard.NormalDist().cdf(2.364624 * (8 / 7) ** 0.5)
    assert expanded_tail(8) == pytest.approx(tail, rel=1e-4)
    found = stats.bootstrap(
        (VALUES,), np.mean, confidence_level=1 - 2 * tail, n_resamples=50_000, method="percentile", rng=1
    ).confidence_interval
    assert interval(VALUES) == pytest.approx(tuple(found), abs=0.002)
    assert interval(VALUES) == interval(VALUES)


def test_the_interval_of_five_values_is_that_of_all_their_resamples():
    values = VALUES[:5]
    means = [standard.fmean(each) for each in itertools.product(values, repeat=5)]
    tail = expanded_tail(5)
    assert interval(values) == pytest.approx(tuple(np.quantile(means, (tail, 1 - tail))), abs=0.003)


def test_better_is_said_only_where_the_interval_excludes_0_and_in_the_direction_of_the_metric():
    baseline = of(0.5, 0.6, 0.55, 0.7, 0.65)
    above = {
        seed: value + gain for (seed, value), gain in zip(baseline.items(), (0.1, 0.12, 0.09, 0.11, 0.1), strict=True)
    }
    found = compare(above, baseline, lower=False)
    assert found.verdict == "better" and found.wins == 1 and 0.09 <= found.low < found.difference < found.high <= 0.12
    assert compare(above, baseline, lower=True).verdict == "worse" and compare(above, baseline, lower=True).wins == 0
    assert compare(baseline, above, lower=False).verdict == "worse"
    mixed = of(0.52, 0.58, 0.55, 0.72, 0.66)
    found = compare(mixed, baseline, lower=False)
    assert found.verdict == "no difference seen" and found.wins == pytest.approx((3 + 0.5) / 5)


def test_runs_are_paired_by_seed_and_few_pairs_get_no_verdict():
    a, b = {1: 0.9, 2: 0.8, 7: 0.1}, {2: 0.5, 1: 0.5, 9: 0.9}
    found = compare(a, b, lower=False)
    assert found.pairs == 2 and found.difference == pytest.approx(0.35) and found.verdict == TOO_FEW
    assert compare(a, {2: 0.5}, lower=False).low is None
    assert compare(a, {3: 0.5}, lower=False).difference is None
    assert compare(of(1, 2, 3, 4), of(0, 0, 0, 0), lower=False).verdict == TOO_FEW


def test_one_is_clearly_best_only_if_it_beats_every_other():
    low, high = of(0.1, 0.2, 0.15, 0.12, 0.18), of(0.5, 0.62, 0.54, 0.55, 0.6)
    near = of(0.51, 0.6, 0.55, 0.54, 0.6)
    assert clear_best([low, high], lower=False) == 1 and clear_best([low, high], lower=True) == 0
    assert clear_best([low, high, near], lower=False) is None and clear_best([high], lower=False) is None
    assert clear_best([low, {}, high], lower=False) == 2 and clear_best([of(1.0), of(0.5)], lower=False) is None


def test_of_settings_without_a_difference_few_are_called_different():
    """1000 pairs of 5 normal values: about 6 of 100, which is where all 5 differences have one sign (2 / 2^5)."""
    samples = np.random.default_rng(3).normal(size=(1000, 5))
    picks = np.random.default_rng(0).integers(0, 5, (statistics.RESAMPLES, 5))
    tail, wrong = expanded_tail(5), 0
    for each in samples[:3]:  # the function, and the same arithmetic for all
        low, high = np.quantile(each[picks].mean(axis=1), (tail, 1 - tail))
        assert interval(list(each)) == pytest.approx((low, high))
    for each in samples:
        means = np.partition(each[picks[:2000]].mean(axis=1), (2, 1997))
        wrong += means[2] > 0 or means[1997] < 0
    assert 0.03 < wrong / 1000 < 0.09
