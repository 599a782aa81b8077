"""The charts of a sweep as SVG: parallel coordinates, slices, learning curves, importances. sweep.js lights them up."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from morphism.evaluation.report.markup import Html, tag
from morphism.sweeps.tables import written
from morphism.sweeps.trials import Record

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 210, 50, 14, 10, 26
Scale = Callable[[Any], float]  # a value -> its share of an axis, 0 to 1


class Axis:
    """An axis for `values`: of numbers, logarithmic from two decades on; of anything else, the values in order."""

    def __init__(self, values: Sequence[Any]):
        numeric = all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
        self.names: list[str] = [] if numeric else sorted({written(each) for each in values})
        self.low, self.high = (min(values), max(values)) if numeric else (0, max(len(self.names) - 1, 0))
        self.log = numeric and self.low > 0 and self.high / self.low >= 100

    def at(self, value: Any) -> float:
        if self.names:
            value = self.names.index(written(value))
        low, high = self._bent(self.low), self._bent(self.high)
        return 0.5 if low == high else (self._bent(value) - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Shares of the axis with what stands there."""
        if self.names:
            return [(self.at(name), name) for name in self.names]
        if self.low == self.high:
            return [(0.5, written(self.low))]
        whole = isinstance(self.low, int) and self.high - self.low > 10
        shares = (0, 0.25, 0.5, 0.75, 1)
        return [(share, f"{self._value(share):.0f}" if whole else f"{self._value(share):.3g}") for share in shares]

    def _value(self, share: float) -> float:
        value = self._bent(self.low) + share * (self._bent(self.high) - self._bent(self.low))
        return 10**value if self.log else value

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.log else value


def tints(trials: Sequence[Record], lower: bool) -> dict[int, str]:
    """Number of a trial -> its class: the best "top", the fifths of the ranking q4 to q0, none without a value."""
    known = sorted((each for each in trials if _finite(each.value)), key=lambda each: each.value, reverse=not lower)
    found = {each.number: "none" for each in trials}
    found |= {each.number: f"q{4 - 5 * rank // len(known)}" for rank, each in enumerate(known)}
    complete = [each for each in known if each.state == "complete"]
    return found | ({complete[0].number: "top"} if complete else {})


def varied(trials: Sequence[Record]) -> list[str]:
    """The fields that have two values or more."""
    names = dict.fromkeys(name for each in trials for name in each.overrides)
    values = {name: {repr(each.overrides.get(name)) for each in trials} for name in names}
    return [name for name in names if len(values[name]) > 1]


def parallel(trials: Sequence[Record], fields: Sequence[str], metric: str, tint: Mapping[int, str]) -> Html | None:
    """A line for each trial through its settings and its metric. One that lacks a field has no point on its axis."""
    shown = [each for each in trials if _finite(each.value)]
    if not shown or not fields:
        return None
    columns: list[tuple[str, Callable[[Record], Any]]] = [
        (name, lambda each, name=name: each.overrides.get(name)) for name in fields
    ]
    columns.append((metric, lambda each: each.value))
    width, high = max(720, 130 * len(columns)), 320
    places = [70 + index * (width - 140) / (len(columns) - 1) for index in range(len(columns))]
    axes = [Axis([found for each in shown if (found := of(each)) is not None]) for _, of in columns]

    def y(share: float) -> float:
        return high - 20 - share * (high - 70)

    lines = []
    for each in sorted(shown, key=lambda each: tint[each.number] == "top"):  # the best on top
        points = [
            f"{x:.1f} {y(axis.at(value)):.1f}"
            for x, axis, (_, of) in zip(places, axes, columns, strict=True)
            if (value := of(each)) is not None
        ]
        lines.append(tag("path", d=f"M{'L'.join(points)}", class_=f"trial {tint[each.number]}", data_trial=each.number))
    frame = []
    for index, (x, axis, (name, _)) in enumerate(zip(places, axes, columns, strict=True)):
        frame.append(tag("line", class_="axis", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=y(1), y2=y(0)))
        title = f"{_last(name)}{' (log)' if axis.log else ''}"
        high_up = 14 + 14 * (index % 2)  # neighbours' names do not touch
        frame.append(tag("text", title, class_="head", x=f"{x:.1f}", y=high_up, text_anchor="middle"))
        frame += [
            tag("text", _short(words), x=f"{x - 6:.1f}", y=f"{y(share) + 4:.1f}", text_anchor="end")
            for share, words in axis.ticks()
        ]
    svg = tag("svg", lines, frame, viewBox=f"0 0 {width} {high}", role="img", aria_label="Settings and metric by trial")
    return tag("div", svg, class_="plot wide")


