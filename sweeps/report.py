"""The report of a sweep: one HTML file with its ranking, charts and importances, which asks the network for nothing."""

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from morphism.errors import UserError
from morphism.evaluation.report.markup import Html, joined, tag
from morphism.evaluation.report.page import document
from morphism.evaluation.report.reading import read_metrics
from morphism.evaluation.report.tables import table
from morphism.evaluation.report.words import SECONDS, number, quantity
from morphism.sweeps import drawing, tables
from morphism.sweeps.folder import Plan, read_sweep
from morphism.sweeps.live import in_words
from morphism.sweeps.statistics import summarise
from morphism.sweeps.trials import Record, ranked

LEAST = 8  # complete points from which importances are estimated
QUANTILE = 0.25  # importance: for being among this share of the best


def sweep_page(where: str) -> str:
    """The report of the sweep in the folder `where`. Raises UserError if its storage or its trials are missing."""
    folder = Path(where)
    plan, store = read_sweep(folder)
    trials = store.records()
    if not trials:
        raise UserError(f"{folder}: no trial has started yet")
    return page(folder, plan, trials, store.storage.get_all_trials(store.study))


def page(folder: Path, plan: Plan, trials: Sequence[Record], stored: Sequence[FrozenTrial]) -> str:
    """The report of `trials`, which Optuna has as `stored`."""
    tint, fields = drawing.tints(trials, plan.lower), drawing.varied(trials)
    complete = [each for each in trials if each.state == "complete"]
    points, notes = _curves(folder, trials, plan.metric)
    sections = [
        ("ranking", "Ranking", _ranking(complete, plan, fields)),
        ("seeds", "Over seeds", _over_seeds(trials, plan) if plan.seeds > 1 else None),
        ("parallel", "Parallel coordinates", drawing.parallel(trials, fields, plan.metric, tint)),
        ("slices", "Slices", drawing.slices(trials, fields, plan.metric, tint)),
        ("importances", "Importances", _importances(stored, plan)),
        ("curves", "Learning curves", drawing.curves(points, plan.metric, tint)),
        ("others", "Pruned, failed and unfinished", _others([each for each in trials if each not in complete], plan)),
        ("notes", "What is missing", tag("ul", [tag("li", each) for each in notes], class_="notes") if notes else None),
    ]
    present = [each for each in sections if each[2]]
    links = [tag("a", words, href=f"#{name}") for name, words, _ in present]
    name = folder.absolute().name
    content = joined(
        tag(
            "header",
            tag("h1", "Sweep ", tag("span", name, class_="name")),
            _cards(trials, complete, plan),
            tag("nav", links, aria_label="Sections"),
        ),
        tag(
            "main",
            [tag("section", tag("h2", words), body, id=place) for place, words, body in present],
            tag("p", id="told", aria_live="polite"),
        ),
        tag("footer", "Made by morphism report. This file is complete: it loads nothing."),
    )
    words = {each.number: _told(each, plan) for each in trials}
    data = {"runs": [], "charts": [], "matrices": [], "images": {}, "trials": words}
    files = resources.files("morphism.sweeps")
    style, script = (files.joinpath(each).read_text(encoding="utf-8") for each in ("sweep.css", "sweep.js"))
    return document(f"Sweep {name}", content, data, style, script)


def _told(trial: Record, plan: Plan) -> str:
    value = "" if trial.value is None else f", {plan.metric} {trial.value:.4f}"
    return f"Trial {trial.number}, {trial.state}{value}, seed {trial.seed}: {in_words(trial)}"


