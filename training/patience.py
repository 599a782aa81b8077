"""Early stopping: whether the evaluations of a run have stopped becoming better.

It is a function of the evaluations that metrics.jsonl records, so that a run that was interrupted stops where it would
have stopped without.
"""

from collections.abc import Sequence


def since_best(values: Sequence[float], *, lower: bool, min_delta: float) -> int:
    """How many of the last `values` of a metric, in the order of the evaluations, brought nothing better.

    A value is better than the best so far if it is higher, or with `lower` lower, by at least `min_delta`.
    """
    best, since = None, 0
    for value in values:
        gain = 0.0 if best is None else (best - value if lower else value - best)
        if best is None or (gain > 0 and gain >= min_delta):
            best, since = value, 0
        else:
            since += 1
    return since
