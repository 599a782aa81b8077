"""The numbers of a report's charts, which report.js draws: learning curves and precision over recall."""

from collections.abc import Sequence
from typing import Any

from morphism.evaluation.report.markup import Html, joined, tag
from morphism.evaluation.report.reading import RunFiles, by_part
from morphism.evaluation.report.tables import Shown
from morphism.evaluation.report.words import LOWER_IS_BETTER, letter, number, title

POINTS = 500  # of a curve; of more, evenly spread ones are drawn
FIRST = 3  # metrics of each part of an evaluation that are drawn above the fold
LAST = ("train/learning_rate", "train/images_per_s", "train/input_wait")


def learning(runs: Sequence[RunFiles]) -> tuple[Html | None, list[dict[str, Any]]]:
    """The curves of everything in metrics.jsonl; those of minor interest are folded."""
    names = list(dict.fromkeys(name for run in runs for line in run.metrics for name in line if name != "step"))
    losses = [name for name in names if name.startswith("train/") and name.endswith("loss") and name.count("/") == 1]
    of_parts = by_part({name.removeprefix("val/"): name for name in names if name.startswith("val/")})
    first = [*losses, *(name for part in of_parts.values() for name in list(part.values())[:FIRST])]
    first = [name for name in first if _varies(runs, name)]
    rest = [name for name in names if name not in first and name not in LAST and _varies(runs, name)]
    rest += [name for name in LAST if name in names and _varies(runs, name)]
    if not first and not rest:
        return None, []
    charts = [_curve(runs, name, f"curve-{index}") for index, name in enumerate([*first, *rest])]
    shown, folded = (
        tag("div", map(_place, each), class_="charts") for each in (charts[: len(first)], charts[len(first) :])
    )
    more = tag("details", tag("summary", f"{len(rest)} more curves"), folded) if rest else None
    return joined(shown, more), charts


def _varies(runs: Sequence[RunFiles], name: str) -> bool:
    """Whether a run has two values of it other than -1, which stands for what does not exist."""
    return any(sum(line.get(name, -1) != -1 for line in run.metrics) > 1 for run in runs)


def _curve(runs: Sequence[RunFiles], name: str, place: str) -> dict[str, Any]:
    series, words = [], []
    for index, run in enumerate(runs):
        points = [[line["step"], line[name]] for line in run.metrics if isinstance(line.get(name), int | float)]
        if points:
            values = [value for _, value in points]
            best = (min if LOWER_IS_BETTER.search(name) else max)(values)
            words.append(f"{letter(index)} {run.name}: {values[0]:.4g} to {values[-1]:.4g}, best {best:.4g}")
            series.append({"run": index, "name": letter(index), "points": _spread(points)})
    front = "training: " if name.startswith("train/") else "validation: "
    return {"id": place, "title": front + title(name), "x": "step", "series": series, "words": "; ".join(words)}


def _spread(points: list[list[float]]) -> list[list[float]]:
    if len(points) <= POINTS:
        return points
    return [points[round(index * (len(points) - 1) / (POINTS - 1))] for index in range(POINTS)]


def precision(runs: Sequence[RunFiles], shown: Shown) -> tuple[Html | None, list[dict[str, Any]]]:
    """Precision over recall: the mean over classes of each run; of a single run also each of few classes."""
    plots = [_found(each.plots) if each else {} for each in shown]
    charts = []
    for name in dict.fromkeys(name for each in plots for name in each):
        own = [(index, each[name]) for index, each in enumerate(plots) if name in each]
        series = [_mean(index, each) for index, each in own]
        if len(runs) == 1 and 1 < len(own[0][1]["classes"]) <= 8:
            series += _of_classes(own[0][1])
        part = name.rpartition("precision_recall")[0].rstrip("/")
        charts.append(
            {
                "id": f"precision-{len(charts)}",
                "title": ": ".join(filter(None, [part, f"precision over recall ({own[0][1]['of']})"])),
                "x": "recall",
                "y": [0, 1],
                "series": series,
                "words": "; ".join(
                    f"{letter(index)} AP {number(each['mean']['average_precision'])}" for index, each in own
                ),
            }
        )
    return (tag("div", map(_place, charts), class_="charts") if charts else None), charts


def _found(plots: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in plots.items() if name.rpartition("/")[2] == "precision_recall"}


def _mean(index: int, each: dict[str, Any]) -> dict[str, Any]:
    points = [list(pair) for pair in zip(each["recall"], each["mean"]["precision"], strict=True)]
    return {"run": index, "name": f"{letter(index)} mean", "points": points}


def _of_classes(each: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "run": place + 1,
            "name": name,
            "thin": True,
            "points": [list(pair) for pair in zip(each["recall"], values, strict=True)],
        }
        for place, (name, values) in enumerate(zip(each["classes"], each["precision"], strict=True))
        if values is not None
    ]


def _place(chart: dict[str, Any]) -> Html:
    """Where report.js draws a chart; what it says stands there for those who cannot see it."""
    return tag(
        "figure",
        tag("figcaption", chart["title"]),
        tag(
            "div",
            class_="plot",
            id=chart["id"],
            role="img",
            aria_label=f"{chart['title']}. {chart['words']}",
            tabindex=0,
        ),
        class_="chart",
    )
