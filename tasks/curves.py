"""Precision, recall and F1 of scored decisions, per class, as numbers to draw.

A decision says that something is of a class; its score is in 0..1. It is accepted if its score reaches a threshold.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real

GRID = np.linspace(0, 1, 101)  # recalls, and thresholds


class Decisions(NamedTuple):
    """The decisions for one class, counted at falling thresholds.

    threshold [N]: falling. right, accepted [N]: how many decisions reach it and are right, and how many reach it.
    truths: how many there are to find.
    """

    threshold: Float[np.ndarray, "n"]
    right: Real[np.ndarray, "n"]
    accepted: Real[np.ndarray, "n"]
    truths: int


def curves(classes: Sequence[str], decisions: Sequence[Decisions], of: str) -> dict[str, Any]:
    """The numbers of the plots "precision_recall" and "f1_threshold"; {} if there is nothing to find.

    Args:
      classes: the names of the classes.
      decisions: those for each class.
      of: what a right decision is, for people.

    Per class, None without truths: `precision`, at each of `recall` the highest of all thresholds that reach it;
    `average_precision`, the area below (VOC2010's); `f1` at each of `threshold`, and `best`, the threshold of GRID with
    the highest F1 (the middle one of several). The means are over the classes with truths.
    """
    known = [each for each in decisions if each.truths]
    if not known:
        return {}
    precision, area, f1 = ([of_each(each) for each in known] for of_each in (_precision, average_precision, _f1))
    whole = {"classes": list(classes), "of": of}
    return {
        "precision_recall": whole
        | {
            "recall": GRID.round(2).tolist(),
            "precision": _per_class(decisions, [_rounded(each) for each in precision]),
            "average_precision": _per_class(decisions, area),
            "mean": {"precision": _rounded(np.mean(precision, axis=0)), "average_precision": float(np.mean(area))},
        },
        "f1_threshold": whole
        | {
            "threshold": GRID.round(2).tolist(),
            "f1": _per_class(decisions, [_rounded(each) for each in f1]),
            "best": _per_class(decisions, [_best(each) for each in f1]),
            "mean": {"f1": _rounded(np.mean(f1, axis=0)), "best": _best(np.mean(f1, axis=0))},
        },
    }


def average_precision(found: Decisions) -> float:
    """The area under the precision, made monotone, over recall."""
    return float(np.sum(np.diff(found.right, prepend=0) * _monotone(found)) / found.truths)


def recall_at(found: Decisions, threshold: float) -> float | None:
    """The share of the truths that decisions with at least this score find; None without truths."""
    return float(_reaching(found.right, found, np.array([threshold]))[0] / found.truths) if found.truths else None


def _precision(found: Decisions) -> Float[np.ndarray, "grid"]:
    """At each recall of GRID the highest precision of the thresholds with at least that recall; 0 beyond the last."""
    # The tolerance is for recalls such as 0.07 x 100, which floating-point numbers put above 7.
    at = np.searchsorted(found.right, GRID * found.truths - 1e-9)
    return np.append(_monotone(found), 0.0)[at]


def _f1(found: Decisions) -> Float[np.ndarray, "grid"]:
    right, accepted = (_reaching(counts, found, GRID) for counts in (found.right, found.accepted))
    return 2 * right / (accepted + found.truths)


def _monotone(found: Decisions) -> Float[np.ndarray, "n"]:
    precision = found.right / np.maximum(found.accepted, 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


def _reaching(counts: np.ndarray, found: Decisions, thresholds: np.ndarray) -> np.ndarray:
    """`counts` at the lowest of the decisions' thresholds that is not below each of `thresholds`; 0 if none is."""
    at = np.searchsorted(-found.threshold, -(thresholds - 1e-9), side="right")
    return np.append(0, counts)[at]


def _best(f1: Float[np.ndarray, "grid"]) -> dict[str, float]:
    """The threshold with the highest F1, which should not be one at the edge of several that are equally good."""
    ties = np.flatnonzero(f1 >= f1.max() - 1e-12)
    first = ties[: np.argmax(np.diff(ties, append=-1) != 1) + 1]  # those that follow each other from the first
    return {"threshold": round(float(GRID[first[len(first) // 2]]), 2), "f1": float(f1.max())}


def _per_class(decisions: Sequence[Decisions], values: Sequence[Any]) -> list[Any]:
    """`values`, those of the classes with truths, with None for the others."""
    known = iter(values)
    return [next(known) if each.truths else None for each in decisions]


def _rounded(values: np.ndarray) -> list[float]:
    return values.round(4).tolist()
