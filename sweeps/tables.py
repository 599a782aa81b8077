"""A table of results over seeds, as a paper prints it: Markdown, CSV and LaTeX."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from morphism.errors import UserError
from morphism.sweeps.folder import Plan
from morphism.sweeps.statistics import CONFIDENCE, LEAST, RESAMPLES, TOO_FEW, clear_best, compare, summarise
from morphism.sweeps.trials import Record

FORMATS = {"markdown": "md", "csv": "csv", "latex": "tex"}
DASH = "–"
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", DASH: "--", "±": r"$\pm$"}
LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"} | {"<": r"\textless{}", ">": r"\textgreater{}"}
LATEX |= {"|": r"\textbar{}"}


@dataclass(frozen=True)
class Row:
    """One setting. settings: dotted field -> value, of the fields that differ. values: seed -> metric."""

    settings: Mapping[str, Any]
    values: Mapping[int, float]

    @property
    def name(self) -> str:
        return " ".join(f"{label}={written(value)}" for label, value in labelled(self.settings).items())


@dataclass(frozen=True)
class Table:
    """Rows, the best mean first. lower: low values are good. baseline: an index of `rows`. notes: what is left out."""

    metric: str
    lower: bool
    rows: Sequence[Row]
    baseline: int | None = None
    notes: Sequence[str] = field(default_factory=tuple)


def of_sweep(trials: Sequence[Record], plan: Plan) -> Table:
    """The complete trials of a sweep, a row for each point of its space; where the best were repeated, a row for those.

    A row of these does not hold the trial by which it was chosen: as one of the highest of many, that is too high.
    """
    complete = [each for each in trials if each.state == "complete"]
    repeated = [each for each in complete if each.number >= plan.searched]
    points: dict[str, tuple[Mapping[str, Any], dict[int, float]]] = {}
    for each in repeated or complete:
        _, values = points.setdefault(_key(each.overrides), (each.overrides, {}))
        values[each.seed] = each.value
    others = [each.state for each in trials if each.state != "complete"]
    counts = ", ".join(f"{others.count(state)} {state}" for state in dict.fromkeys(others))
    notes = [f"Trials that are not in the table: {counts}."] if others else []
    if repeated:
        search = len(complete) - len(repeated)
        notes.append(f"Only the best of {search} points, with other seeds than the one by which they were chosen.")
    return ranked([Row(*each) for each in points.values()], plan.metric, plan.lower, notes)


def ranked(rows: Sequence[Row], metric: str, lower: bool, notes: Sequence[str] = ()) -> Table:
    def rank(row: Row) -> float:
        mean = summarise(list(row.values.values())).mean
        return mean if lower else -mean

    return Table(metric, lower, sorted(rows, key=rank), None, tuple(notes))


def against(table: Table, baseline: str) -> Table:
    """The table with the differences from the row `baseline`: its name, or enough words of it to mean no other.

    Raises UserError if no row, or more than one, is meant.
    """
    exact = [index for index, row in enumerate(table.rows) if row.name == baseline]
    words = set(baseline.split())
    meant = exact or [index for index, row in enumerate(table.rows) if words and words <= set(row.name.split())]
    if len(meant) != 1:
        what = "no row has" if not meant else f"{len(meant)} rows have"
        known = "; ".join(f"'{table.rows[index].name}'" for index in (meant or range(len(table.rows)))[:8])
        raise UserError(f"--baseline {baseline!r}: {what} this name; give one of {known}")
    return Table(table.metric, table.lower, table.rows, meant[0], table.notes)


def render(table: Table, format: str) -> str:
    """The text of a table in one of FORMATS."""
    return {"markdown": _markdown, "csv": _csv, "latex": _latex}[format](table)


def labelled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under the last part of their field's name, or under all of it where two would be the same."""
    short = [name.rpartition(".")[2] for name in settings]
    return {
        name if short.count(last) > 1 else last: value
        for (name, value), last in zip(settings.items(), short, strict=True)
    }


def written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return DASH if value is None else "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def decimal(value: float | None, sign: bool = False) -> str:
    """4 decimals, or 4 digits of a large number."""
    if value is None:
        return DASH
    text = f"{value:{'+' if sign else ''}.4f}" if abs(value) < 100 else f"{value:{'+' if sign else ''}.6g}"
    return text


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str, allow_nan=False)


def _fields(table: Table) -> list[str]:
    return list(dict.fromkeys(name for row in table.rows for name in row.settings))


def _settings(table: Table) -> tuple[list[str], list[list[str]]]:
    """The heads and the cells of the columns that say what a row is."""
    fields = _fields(table)
    heads = list(labelled(dict.fromkeys(fields)))
    return heads, [
        [written(row.settings[name]) if name in row.settings else DASH for name in fields] for row in table.rows
    ]


