"""The tables of a report: evaluations, classes, cost."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from morphism.errors import UserError
from morphism.evaluation.report.markup import Html, joined, tag
from morphism.evaluation.report.reading import Evaluation, RunFiles, by_part
from morphism.evaluation.report.words import (
    BYTES,
    COUNT,
    LOWER_IS_BETTER,
    SECONDS,
    heads,
    letter,
    number,
    quantity,
    title,
)
from morphism.lengths import to_steps

Shown = Sequence[Evaluation | None]  # the evaluation of each run that is shown in detail


def table(caption: str, head: Sequence[Html | str], rows: Sequence[Html], class_: str = "") -> Html:
    """A table that scrolls sideways where the screen is narrow."""
    cells = [each if isinstance(each, Html) else tag("th", each, scope="col") for each in head]
    whole = tag(
        "table", tag("caption", caption), tag("thead", tag("tr", cells)), tag("tbody", rows), class_=class_ or None
    )
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def evaluations(runs: Sequence[RunFiles]) -> Html:
    """One table per evaluated split, with a column per run; the best number of each row is marked."""
    names = list(dict.fromkeys(each.name for run in runs for each in run.evaluations))
    found = []
    for name in names:
        own = [next((each.summary for each in run.evaluations if each.name == name), None) for run in runs]
        columns = [_by_part(each) if each else {} for each in own]
        parts = []
        for part in dict.fromkeys(part for column in columns for part in column):
            known = {index: column[part] for index, column in enumerate(columns) if column.get(part)}
            rows = _numbers(list(known.values()))
            if rows:
                parts.append(table(part or "Whole", ["metric", *heads(runs, known)], rows, "numbers"))
        found.append(tag("h3", f"“{name}”"))
        found.append(tag("div", parts, class_="beside"))
        found.append(_about([(index, each) for index, each in enumerate(own) if each]))
    return joined(found)


def training(runs: Sequence[RunFiles]) -> Html | None:
    """The best and the newest evaluation during training, of each metric."""
    metrics = list(dict.fromkeys(name for run in runs for line in run.metrics for name in line if _is_val(name)))
    if not metrics:
        return None
    rows = []
    for name in metrics:
        points = [[(line[name], line["step"]) for line in run.metrics if name in line] for run in runs]
        best = [(min if LOWER_IS_BETTER.search(name) else max)(each, default=None) for each in points]
        cells = [
            tag("td", number(top[0]), tag("small", f" at {top[1]:,}"), _newest(each, top), class_="value")
            if top
            else tag("td", "–", class_="value")
            for top, each in zip(best, points, strict=True)
        ]
        if any(top and top[0] != -1 for top in best):
            rows.append(tag("tr", tag("th", title(name), scope="row"), cells))
    caption = "The best value with its step, and the newest if that is another"
    whole = table(caption, ["metric", *heads(runs)], rows)
    return tag("details", tag("summary", "Evaluations during training"), whole)


def _newest(points: list[tuple[float, int]], best: tuple[float, int]) -> Html | None:
    if points[-1] == best:
        return None
    return joined(tag("br"), tag("small", f"newest {number(points[-1][0])} at {points[-1][1]:,}"))


def _is_val(name: str) -> bool:
    return name.startswith("val/")


def _by_part(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The plain numbers of a summary by part of the task, the whole's last."""
    parts = by_part(summary)
    return {part: _scalars(parts[part]) for part in sorted(parts, key=lambda part: not part)}


def _scalars(summary: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }


def _numbers(columns: Sequence[dict[str, float]]) -> list[Html]:
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column.get(name) for column in columns]
        known = [value for value in values if value is not None and value != -1]
        if not known:
            continue
        best = min(known) if LOWER_IS_BETTER.search(name) else max(known)
        marked = len(known) > 1 and len(set(known)) > 1 and isinstance(best, float)
        cells = [
            tag("td", number(value), class_="value best" if marked and value == best else "value") for value in values
        ]
        rows.append(tag("tr", tag("th", title(name), scope="row"), cells))
    return rows