def _cards(trials: Sequence[Record], complete: Sequence[Record], plan: Plan) -> Html:
    best = ranked(complete, plan.lower)[:1]
    states = [each.state for each in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    spent = quantity(sum(each.seconds for each in trials), SECONDS)
    facts = [plan.sampler, f"pruner {plan.pruner}", *([f"rungs {', '.join(plan.rungs)}"] if plan.rungs else [])]
    if plan.seeds > 1:
        repeated = f"{plan.seeds} more seeds of the best {plan.repeat_best}"
        facts += [repeated if plan.repeat_best else f"{plan.seeds} seeds per point"]
    direction = "lower is better" if plan.lower else "higher is better"
    top = [
        tag("p", tag("strong", number(each.value)), f" {plan.metric}", class_="headline")
        + tag("p", f"trial {each.number}: {in_words(each)}")
        + tag("p", each.workdir, class_="note")
        for each in best
    ]
    return tag(
        "div",
        tag("div", tag("h2", "Best trial"), [Html(each) for each in top] or "none is complete", class_="card"),
        tag(
            "div",
            tag("h2", f"{len(trials)} of {plan.total} trials"),
            tag("p", counts),
            tag("p", f"{spent} of training"),
            class_="card",
        ),
        tag(
            "div",
            tag("h2", "Search"),
            tag("p", " · ".join(facts)),
            tag("p", f"{plan.metric}, {direction}"),
            tag("p", plan.space or "--grid", " of ", plan.experiment or "a configuration", class_="note"),
            class_="card",
        ),
        class_="cards",
    )


def _ranking(complete: Sequence[Record], plan: Plan, fields: Sequence[str]) -> Html | None:
    if not complete:
        return None
    heads = [*tables.labelled(dict.fromkeys(fields)), *(["seed"] if plan.seeds > 1 else []), "steps", "seconds"]
    order = {name: sorted({tables.written(each.overrides.get(name)) for each in complete}) for name in fields}
    rows = []
    for rank, each in enumerate(ranked(complete, plan.lower), 1):
        cells = [_cell(each.overrides.get(name), order[name]) for name in fields]
        cells += [_cell(each.seed, [])] if plan.seeds > 1 else []
        cells += [_cell(each.steps, []), _cell(round(each.seconds, 1), [])]
        value = tag(
            "td", number(each.value), class_="value best" if rank == 1 else "value", data_value=repr(each.value)
        )
        rows.append(tag("tr", tag("th", f"trial {each.number}", scope="row"), value, cells, data_trial=each.number))
    head = [
        tag(
            "th",
            tag("button", name, type="button", title=f"sort by {name}"),
            scope="col",
            aria_sort="none",
            class_="value" if index else None,
        )
        for index, name in enumerate(["trial", plan.metric, *heads])
    ]
    note = "One run each: the difference of two may be that of their seeds." if plan.seeds == 1 else None
    found = table("Complete trials, the best first; select a heading to sort", head, rows, "sortable")
    return joined(found, tag("p", note, class_="note") if note else None)


def _cell(value: object, names: Sequence[str]) -> Html:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    words = tables.written(value)
    key = repr(value) if numeric else names.index(words) if words in names else ""
    return tag("td", words, class_="value", data_value=key)


def _over_seeds(trials: Sequence[Record], plan: Plan) -> Html | None:
    """The table that `morphism table` prints."""
    whole = tables.of_sweep(trials, plan)
    if not whole.rows:
        return None
    rows = []
    for row in whole.rows:
        own = summarise(list(row.values.values()))
        spread = f" ± {tables.decimal(own.sd)}" if own.sd is not None else ""
        value = tag("td", f"{tables.decimal(own.mean)}{spread}", class_="value")
        rows.append(tag("tr", tag("th", row.name, scope="row"), value, tag("td", own.n, class_="value")))
    found = table("Points of the space", ["settings", plan.metric, "n"], rows)
    return joined(found, tag("p", " ".join(tables.remarks(whole)), class_="note"))


def importances(stored: Sequence[FrozenTrial], plan: Plan) -> dict[str, float]:
    """Parameter -> its share of the importance, largest first; {} if there are fewer than LEAST complete points.

    PED-ANOVA: how far the trials that are among the QUANTILE best differ in a parameter from all trials. Seeds of one
    point count once, with their mean. Source: Watanabe et al. 2023 (IJCAI), optuna.importance.
    """
    groups: dict[int, list[FrozenTrial]] = {}
    for each in stored:
        searching = each.number < plan.searched
        if searching and each.state == TrialState.COMPLETE and each.params and math.isfinite(each.value):
            groups.setdefault(each.number // plan.per_point, []).append(each)
    if len(groups) < LEAST:
        return {}
    study = optuna.create_study(direction="minimize" if plan.lower else "maximize")
    for group in groups.values():
        mean = summarise([each.value for each in group]).mean
        study.add_trial(create_trial(params=group[0].params, distributions=group[0].distributions, value=mean))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=QUANTILE)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _importances(stored: Sequence[FrozenTrial], plan: Plan) -> Html:
    shares = importances(stored, plan)
    if not shares:
        return tag("p", f"Too few complete trials: {LEAST} points of the space are the least.", class_="note")
    how = (
        f"PED-ANOVA: how much a parameter decides whether a trial is among the best {QUANTILE:.0%}. An estimate from "
        "the trials above; pruned ones are not in it."
    )
    return joined(drawing.bars(shares), tag("p", how, class_="note"))


def _curves(
    folder: Path, trials: Sequence[Record], metric: str
) -> tuple[dict[int, list[tuple[int, float]]], list[str]]:
    """Of each trial its evaluations, those of its metrics.jsonl and those at rungs; and what could not be read."""
    found, notes = {}, []
    for each in trials:
        points: Mapping[int, float] = dict(each.values)
        own: list[str] = []
        if each.steps:
            lines = read_metrics(folder / each.workdir / "metrics.jsonl", own)
            key = f"val/{metric}"
            points = {line["step"]: line[key] for line in lines if key in line} | points
        notes += own
        found[each.number] = sorted(points.items())
    return found, notes


def _others(trials: Sequence[Record], plan: Plan) -> Html | None:
    if not trials:
        return None
    order = {state: place for place, state in enumerate(("failed", "pruned", "running", "paused", "waiting"))}
    rows = [
        tag(
            "tr",
            tag("th", f"trial {each.number}", scope="row"),
            tag("td", each.state),
            tag("td", number(each.value), class_="value"),
            tag("td", number(each.steps), class_="value"),
            tag("td", each.error or "–", class_="name"),
            tag("td", in_words(each), class_="name"),
            data_trial=each.number,
        )
        for each in sorted(trials, key=lambda each: (order[each.state], each.number))
    ]
    return table("Trials without a final result", ["trial", "state", plan.metric, "steps", "reason", "settings"], rows)
