"""Evaluates a run's checkpoint, or other trained weights, on any split, each example exactly once, on all devices.

    python eval.py --workdir runs/quickstart [--split val] [--checkpoint best|latest|STEP] [--views ten_crop] [--draw]
    python eval.py --config experiments/imagenet_resnet.py:50 --weights torchvision:resnet50/IMAGENET1K_V2 \
        [--config.data.source=imagenet:pictures/val] [--output result.json]

Prints a table, and writes it as JSON (and a .png with --draw) where --output says; in the workdir, unless it is given,
as eval_<split>.json, or eval_<split>_<views>.json with --views but the central crop.
--weights are a file (.safetensors, .pth, darknet's .weights), a public checkpoint of torchvision's, or a run's workdir.
"""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from morphism.commands import cli
from morphism.errors import UserError

if TYPE_CHECKING:
    from morphism.data.records import Source
    from morphism.evaluation.run import Run

Predictions = dict[str, np.ndarray]

COMMAND = cli.Command(config="flag", distributed=True)
_WORKDIR = COMMAND.string("workdir", None, "The --workdir of a training run.")
_SPLIT = COMMAND.string("split", None, "Which split; the run's config.data.val_split unless given.")
_CHECKPOINT = COMMAND.string("checkpoint", "best", "best, latest or a step.")
_SOURCE = COMMAND.string("source", None, "Other data, of the run's classes or some of them.")
_VIEWS = COMMAND.string("views", "center", "Of each image: center, flip, ten_crop; of masks also scales[_flip].")
_WEIGHTS = COMMAND.string("weights", None, "With --config, instead of --workdir: a file, torchvision:..., a run.")
_OUTPUT = COMMAND.string("output", None, "A JSON file to write; eval_<split>.json in the --workdir unless given.")
_DRAW = COMMAND.boolean("draw", False, "Also draw images with what was predicted.")
_THRESHOLD = COMMAND.number("threshold", 0.25, "Detections that score less are not drawn.", 0.0, 1.0)
_MAX_SHOWN = COMMAND.integer("max_shown", 50, "How many detections are drawn in an image at most.", 1)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}")
    cli.check_trained(_WORKDIR.value, _WEIGHTS.value, COMMAND.config)
    if _WEIGHTS.value and _DRAW.value and not _OUTPUT.value:
        raise UserError("--output is missing; name a JSON file, and --draw puts its drawing beside it")
    COMMAND.start_jax()
    import jax

    from morphism.evaluation.loop import gather, summarise
    from morphism.evaluation.run import open_run, open_weights
    from morphism.runtime.paths import folder
    from morphism.runtime.resume import OF_EVALUATION
    from morphism.runtime.validation import check_config

    if _WORKDIR.value:
        run = open_run(folder(_WORKDIR.value), _CHECKPOINT.value)
        COMMAND.config.override(run.config, OF_EVALUATION)
        check_config(run.config)
    else:
        run = open_weights(COMMAND.config.value, _WEIGHTS.value, COMMAND.config.overrides, print)
    split = _SPLIT.value or run.config.data.val_split
    source = _load(run, split)
    drawn = np.isin(np.arange(len(source)), run.task.drawn(len(source)) if _DRAW.value else ())
    kept: list[Predictions] = []
    metrics = gather(run.task, source, _keeping(run.predictions(source, print, _VIEWS.value), drawn, kept))
    if jax.process_index() != 0:  # every process has all predictions, one of them speaks
        return
    summary = summarise(run.task, metrics)
    print(f"{run.config.data.source} {split} ({_VIEWS.value}), {run.name}, {summary['examples']:,} examples")
    table = run.task.table(summary)
    width = max(19, *map(len, table))
    for name, value in table.items():
        print(f"  {name:<{width}} {value:.4f}")
    if _WORKDIR.value or _OUTPUT.value:
        _write(run, source, split, metrics, summary, kept)


def _load(run: "Run", split: str) -> "Source":
    """The records to evaluate on, with the classes of `run`; --source is put into its config."""
    import jax

    from morphism.data import sources
    from morphism.data.fingerprint import fingerprint
    from morphism.runtime.manifest import data_changed
    from morphism.runtime.paths import folder

    data = run.config.data
    where = f"{_SOURCE.value or data.source} {split}"
    if _SOURCE.value:
        with run.config.unlocked():
            data.source = _SOURCE.value
            if sources.has_split(data, split):  # whole, whatever the run cut from its own train split
                data.val_fraction = 0.0
        if data.val_fraction > 0:
            print(
                f"data: {where} is cut from its train split, {data.val_fraction:.3g} of it; --split train evaluates "
                "all of it"
            )
    found = sources.load(data, split)
    if _WORKDIR.value and not _SOURCE.value and jax.process_index() == 0:
        difference = data_changed(folder(_WORKDIR.value), split, fingerprint(found))
        if difference:
            print(f"data: {where} has changed since the run was last started: {difference}")
    return sources.with_classes(found, run.classes, where)


def _keeping(batches: Iterator[Predictions], drawn: np.ndarray, kept: list[Predictions]) -> Iterator[Predictions]:
    """The batches unchanged; the rows of the records that are `drawn` are added to `kept`."""
    for predictions in batches:
        rows = drawn[predictions["id"]]
        if rows.any():
            kept.append({name: value[rows] for name, value in predictions.items()})
        yield predictions


def _write(
    run: "Run", source: "Source", split: str, metrics: Any, summary: dict[str, Any], kept: list[Predictions]
) -> None:
    """The JSON file, the task's own files beside it, and with --draw a drawing."""
    from morphism.runtime.paths import folder, write_bytes, write_json, write_text

    name = split if _VIEWS.value == "center" else f"{split}_{_VIEWS.value}"
    path = folder(_OUTPUT.value or f"{_WORKDIR.value}/eval_{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}.json")
    facts = {"split": split, "source": run.config.data.source, **run.facts, "views": _VIEWS.value}
    remedy = "name a file that can be written as --output"
    write_json(path, facts | summary, remedy)
    print(f"  in {path}")
    for file in run.task.files(metrics, source):
        beside = path.with_name(f"{path.stem}_{file.name}.json")
        write_text(beside, json.dumps(file.value, allow_nan=False), remedy)
        print(f"  {file.title} in {beside}")
    if _DRAW.value:
        drawing = path.with_suffix(".png")
        content = run.task.draw(source, kept, run.config.data, _THRESHOLD.value, _MAX_SHOWN.value)
        write_bytes(drawing, content, "name another file as --output")
        print(f"  drawn in {drawing}")