def _about(summaries: Sequence[tuple[int, Mapping[str, Any]]]) -> Html:
    """Which weights were evaluated on which data."""
    texts = []
    for index, each in summaries:
        what = (
            f"step {each['step']:,}" if isinstance(each.get("step"), int) else str(each.get("weights", "other weights"))
        )
        views = "" if each["views"] == "center" else f", views {each['views']}"
        texts.append(f"{letter(index)}: {what} on {each['source']} {each['split']}{views}")
    return tag("p", "; ".join(texts), class_="note")


# Classes


def classes(runs: Sequence[RunFiles], shown: Shown) -> Html | None:
    """A sortable table per part of the task: a row per class, and the measures of each run."""
    parts = list(dict.fromkeys(part for each in shown if each for part in by_part(each.summary)))
    found = [_class_table(runs, shown, part) for part in parts]
    return joined(found) if any(found) else None


def _class_table(runs: Sequence[RunFiles], shown: Shown, part: str) -> Html | None:
    columns: list[tuple[int, str, dict[str, Any]]] = []
    for index, each in enumerate(shown):
        own = by_part(each.summary).get(part, {}) if each else {}
        names = runs[index].classes.get(part, []) if isinstance(runs[index].classes, dict) else runs[index].classes
        columns += [(index, measure, values) for measure, values in class_measures(own, names).items()]
    if not columns:
        return None
    several = len({index for index, _, _ in columns}) > 1
    head = [_sortable("class", text=True)]
    head += [_sortable(f"{letter(index)} {measure}" if several else measure) for index, measure, _ in columns]
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            [_class_cell(values.get(name)) for _, _, values in columns],
        )
        for name in dict.fromkeys(name for _, _, values in columns for name in values)
    ]
    caption = f"Classes of {part}" if part else "Classes"
    return table(f"{caption}; select a heading to sort", head, rows, "sortable")


