"""The whole report: one HTML file with its own style and script, which asks the network for nothing."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from morphism.evaluation.report import charts, configs, mistakes, tables
from morphism.evaluation.report.markup import Html, joined, script_data, tag
from morphism.evaluation.report.reading import Evaluation, RunFiles
from morphism.evaluation.report.words import SECONDS, chip, letter, number, quantity, run_name, title


def page(runs: Sequence[RunFiles], split: str | None = None) -> str:
    """The report of `runs`. split: the evaluation to show in detail; that of the validation split unless given."""
    shown = [run.shown(split) for run in runs]
    curves, curve_data = charts.learning(runs)
    precision, precision_data = charts.precision(runs, shown)
    confusions, examples, data = _of_images(runs, shown)
    sections = [
        ("curves", "Learning curves", joined(curves, tables.training(runs)) if curves else None),
        ("numbers", "Evaluations", tables.evaluations(runs)),
        ("errors", "Kinds of errors", mistakes.tide(runs, shown)),
        ("confusion", "Confusion", confusions),
        ("images", "Images", examples),
        ("classes", "Classes", tables.classes(runs, shown)),
        ("precision", "Precision and recall", precision),
        ("cost", "Cost", tables.cost(runs)),
        ("config", "Configuration", configs.side_by_side(runs)),
        ("notes", "What is missing", _notes(runs)),
    ]
    present = [each for each in sections if each[2]]
    links = [tag("a", words, href=f"#{name}") for name, words, _ in present]
    content = joined(
        tag("header", _header(runs), tag("nav", links, aria_label="Sections")),
        tag("main", [tag("section", tag("h2", words), body, id=name) for name, words, body in present]),
        tag("footer", "Made by morphism report. This file is complete: it loads nothing."),
    )
    data |= {
        "runs": [{"name": run.name, "letter": letter(index)} for index, run in enumerate(runs)],
        "charts": [*curve_data, *precision_data],
    }
    return document("Runs: " + ", ".join(run.name for run in runs), content, data)


def document(heading: str, content: Html, data: dict[str, Any], more_style: str = "", more_script: str = "") -> str:
    """A page of `content` with the report's style and script, and those given after them; `data` is for report.js."""
    files = resources.files("morphism.evaluation.report")
    style, script = (files.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    style, script = style + more_style, script + more_script
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", heading),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        content,
        tag("noscript", tag("p", "Without JavaScript there are no charts, and cells cannot be opened.", class_="note")),
        tag("script", script_data(data), type="application/json", id="data"),
        tag("script", Html(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _hash(text: str) -> str:
    """The source of a policy that allows this very text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _header(runs: Sequence[RunFiles]) -> Html:
    heading = tag("h1", "1 run" if len(runs) == 1 else f"{len(runs)} runs")
    return joined(heading, tag("div", [_card(run, index) for index, run in enumerate(runs)], class_="cards"))


def _card(run: RunFiles, index: int) -> Html:
    config, last, total = run.config, tables.last_step(run), tables.total_steps(run)
    spent = quantity(tables.seconds(run), SECONDS, unknown="")
    progress = f"step {last:,}" if not total else f"{last:,} of {total:,} steps"
    state = "finished" if total and last >= total else "not finished" if last else "not started"
    facts = dict.fromkeys(map(str, (config["model"]["name"], config["task"], config["data"]["source"])))
    best = str(config.get("best", ""))
    shown = run.shown(None)
    value = shown.summary.get(best) if shown else None
    if value is None:
        value = max((line[f"val/{best}"] for line in run.metrics if f"val/{best}" in line), default=None)
    return tag(
        "div",
        tag("h2", chip(index), " ", tag("span", run.name, class_="name")),
        tag("p", tag("strong", number(value)), " ", title(best), class_="headline") if value is not None else None,
        tag("p", " · ".join(facts)),
        tag("p", " · ".join(filter(None, [state, progress, spent])), class_="note"),
        class_="card",
    )


def _of_images(
    runs: Sequence[RunFiles], shown: Sequence[Evaluation | None]
) -> tuple[Html | None, Html | None, dict[str, Any]]:
    """The matrices and the examples of all runs, and the images that the script shows when a cell is opened."""
    matrices, examples, data, texts = [], [], [], {}
    budget = mistakes.JPEGS // len(runs)
    for index, (run, each) in enumerate(zip(runs, shown, strict=True)):
        if each is None:
            continue
        block, cells = mistakes.confusions(run, each, index)
        order = mistakes.wanted(each, cells)
        small = mistakes.embedded(each, order, budget)
        gallery = mistakes.examples(runs, index, each, small)
        in_page = {*each.index.get("worst", ()), *each.index.get("best", ())}
        others = {image: {"small": files} for image, files in small.items() if image not in in_page}
        listed = {image for of in cells for ids in of["cells"].values() for image in ids}
        texts[index] = {
            image["id"]: mistakes.facts(each, image) | others.get(image["id"], {})
            for image in each.images
            if image["id"] in listed
        }
        data += cells
        if block:
            matrices.append(_folded(runs, index, block, first=not matrices))
        if gallery:
            examples.append(gallery)
    return joined(matrices) or None, joined(examples) or None, {"matrices": data, "images": texts}


def _folded(runs: Sequence[RunFiles], index: int, block: Html, first: bool) -> Html:
    """The block of a run: as it is if there is only one run, else to be opened, the first open."""
    if len(runs) == 1:
        return block
    return tag("details", tag("summary", run_name(runs, index)), block, open=first)


def _notes(runs: Sequence[RunFiles]) -> Html | None:
    notes = [tag("li", chip(index), " ", note) for index, run in enumerate(runs) for note in run.notes]
    return tag("ul", notes, class_="notes") if notes else None
