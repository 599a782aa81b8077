"""Where two runs part: their metrics line by line, their checkpoints array by array, and what they depended on."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Line = Mapping[str, Any]  # of metrics.jsonl
Span = tuple[int, int, str]  # step, the step after which a mean over steps begins, "train" or "val"


class MetricsParting(NamedTuple):
    """How the metrics of two runs compare.

    compared: reports of both, a report being a log line or an evaluation. step, name, first, other: the first value in
    which they differ; 0 and "" if there is none. missing: lines that only one has, by step and kind.
    """

    compared: int
    step: int = 0
    name: str = ""
    first: float | None = None
    other: float | None = None
    missing: Sequence[str] = ()


class ArraysParting(NamedTuple):
    """How two states compare.

    arrays: how many there are; differing: how many of them differ. name: the first that does, "" if none; how: in
    which way. largest: of all arrays of one shape the largest difference, relative to the largest value of its array.
    """

    arrays: int
    differing: int = 0
    name: str = ""
    how: str = ""
    largest: float = 0.0


def reports(lines: Sequence[Line], ignored: Collection[str]) -> dict[Span, dict[str, Any]]:
    """The values of each report, without `ignored` names.

    A line of training holds means over the steps since the one before. A run that was stopped and continued has one
    more, so that only lines that begin and end at the same steps can be compared.
    """
    found: dict[Span, dict[str, Any]] = {}
    before = 0
    for line in lines:
        step = line["step"]
        values = {name: value for name, value in line.items() if name != "step" and name not in ignored}
        training = {name: value for name, value in values.items() if name.startswith("train/")}
        others = {name: value for name, value in values.items() if name not in training}
        if training:
            found.setdefault((step, before, "train"), {}).update(training)
            before = step
        if others:
            found.setdefault((step, step, "val"), {}).update(others)
    return found


def metrics_parting(first: Sequence[Line], other: Sequence[Line], ignored: Collection[str]) -> MetricsParting:
    """Compares the lines of two metrics.jsonl, to the bit, without `ignored` names (times)."""
    left, right = reports(first, ignored), reports(other, ignored)
    common = sorted(left.keys() & right.keys())
    missing = [f"{kind} at step {step}" for step, _, kind in sorted(left.keys() ^ right.keys())]
    for span in common:
        for name in [*left[span], *(name for name in right[span] if name not in left[span])]:
            a, b = left[span].get(name), right[span].get(name)
            if a != b:
                return MetricsParting(len(common), span[0], name, a, b, missing)
    return MetricsParting(len(common), missing=missing)


def arrays_parting(first: Mapping[str, Any], other: Mapping[str, Any]) -> ArraysParting:
    """Compares two states, path -> array as runtime.digest.by_path has them, to the bit; parameters come first."""
    names = sorted(first.keys() | other.keys(), key=lambda name: (not name.startswith("params."), name))
    differing, largest = [], 0.0
    for name in names:
        a, b = (np.asarray(side[name]) if name in side else None for side in (first, other))
        if a is None or b is None:
            differing.append((name, f"only the {'second' if a is None else 'first'} has it"))
        elif (a.shape, a.dtype) != (b.shape, b.dtype):
            differing.append((name, f"{a.dtype} {a.shape} in the first, {b.dtype} {b.shape} in the second"))
        elif a.tobytes() != b.tobytes():
            relative = _relative(a, b)
            largest = max(largest, relative)
            differing.append((name, f"by at most {relative:.2g} of its largest value"))
    if not differing:
        return ArraysParting(len(names))
    return ArraysParting(len(names), len(differing), *differing[0], largest)


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two arrays of one shape, relative to their largest magnitude."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    scale = max(np.abs(wide_a).max(initial=0), np.abs(wide_b).max(initial=0))
    return float(np.abs(wide_a - wide_b).max(initial=0) / scale) if scale else 0.0


def verdict(metrics: MetricsParting, arrays: Mapping[int, ArraysParting], resumed: bool) -> tuple[bool, list[str]]:
    """Whether two runs are equal to the bit, and lines for a person.

    Args:
      metrics: of the two runs.
      arrays: step -> how their checkpoints of it compare.
      resumed: whether one of them was continued, so that the other may lack some of its log lines.
    """
    parted = {step: each for step, each in arrays.items() if each.differing}
    lacking = metrics.missing and not resumed
    steps = ", ".join(map(str, sorted(arrays)))
    if not (metrics.name or parted or lacking):
        missing = f"; not compared, since only one has them: {_listed(metrics.missing)}" if metrics.missing else ""
        what = [f"{metrics.compared} report(s) of metrics.jsonl"] * bool(metrics.compared)
        if not arrays:
            return True, [f"equal as far as compared: {''.join(what)}; no checkpoint of the same step{missing}"]
        what.append(f"all {next(iter(arrays.values())).arrays} arrays of the checkpoint(s) of step {steps}")
        return True, [f"equal to the bit: {' and '.join(what)}{missing}"]
    lines = []
    if metrics.name:
        shown = [number(value) for value in (metrics.first, metrics.other)]
        lines.append(f"step {metrics.step}: {metrics.name} is {shown[0]} in the first, {shown[1]} in the second")
    for step, each in sorted(parted.items()):
        lines.append(
            f"checkpoint {step}: {each.differing} of {each.arrays} arrays differ, first {each.name} {each.how}; the "
            f"largest relative difference of all is {each.largest:.2g}"
        )
    if lacking:
        lines.append(f"only one run has {_listed(metrics.missing)}")
    if arrays and not parted:
        lines.append(f"all arrays of the checkpoint(s) of step {steps} are equal to the bit")
    start = min([*([metrics.step] if metrics.name else []), *parted], default=None)
    where = "only in what they report" if start is None else f"step {start} is the first on record at which they differ"
    return False, [f"different: {where}", *lines]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def number(value: Any) -> str:
    """A number in as many digits as tell it from every other; a dash where there is none."""
    return "–" if value is None else repr(value)


def flattened(value: Mapping[str, Any], front: str = "") -> dict[str, Any]:
    """Dotted name -> value, of nested mappings."""
    found: dict[str, Any] = {}
    for name, each in value.items():
        found |= flattened(each, f"{front}{name}.") if isinstance(each, Mapping) and each else {front + name: each}
    return found


def differing(sides: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Name -> the value of each side, None where it has none, of the names in which not all are equal."""
    names = dict.fromkeys(name for side in sides for name in side)
    rows = {name: [side.get(name) for side in sides] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def finals(lines: Sequence[Line], higher_is_better: Collection[str]) -> dict[str, tuple[float, float, int]]:
    """Metric -> its last value, its best, and the step of the best (the latest of equals).

    The metrics are those of evaluations, "val/<name>", and "train/loss". `higher_is_better` has their names without
    "val/"; of all others the lowest value is the best.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if (name.startswith("val/") or name == "train/loss") and isinstance(value, int | float):
                curves.setdefault(name, []).append((line["step"], value))
    found = {}
    for name, points in curves.items():
        sign = 1 if name.removeprefix("val/") in higher_is_better else -1
        step, best = max(points, key=lambda point: (sign * point[1], point[0]))
        found[name] = (points[-1][1], best, step)
    return found


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text, its columns aligned; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
