"""Draws a run's learning curves from its metrics.jsonl."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from morphism.evaluation.figures import COLOURS, GREY, figure, png

COLUMNS = 4
SIDES = {"train": COLOURS[0], "val": COLOURS[1]}
Series = dict[str, list[tuple[int, float]]]  # "train", "val" -> steps and values


def draw(lines: Iterable[str]) -> bytes:
    """A PNG with a panel per value; those of training and validation share one. `lines` are those of metrics.jsonl."""
    panels = series(lines)
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    drawn = figure(3.6 * min(COLUMNS, max(1, len(panels))), 2.6 * rows + 0.3)
    axes = drawn.subplots(rows, min(COLUMNS, max(1, len(panels))), squeeze=False).ravel()
    for axis, (name, sides) in zip(axes, panels.items(), strict=False):
        _panel(axis, name, sides)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    return png(drawn)


def series(lines: Iterable[str]) -> dict[str, Series]:
    """Name without "train/" or "val/" -> the values of either, in the order of their first line; loss first."""
    found: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        values = json.loads(line)
        step = values.pop("step")
        for name, value in values.items():
            side, _, own = name.partition("/")
            if side in SIDES and isinstance(value, int | float):
                found[own][side].append((step, value))
    order = sorted(found, key=lambda name: (name != "loss", "val" not in found[name]))
    return {name: dict(found[name]) for name in order}


def _panel(axis: Any, name: str, sides: Series) -> None:
    axis.set_title(name.replace("_", " "))
    for side, points in sides.items():
        # -1 says that there is nothing to measure.
        steps, values = zip(*((step, math.nan if value == -1 else value) for step, value in points), strict=True)
        marker = "o" if len(steps) <= 30 else ""
        axis.plot(steps, values, color=SIDES[side], marker=marker, markersize=3.5, linewidth=1.8, label=side)
    axis.grid(color="#dddddd")
    axis.tick_params(labelsize=9)
    axis.set_xlabel("step", fontsize=9, color=GREY)
    axis.margins(x=0.03)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.legend(fontsize=9)