def _measured(table: Table) -> list[list[str]]:
    """Of each row: mean, deviation ("" of one seed), n, and with a baseline its difference, P and verdict."""
    found = []
    for index, row in enumerate(table.rows):
        own = summarise(list(row.values.values()))
        cells = [decimal(own.mean), "" if own.sd is None else decimal(own.sd), str(own.n)]
        if table.baseline == index:
            cells += ["baseline", DASH, DASH]
        elif table.baseline is not None:
            cells += _difference(table, row)
        found.append(cells)
    return found


def _difference(table: Table, row: Row) -> list[str]:
    found = compare(row.values, table.rows[table.baseline].values, table.lower)
    interval = "" if found.low is None else f" [{decimal(found.low, True)}, {decimal(found.high, True)}]"
    return [
        decimal(found.difference, True) + interval,
        DASH if found.wins is None else f"{found.wins:.2f}",
        found.verdict,
    ]


def _heads(table: Table) -> list[str]:
    return ["n", "difference", "P(better)", "verdict"] if table.baseline is not None else ["n"]


def remarks(table: Table) -> list[str]:
    """What a reader must know of the numbers, one sentence each."""
    how = f"a paired bootstrap over seeds ({CONFIDENCE:.0%} interval, {RESAMPLES:,} resamples)"
    pairs = [compare(table.rows[0].values, row.values, table.lower) for row in table.rows[1:]]
    found = []
    if any(len(row.values) > 1 for row in table.rows):
        found.append("Mean ± standard deviation over n seeds.")
    if not pairs:
        found.append("One row: there is nothing to compare it with.")
    elif clear_best([row.values for row in table.rows], table.lower) is not None:
        found.append(f"Bold: better than every other row by {how}.")
    elif any(each.verdict == TOO_FEW for each in pairs):
        found.append(f"No row is called the best: {TOO_FEW} ({LEAST} that two rows share are the least).")
    else:
        found.append(f"No row is called the best: the first is not better than every other by {how}.")
    if table.baseline is not None:
        found.append(
            f"Difference: from “{table.rows[table.baseline].name}”, by {how}; P(better): the share of seeds that are "
            "better. Each row is judged alone: of many rows without a difference, some will be called different."
        )
    return [*found, *table.notes]


def _markdown(table: Table) -> str:
    heads, settings = _settings(table)
    best = clear_best([row.values for row in table.rows], table.lower)
    heads = [*heads, f"{table.metric} {'↓' if table.lower else '↑'}", *_heads(table)]
    lines = [heads, ["---"] * len(heads)]
    lines[1][len(settings[0]) :] = ["--:"] * (len(heads) - len(settings[0]))
    for index, (own, (mean, sd, *rest)) in enumerate(zip(settings, _measured(table), strict=True)):
        shown = f"**{mean}**" if index == best else mean
        lines.append([*map(_plain, own), f"{shown} ± {sd}" if sd else shown, *rest])
    lines[0] = [*map(_plain, heads)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{' '.join(map(_plain, remarks(table)))}\n"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return "".join(f"\\{each}" if each in "\\`*_|<>[]" else each for each in " ".join(text.split()))


def _csv(table: Table) -> str:
    """Full precision, and a column for each number; without remarks."""
    heads, settings = _settings(table)
    lines = [[*heads, f"{table.metric}_mean", f"{table.metric}_sd", "n", "seeds"]]
    if table.baseline is not None:
        lines[0] += ["difference", "low", "high", "p_better", "verdict"]
    for index, (own, row) in enumerate(zip(settings, table.rows, strict=True)):
        summary = summarise(list(row.values.values()))
        line = ["" if each == DASH else each for each in own]
        line += [*map(_exact, (summary.mean, summary.sd)), str(summary.n), " ".join(map(str, sorted(row.values)))]
        if table.baseline is not None:
            found = compare(row.values, table.rows[table.baseline].values, table.lower)
            verdict = "baseline" if index == table.baseline else found.verdict
            line += [*map(_exact, (found.difference, found.low, found.high, found.wins)), verdict]
        lines.append(line)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _exact(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _latex(table: Table) -> str:
    """A tabular of booktabs; the remarks are comments above it."""
    heads, settings = _settings(table)
    best = clear_best([row.values for row in table.rows], table.lower)
    arrow = r"$\downarrow$" if table.lower else r"$\uparrow$"
    names = [*map(_tex, heads), f"{_tex(table.metric)} {arrow}", *map(_tex, _heads(table))]
    columns = "l" * len(settings[0]) + "r" * (len(names) - len(settings[0]))
    lines = [f"% {' '.join(each.split())}" for each in (r"\usepackage{booktabs}", *remarks(table))]
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", " & ".join(names) + r" \\", "\\midrule"]
    for index, (own, (mean, sd, *rest)) in enumerate(zip(settings, _measured(table), strict=True)):
        shown = f"\\textbf{{{mean}}}" if index == best else mean
        cells = [*map(_tex, own), f"{shown} $\\pm$ {sd}" if sd else shown, *map(_tex, rest)]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _tex(text: str) -> str:
    return "".join(LATEX.get(each, each) for each in " ".join(text.split()))