def slices(trials: Sequence[Record], fields: Sequence[str], metric: str, tint: Mapping[int, str]) -> Html | None:
    """The metric over each field: complete trials filled, others at their last rung open."""
    shown = [each for each in trials if _finite(each.value)]
    charts = []
    for name in fields:
        own = [each for each in shown if each.overrides.get(name) is not None]
        if own:
            across, up = Axis([each.overrides[name] for each in own]), Axis([each.value for each in own])
            dots = [
                tag(
                    "circle",
                    cx=f"{_x(across.at(each.overrides[name])):.1f}",
                    cy=f"{_y(up.at(each.value)):.1f}",
                    r="4.5" if tint[each.number] == "top" else "3.5",
                    class_=f"trial {tint[each.number]}{'' if each.state == 'complete' else ' open'}",
                    data_trial=each.number,
                )
                for each in own
            ]
            charts.append(_chart(f"{metric} over {name}{' (log)' if across.log else ''}", across, up, dots))
    return tag("div", charts, class_="charts") if charts else None


def curves(points: Mapping[int, Sequence[tuple[int, float]]], metric: str, tint: Mapping[int, str]) -> Html | None:
    """The metric over steps; `points`: number of a trial -> (step, metric)."""
    known = {number: [(s, v) for s, v in each if _finite(v)] for number, each in points.items()}
    known = {number: each for number, each in known.items() if each}
    if not known:
        return None
    across = Axis([step for each in known.values() for step, _ in each])
    up = Axis([value for each in known.values() for _, value in each])
    drawn = []
    for number in sorted(known, key=lambda number: tint[number] == "top"):
        line = [f"{_x(across.at(step)):.1f} {_y(up.at(value)):.1f}" for step, value in known[number]]
        drawn.append(tag("path", d=f"M{'L'.join(line)}", class_=f"trial {tint[number]}", data_trial=number))
        x, y = line[-1].split()
        drawn.append(tag("circle", cx=x, cy=y, r="2.5", class_=f"trial {tint[number]}", data_trial=number))
    title = f"{metric} over steps{' (log)' if across.log else ''}"
    return tag("div", _chart(title, across, up, drawn), class_="charts")


def bars(shares: Mapping[str, float]) -> Html:
    rows = []
    for index, (name, share) in enumerate(shares.items()):
        y = 26 * index
        rows.append(tag("text", _short(name, 28), x=0, y=y + 16))
        rows.append(tag("rect", x=200, y=y + 4, width=f"{max(300 * share, 1):.1f}", height=16, rx=3))
        rows.append(tag("text", f"{share:.0%}", x=f"{206 + 300 * share:.1f}", y=y + 16))
    return tag(
        "svg", rows, viewBox=f"0 0 560 {26 * len(shares)}", class_="importance", role="img", aria_label="Importance"
    )


def _chart(title: str, across: Axis, up: Axis, content: Sequence[Html]) -> Html:
    frame = []
    for share, words in up.ticks():
        y = f"{_y(share):.1f}"
        frame.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        frame.append(tag("text", words, x=LEFT - 6, y=f"{_y(share) + 4:.1f}", text_anchor="end"))
    for share, words in across.ticks():
        frame.append(tag("text", _short(words, 10), x=f"{_x(share):.1f}", y=HEIGHT - 8, text_anchor="middle"))
    svg = tag("svg", frame, content, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", title), tag("div", svg, class_="plot"), class_="chart")


def _x(share: float) -> float:
    return LEFT + 8 + share * (WIDTH - LEFT - RIGHT - 16)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - 4 - share * (HEIGHT - TOP - BOTTOM - 8)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _short(text: str, most: int = 12) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
