"""What several seeds say about a setting: mean, spread, and paired differences with a bootstrap interval.

Source: Bouthillier et al. 2021, "Accounting for variance in machine learning benchmarks": runs of the same seed are
compared in pairs, and P(A > B) says how often one beats the other.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 10_000
CONFIDENCE = 0.95
# With fewer pairs there is no interval of 95 %: by chance alone, 3 differences have the same sign in 25 of 100 cases,
# and no resample of them lies on the other side of 0.
LEAST = 5
TOO_FEW = "too few seeds to say"


@dataclass(frozen=True)
class Summary:
    """n values: their mean (None of none) and their standard deviation (n - 1 degrees of freedom; None if n < 2)."""

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Comparison:
    """A against a baseline, over the seeds that both have.

    pairs: how many. difference: the mean of A - baseline. low, high: its interval. wins: the share of pairs in which A
    is the better one, equal ones counted half. None where there are too few pairs (of the interval: fewer than 2).
    verdict: "better" or "worse" where the interval excludes 0, "no difference seen", or TOO_FEW.
    """

    pairs: int
    difference: float | None
    low: float | None
    high: float | None
    wins: float | None
    verdict: str


def summarise(values: Sequence[float]) -> Summary:
    if not values:
        return Summary(0, None, None)
    return Summary(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of the mean of at least 2 values: CONFIDENCE, RESAMPLES resamples, expanded percentiles.

    Plain percentiles are too narrow for few values, by the factor sqrt((n - 1) / n) and by the normal's quantile where
    Student's is due. Source: Hesterberg 2015, "What teachers should know about the bootstrap", section 4.1.3.
    """
    sample = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(sample), (RESAMPLES, len(sample)))
    tail = expanded_tail(len(sample))
    low, high = np.quantile(sample[picks].mean(axis=1), (tail, 1 - tail))
    return float(low), float(high)


def expanded_tail(n: int) -> float:
    """The share of resamples to leave out at each end, of n values."""
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.sqrt(n / (n - 1))
    return float(stats.norm.sf(quantile))


def compare(values: Mapping[int, float], baseline: Mapping[int, float], lower: bool) -> Comparison:
    """Compares what two settings reached, seed -> value. `lower`: low values are good."""
    seeds = sorted(values.keys() & baseline.keys())
    differences = [values[seed] - baseline[seed] for seed in seeds]
    if not differences:
        return Comparison(0, None, None, None, None, TOO_FEW)
    mean, good = statistics.fmean(differences), -1 if lower else 1
    wins = sum((each * good > 0) + 0.5 * (each == 0) for each in differences) / len(differences)
    if len(differences) < 2:
        return Comparison(1, mean, None, None, wins, TOO_FEW)
    low, high = interval(differences)
    if len(differences) < LEAST:
        verdict = TOO_FEW
    elif low <= 0 <= high:
        verdict = "no difference seen"
    else:
        verdict = "better" if mean * good > 0 else "worse"
    return Comparison(len(differences), mean, low, high, wins, verdict)


def clear_best(rows: Sequence[Mapping[int, float]], lower: bool) -> int | None:
    """The index of the row of seed -> value that is better than all others by their intervals; None if none is."""
    known = [(statistics.fmean(each.values()), index) for index, each in enumerate(rows) if each]
    if len(known) < 2:
        return None
    _, best = (min if lower else max)(known)
    others = (other for _, other in known if other != best)
    beaten = all(compare(rows[best], rows[other], lower).verdict == "better" for other in others)
    return best if beaten else None
