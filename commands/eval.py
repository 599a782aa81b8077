"""Evaluates a run's checkpoint, or other trained weights, on any split, each example exactly once, on all devices.

    python eval.py --workdir runs/quickstart [--split val] [--checkpoint best|latest|STEP] [--views ten_crop] [--draw]
    python eval.py --config experiments/imagenet_resnet.py:50 --weights torchvision:resnet50/IMAGENET1K_V2 \\
        [--config.data.source=imagenet:images/val] [--output result.json]

Prints a table, and writes it as JSON to --output; with --draw also a .png next to it. The default of --output is
eval_<split>.json in the workdir, or eval_<split>_<views>.json with --views other than center.
--weights names a file (.safetensors, .pth, darknet's .weights), a public checkpoint of torchvision, or a run's workdir.
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

COMMAND = cli.Command(config="flag", distributed=True, trained=True)
_SPLIT = COMMAND.string("split", None, "Which split; the run's config.data.val_split unless given.")
_SOURCE = COMMAND.string("source", None, "Other data, with all or some of the run's classes.")
_DATA = COMMAND.string("data", None, "The same by its path alone; all of it, if it has no validation or test split.")
_VIEWS = COMMAND.string(
    "views", "center", "How each image is seen: center, flip, ten_crop; for segmentation also scales[_flip]."
)
_OUTPUT = COMMAND.string("output", None, "A JSON file to write; eval_<split>.json in the --workdir unless given.")
_DRAW = COMMAND.boolean("draw", False, "Also draw images with their predictions.")
_THRESHOLD = COMMAND.number("threshold", 0.25, "Detections with a lower score are not drawn.", 0.0, 1.0)
_MAX_SHOWN = COMMAND.integer("max_shown", 50, "Most detections to draw per image.", 1)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}")
    if COMMAND.weights.value and _DRAW.value and not _OUTPUT.value:
        raise UserError("--output is missing; name a JSON file, and --draw puts its drawing next to it")
    COMMAND.start_jax()
    import jax

    from morphism.evaluation.loop import gather, summarise

    if _SOURCE.value and _DATA.value:
        raise UserError("--source and --data both name other data; leave out one")
    run = COMMAND.open_trained(print)
    other, own = _other(run)
    split = _SPLIT.value or own or run.config.data.val_split
    source = _load(run, split, other)
    drawn = np.isin(np.arange(len(source)), run.task.drawn(source) if _DRAW.value else ())
    kept: list[Predictions] = []
    task = run.task.measured(run.config)
    metrics = gather(task, source, _keeping(run.predictions(source, print, _VIEWS.value), drawn, kept))
    if jax.process_index() != 0:  # every process has all predictions; one of them prints
        return
    summary = summarise(task, metrics)
    print(f"{run.config.data.source} {split} ({_VIEWS.value}), {run.name}, {summary['examples']:,} examples")
    table = task.table(summary)
    width = max(19, *map(len, table))
    for name, value in table.items():
        print(f"  {name:<{width}} {value:,}" if isinstance(value, int) else f"  {name:<{width}} {value:.4f}")
    if COMMAND.workdir.value or _OUTPUT.value:
        _write(run, source, split, metrics, summary, kept)


def _other(run: "Run") -> tuple[str, str]:
    """The source in --source or --data, and for --data the split to evaluate on; "" where they are the run's own."""
    if not _DATA.value:
        return _SOURCE.value or "", ""
    from morphism.data import recognise, sources

    found = recognise.recognise(_DATA.value)
    if found.source == run.config.data.source:  # evaluated on what the run held out
        print(f"data: {found.about}; the run's own")
        return "", ""
    named = [sources.validation(found.splits), "test", "train"]
    split = next((name for name in named if name in found.splits), found.splits[0])
    print(f"data: {found.about}; evaluated on {_SPLIT.value or split}")
    return found.source, split


def _load(run: "Run", split: str, other: str) -> "Source":
    """The records to evaluate on, with the classes of `run`. Writes the source `other`, unless "", into its config."""
    import jax

    from morphism.data import sources
    from morphism.data.fingerprint import fingerprint
    from morphism.runtime.manifest import data_changed
    from morphism.runtime.paths import folder

    data = run.config.data
    where = f"{other or data.source} {split}"
    if other:
        with run.config.unlocked():
            data.source = other
            if sources.has_split(data, split):  # whole, whatever the run cut from its own train split
                data.val_fraction = 0.0
        if data.val_fraction > 0:
            print(
                f"data: {where} is cut from its train split, {data.val_fraction:.3g} of it; --split train evaluates "
                "all of it"
            )
    found = sources.load(data, split)
    if COMMAND.workdir.value and not other and jax.process_index() == 0:
        difference = data_changed(folder(COMMAND.workdir.value), split, fingerprint(found))
        if difference:
            print(f"data: {where} has changed since the run was last started: {difference}")
    return run.task.with_classes(found, run.classes, where)


def _keeping(batches: Iterator[Predictions], drawn: np.ndarray, kept: list[Predictions]) -> Iterator[Predictions]:
    """The batches unchanged; adds the rows of the records to draw to `kept`."""
    for predictions in batches:
        rows = drawn[predictions["id"]]
        if rows.any():
            kept.append({name: value[rows] for name, value in predictions.items()})
        yield predictions


def _write(
    run: "Run", source: "Source", split: str, metrics: Any, summary: dict[str, Any], kept: list[Predictions]
) -> None:
    """Writes the JSON file, next to it the task's own files, and with --draw a drawing."""
    from morphism.runtime.paths import folder, write_bytes, write_files, write_json, write_text

    name = split if _VIEWS.value == "center" else f"{split}_{_VIEWS.value}"
    name = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    path = folder(_OUTPUT.value or f"{COMMAND.workdir.value}/eval_{name}.json")
    facts = {"split": split, "source": run.config.data.source, **run.facts, "views": _VIEWS.value}
    remedy = "name a file that can be written as --output"
    write_json(path, facts | summary, remedy)
    print(f"  in {path}")
    for file in run.task.files(metrics, source):
        own = path.with_name(f"{path.stem}_{file.name}.json")
        write_text(own, json.dumps(file.value, allow_nan=False), remedy)
        write_files(own.with_suffix(""), file.images, remedy)
        print(f"  {file.title} in {own}")
    if _DRAW.value:
        drawing = path.with_suffix(".png")
        content = run.task.draw(source, kept, run.config.data, _THRESHOLD.value, _MAX_SHOWN.value)
        write_bytes(drawing, content, "name another file as --output")
        print(f"  drawn in {drawing}")