def class_measures(summary: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Measure -> class -> value: all that a summary knows of single classes."""
    found: dict[str, dict[str, Any]] = {}
    main = "AP" if "ap" in summary else "IoU" if "miou" in summary else "value"
    titles = {"per_class": main, "mask_per_class": "mask AP", "boundary_per_class": "boundary F1"}
    for key, values in summary.items():
        if not key.endswith("per_class") or not isinstance(values, dict):
            continue
        if any(isinstance(each, dict) for each in values.values()):
            for measure in dict.fromkeys(measure for each in values.values() for measure in each):
                found[title(measure)] = {name: each.get(measure) for name, each in values.items()}
        else:
            found[titles.get(key, key.replace("_", " "))] = values
    cells = cells_of(summary.get("confusion"))
    if cells and names:
        true, predicted = ([0] * len(names) for _ in range(2))
        for (row, column), count in cells.items():
            true[row] += count
            predicted[column] += count
        right = [cells.get((index, index), 0) for index in range(len(names))]
        found["recall"] = {name: _ratio(a, b) for name, a, b in zip(names, right, true, strict=True)}
        found["precision"] = {name: _ratio(a, b) for name, a, b in zip(names, right, predicted, strict=True)}
        found["true"] = dict(zip(names, true, strict=True))
    return found


def cells_of(matrix: Any) -> dict[tuple[int, int], int]:
    """The cells that are not 0 of a confusion matrix, whole or as a list of (true, predicted, count)."""
    if not isinstance(matrix, list) or not matrix:
        return {}
    if any(len(row) != len(matrix) for row in matrix):
        return {(true, found): count for true, found, count in matrix}
    return {(a, b): count for a, row in enumerate(matrix) for b, count in enumerate(row) if count}


def _ratio(value: int, of: int) -> float | None:
    return value / of if of else None


def _sortable(name: str, text: bool = False) -> Html:
    button = tag("button", name, type="button", title=f"sort by {name}")
    return tag("th", button, scope="col", class_=None if text else "value", aria_sort="none")


def _class_cell(value: Any) -> Html:
    known = isinstance(value, int | float) and value != -1
    share = f" heat{round(10 * value)}" if known and isinstance(value, float) and 0 <= value <= 1 else ""
    return tag("td", number(value), class_=f"value{share}", data_value=repr(value) if known else "")


# Cost


def cost(runs: Sequence[RunFiles]) -> Html:
    """What each run costs. What was not measured is a dash."""
    rows: dict[str, Callable[[RunFiles], str]] = {
        "parameters": lambda run: number(newest_start(run, "parameters")),
        "multiply-accumulates per image": lambda run: quantity(newest_start(run, "multiply_accumulates"), COUNT),
        "steps": _steps,
        "images per second": lambda run: number(_median(run, "train/images_per_s")),
        "time in steps": lambda run: quantity(seconds(run), SECONDS),
        "share of time waiting for input": lambda run: _percent(_median(run, "train/input_wait")),
        "model FLOPs utilisation": lambda run: _percent(_median(run, "train/mfu")),
        "FLOP per second": lambda run: quantity(_median(run, "train/flops_per_s"), ((1e12, "T"), (1e9, "G"), (1, ""))),
        "peak memory of a device": lambda run: quantity(_most(run, "train/peak_memory_bytes"), BYTES),
        "peak memory of the host": lambda run: quantity(_most(run, "train/host_peak_memory_bytes"), BYTES),
        "devices": _devices,
        "starts": lambda run: number(len(run.starts)),
        "started": lambda run: str(run.starts[0].get("started", "–"))[:16].replace("T", " ") if run.starts else "–",
        "JAX": lambda run: str((newest_start(run, "packages") or {}).get("jax", "–")),
        "revision": lambda run: str(newest_start(run, "git_revision") or "–")[:12],
    }
    body = [
        tag("tr", tag("th", name, scope="row"), [tag("td", value, class_="value") for value in values])
        for name, of in rows.items()
        if set(values := [of(run) for run in runs]) != {"–"}
    ]
    return table("Cost; speeds are medians over the log", ["", *heads(runs)], body)


def newest_start(run: RunFiles, key: str) -> Any:
    """A fact of the newest start."""
    return run.starts[-1].get(key) if run.starts else None


def _values(run: RunFiles, name: str) -> list[float]:
    return [line[name] for line in run.metrics if isinstance(line.get(name), int | float)]


def _median(run: RunFiles, name: str) -> float | None:
    values = _values(run, name)
    return statistics.median(values) if values else None


def _most(run: RunFiles, name: str) -> float | None:
    return max(_values(run, name), default=None)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _devices(run: RunFiles) -> str:
    devices = newest_start(run, "devices") or []
    kinds = dict.fromkeys(map(str, devices))
    return ", ".join(f"{devices.count(kind)} × {kind}" for kind in kinds) or "–"


def seconds(run: RunFiles) -> float | None:
    """The time that the steps took, by the speeds in the log: without compiling, evaluating and saving."""
    batch, before, total = run.config.get("batch_size"), 0, 0.0
    for line in run.metrics:
        speed = line.get("train/images_per_s")
        if isinstance(speed, int | float) and speed > 0 and isinstance(batch, int):
            total += (line["step"] - before) * batch / speed
            before = line["step"]
    return total or None


def total_steps(run: RunFiles) -> int | None:
    """How many steps the run is configured for, where that is known."""
    records, batch = run.records.get(run.config["data"].get("train_split", "train")), run.config.get("batch_size")
    try:
        return to_steps(str(run.config.get("duration")), (records or 0) / batch if batch else 0, "duration") or None
    except (UserError, TypeError):
        return None


def last_step(run: RunFiles) -> int:
    return run.metrics[-1]["step"] if run.metrics else 0


def _steps(run: RunFiles) -> str:
    total, last = total_steps(run), last_step(run)
    return f"{last:,} of {total:,}" if total and total != last else f"{last:,}"
