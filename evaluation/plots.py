"""Draws the plots of an evaluation from their numbers alone, as `Task.plots` gives them.

confusion         rows are true classes, columns predicted ones, cells the share of their row
precision_recall  per class, and their mean
f1_threshold      F1 over the score threshold, per class and their mean, with the best threshold
per_class         bars of shares per class; of many classes their distribution and the worst
reliability       accuracy over confidence, and how many examples have it

A name may have that of a part and slashes in front, as "objects/confusion" has.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from morphism.evaluation.figures import COLOURS, GREY, INK, cut, figure, legend, png, short

NAMED = 40  # most classes whose confusion is drawn with their names
NUMBERED = 20  # most classes whose cells have numbers
POOLED = 200  # most rows and columns of a drawn matrix; neighbours share them
LISTED = 20  # confusions in a list; worst classes of many
COLOURED = 8  # most classes with a curve in a colour of its own
WORST = 5  # named curves of more classes
BARS = 45  # most classes with bars of their own

Numbers = dict[str, Any]
Drawn = tuple[Figure, str]  # with its title


def draw(numbers: Mapping[str, Numbers]) -> Iterator[tuple[str, bytes]]:
    """Name and PNG of each plot."""
    for name, each in numbers.items():
        part, _, kind = name.rpartition("/")
        drawn, title = _DRAWN[kind](each)
        drawn.suptitle(f"{part}: {title}" if part else title[0].upper() + title[1:], fontsize=12)
        yield name, png(drawn)


def _confusion(numbers: Numbers) -> Drawn:
    classes = numbers["classes"]
    matrix, cells = _matrix(numbers, min(len(classes), POOLED)), _cells(numbers)
    side, named = len(matrix), len(classes) <= NAMED
    inches = max(4.5, 0.36 * side) if named else 7.0
    drawn = figure(inches + (2.2 if named else 5.2), inches + (1.6 if named else 0.8))
    axis, beside = (drawn.add_subplot(), None) if named else drawn.subplots(1, 2, width_ratios=(7, 5))
    rows = matrix.sum(axis=1, keepdims=True)
    shares = np.ma.masked_where(np.broadcast_to(rows == 0, matrix.shape), matrix / np.maximum(rows, 1))
    axis.set_facecolor("#eeeeee")  # of classes that do not occur
    norm = PowerNorm(1 if named else 0.5, vmin=0, vmax=1)  # of many classes small shares can be seen as well
    axis.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if named:
        names = [cut(name) for name in classes]
        counts = [short(count) for count in rows[:, 0].tolist()]
        axis.set_xticks(range(side), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(side), [f"{name}  ({count})" for name, count in zip(names, counts, strict=True)])
        axis.set_xticks(np.arange(side - 1) + 0.5, minor=True)
        axis.set_yticks(np.arange(side - 1) + 0.5, minor=True)
        axis.grid(which="minor", color="#dddddd", linewidth=0.5)
        axis.tick_params(which="minor", length=0)
        _number(axis, shares if side <= NUMBERED else None)
    else:
        axis.set_xticks([])
        axis.set_yticks([])
        pooled = f", {-(-len(classes) // side)} to a cell" if side < len(classes) else ""
        axis.set_xlabel(f"predicted: {len(classes):,} classes in their order{pooled}")
        _list(beside, "most frequent confusions: true, predicted", _worst_confusions(classes, cells))
    return drawn, f"confusion, % of each true class\n({numbers['of']})"


def _number(axis: Any, shares: np.ma.MaskedArray | None) -> None:
    """Writes the shares, in percent, that are not nearly 0."""
    if shares is None:
        return
    for row, column in np.argwhere(shares.filled(0) >= 0.005):
        share = shares[row, column]
        colour = "white" if share > 0.55 else INK
        axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, color=colour)


def _cells(numbers: Numbers) -> np.ndarray:
    """The cells that are not 0: true, predicted, count."""
    if "cells" in numbers:
        return np.array(numbers["cells"], np.int64).reshape(-1, 3)
    counts = np.array(numbers["counts"], np.int64)
    return np.stack([*np.nonzero(counts), counts[counts > 0]], axis=-1)


def _matrix(numbers: Numbers, side: int) -> np.ndarray:
    """The matrix, in which neighbouring classes share rows and columns if there are more than `side`."""
    true, predicted, counts = _cells(numbers).T
    count, matrix = len(numbers["classes"]), np.zeros((side, side), np.int64)
    np.add.at(matrix, (true * side // count, predicted * side // count), counts)
    return matrix


def _worst_confusions(classes: Sequence[str], cells: np.ndarray) -> list[tuple[str, str]]:
    totals = np.bincount(cells[:, 0], cells[:, 2], minlength=len(classes))
    wrong = cells[cells[:, 0] != cells[:, 1]]
    worst = wrong[np.argsort(-wrong[:, 2], kind="stable")][:LISTED]
    return [
        (f"{cut(classes[true])}, {cut(classes[found])}", f"{short(count)}  ({count / totals[true]:.0%})")
        for true, found, count in worst.tolist()
    ]


def _list(axis: Any, title: str, lines: Sequence[tuple[str, str]]) -> None:
    axis.axis("off")
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlim(0, 1)
    axis.set_ylim(LISTED, 0)
    for row, (name, value) in enumerate(lines):
        axis.text(0, row + 0.5, name, va="center", fontsize=9)
        axis.text(1, row + 0.5, value, va="center", ha="right", fontsize=9)


def _precision_recall(numbers: Numbers) -> Drawn:
    drawn = figure(8.6, 5.2)
    axis = drawn.add_subplot()
    area, mean = numbers["average_precision"], numbers["mean"]
    _mean(axis, numbers["recall"], mean["precision"], f"mean AP {mean['average_precision']:.3f}")
    _curves(axis, numbers["classes"], numbers["recall"], numbers["precision"], area, lambda index: f"{area[index]:.3f}")
    _finish(axis, "recall", "precision")
    return drawn, f"precision over recall ({numbers['of']})"


def _f1_threshold(numbers: Numbers) -> Drawn:
    drawn = figure(8.6, 5.2)
    axis = drawn.add_subplot()
    best, mean = numbers["best"], numbers["mean"]
    highest = [each and each["f1"] for each in best]
    of_mean = f"{mean['best']['f1']:.3f} at {mean['best']['threshold']:.2f}"

    def text(index: int) -> str:
        return f"{best[index]['f1']:.3f} at {best[index]['threshold']:.2f}"

    _mean(axis, numbers["threshold"], mean["f1"], f"mean {of_mean}")
    _curves(axis, numbers["classes"], numbers["threshold"], numbers["f1"], highest, text)
    axis.axvline(mean["best"]["threshold"], color=INK, linestyle="--", linewidth=1)
    _finish(axis, "threshold of the score", "F1")
    return drawn, f"F1 over the score threshold ({numbers['of']}): best {of_mean}"


def _mean(axis: Any, x: Sequence[float], y: Sequence[float], text: str) -> None:
    axis.plot(x, y, color=INK, linewidth=3, label=f" {text}", zorder=3)


def _curves(
    axis: Any,
    classes: Sequence[str],
    x: Sequence[float],
    curves: Sequence[Sequence[float] | None],
    values: Sequence[float | None],
    text: Callable[[int], str],
) -> None:
    """A curve per known class: of many classes in grey, except the worst by their `values`, which are named."""
    known = [index for index, curve in enumerate(curves) if curve is not None]
    named = known if len(known) <= COLOURED else sorted(known, key=lambda index: values[index])[:WORST]
    for index in known:
        if index not in named:
            axis.plot(x, curves[index], color=GREY, linewidth=0.8, alpha=0.5)
    styles = ("-", "--", "-.", ":")
    for place, index in enumerate(named):
        axis.plot(
            x,
            curves[index],
            color=COLOURS[place % len(COLOURS)],
            linestyle=styles[place % len(styles)],
            linewidth=1.8,
            label=f" {cut(classes[index])}  {text(index)}",
        )
    if len(known) > len(named):
        axis.plot([], [], color=GREY, label=f" better: {_classes(len(known) - len(named))}")
    if len(known) < len(classes):
        axis.plot([], [], color="none", label=f" not there: {_classes(len(classes) - len(known))}")


def _classes(count: int) -> str:
    return f"{count:,} class{'es' if count > 1 else ''}"


def _finish(axis: Any, x: str, y: str) -> None:
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)
    axis.grid(color="#dddddd")
    legend(axis)


def _per_class(numbers: Numbers) -> Drawn:
    return (_bars if len(numbers["classes"]) <= BARS else _distribution)(numbers)


def _bars(numbers: Numbers) -> Drawn:
    classes, bars, counts = numbers["classes"], numbers["bars"], numbers["count"]
    thick = 0.8 / len(bars)
    drawn = figure(8.0, 1.6 + max(1.2, (0.16 * len(bars) + 0.1) * len(classes)))
    axis = drawn.add_subplot()
    at = np.arange(len(classes))
    for place, (name, values) in enumerate(bars.items()):
        where = at + (place - (len(bars) - 1) / 2) * thick
        axis.barh(where, _known(values, 0.0), thick, color=COLOURS[place], label=f" {name}")
        for y, value in zip(where, values, strict=True):
            text, x = ("not there", 0.0) if value is None else (f"{value:.2f}", value)
            if value is not None or place == 0:
                axis.text(x + 0.008, y, text, va="center", fontsize=8, color=INK if value is not None else GREY)
    axis.set_yticks(at, [f"{cut(name)}  ({short(count)})" for name, count in zip(classes, counts, strict=True)])
    axis.set_ylim(len(classes) - 0.5, -0.5)
    axis.set_xlim(0, 1.06)
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.grid(axis="x", color="#dddddd")
    axis.set_axisbelow(True)
    legend(axis)
    return drawn, f"per class, with its number of {numbers['of']}"


def _distribution(numbers: Numbers) -> Drawn:
    """How many classes have each share, and the worst by the first of the bars."""
    classes, bars, counts = numbers["classes"], numbers["bars"], numbers["count"]
    drawn = figure(12.0, 7.0)
    left, right = drawn.subplots(1, 2, width_ratios=(7, 5))
    edges = np.linspace(0, 1, 21)
    for place, (name, values) in enumerate(bars.items()):
        known = [value for value in values if value is not None]
        heights, _ = np.histogram(known, edges)
        mean = f"mean {np.mean(known):.3f}" if known else "not there"
        left.stairs(heights, edges, color=COLOURS[place], linewidth=2.5, label=f" {name}, {mean}")
    left.set(xlim=(0, 1), xlabel="share", ylabel="classes")
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(color="#dddddd")
    left.legend(fontsize=10)
    first, values = next(iter(bars.items()))
    known = [index for index, value in enumerate(values) if value is not None]
    worst = sorted(known, key=lambda index: values[index])[:LISTED]
    lines = [(cut(classes[index]), f"{values[index]:.3f}  (of {short(counts[index])})") for index in worst]
    missing = len(classes) - len(known)
    _list(right, f"lowest {first}" + (f"; not there: {_classes(missing)}" if missing else ""), lines)
    return drawn, f"{_classes(len(classes))}, {sum(counts):,} {numbers['of']}"


def _reliability(numbers: Numbers) -> Drawn:
    examples, accuracy = np.array(numbers["examples"]), _known(numbers["accuracy"], np.nan)
    confidence = _known(numbers["confidence"], np.nan)
    drawn = figure(6.4, 6.8)
    upper, lower = drawn.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    width = 1 / len(examples)
    middle = (np.arange(len(examples)) + 0.5) * width
    upper.bar(middle, accuracy, width, color=COLOURS[0], edgecolor="white", label=" accuracy")
    gap = np.nan_to_num(confidence - accuracy)
    upper.bar(
        middle, gap, width, accuracy, color="none", edgecolor=COLOURS[1], hatch="///", label=" gap to the confidence"
    )
    upper.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1.5, label=" perfectly calibrated")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.legend(loc="upper left", fontsize=10)
    upper.grid(color="#dddddd")
    upper.set_axisbelow(True)
    lower.bar(middle, examples / max(1, examples.sum()), width, color=GREY, edgecolor="white")
    lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lower.set(xlabel="confidence", ylabel="examples")
    lower.grid(color="#dddddd")
    lower.set_axisbelow(True)
    return drawn, f"reliability: expected calibration error {numbers['calibration_error']:.4f}"


def _known(values: Sequence[float | None], unknown: float) -> np.ndarray:
    return np.array([unknown if value is None else value for value in values], float)


_DRAWN: dict[str, Callable[[Numbers], Drawn]] = {
    "confusion": _confusion,
    "precision_recall": _precision_recall,
    "f1_threshold": _f1_threshold,
    "per_class": _per_class,
    "reliability": _reliability,
}
