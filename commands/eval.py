"""Evaluates a run's checkpoint, or other trained weights, on any split, each example exactly once, on all devices.

    python eval.py --workdir runs/quickstart [--split val] [--checkpoint best|latest|STEP] [--views ten_crop] [--draw]
    python eval.py --config experiments/imagenet_resnet.py:50 --weights torchvision:resnet50/IMAGENET1K_V2 \\
        [--config.data.source=imagenet:images/val] [--output result.json]

Prints a table, and writes it as JSON to --output. The default of --output is eval_<split>.json in the workdir, or
eval_<split>_<views>.json with --views other than center. With --draw it draws examples and plots into the workdir's
plots/<split>, or into <output>_plots next to --output.
Next to the JSON file, <name>_images.jsonl says of each image how well it is predicted, what is true and what was
predicted; <name>_images.zip holds small images for `morphism report`.
--weights names a file (.safetensors, .pth, darknet's .weights), a public checkpoint of torchvision, or a run's workdir.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from morphism.commands import cli
from morphism.errors import UserError

if TYPE_CHECKING:
    from morphism.data.records import Source
    from morphism.evaluation.drawings import Evaluated
    from morphism.evaluation.image_results import ImageResults
    from morphism.evaluation.run import Run
    from morphism.tasks.task import Metrics

COMMAND = cli.Command(config="flag", distributed=True, trained=True)
_SPLIT = COMMAND.string("split", None, "Which split; the run's config.data.val_split unless given.")
_DATA = COMMAND.string(
    "data", None, "Other data, with some or all of the run's classes: a folder, the file that describes it, KIND:PATH."
)
_VIEWS = COMMAND.string(
    "views", "center", "How each image is seen: center, flip, ten_crop; for segmentation also scales[_flip]."
)
_OUTPUT = COMMAND.string("output", None, "A JSON file to write; eval_<split>.json in the --workdir unless given.")
_DRAW = COMMAND.boolean("draw", False, "Also draw examples with predictions beside truth, and plots.")
_THRESHOLD = COMMAND.number(
    "threshold", 0.25, "Detections with a lower score are neither drawn nor confused.", 0.0, 1.0
)
_MAX_SHOWN = COMMAND.integer("max_shown", 50, "Most detections to draw per image.", 1)
_CONFUSED = COMMAND.integer(
    "confused", 120, "Most small images to keep of what is confused, for morphism report; 0 keeps none.", 0
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}")
    if COMMAND.weights.value and _DRAW.value and not _OUTPUT.value:
        raise UserError("--output is missing; name a JSON file, and --draw puts a folder of plots next to it")
    COMMAND.start_jax()
    import jax

    from morphism.evaluation.drawings import Evaluated, keeping, shown
    from morphism.evaluation.image_results import ImageResults
    from morphism.evaluation.loop import gather, of_all_processes, summarise
    from morphism.runtime.processes import exchanged
    from morphism.tasks.task import Predictions

    first = jax.process_index() == 0  # each process evaluates its own rows; one of them speaks and writes
    say = print if first else lambda line: None
    run = COMMAND.open_trained(say)
    other, its_split = _other(run, say)
    split = _SPLIT.value or its_split or run.config.data.val_split
    source = _load(run, split, other, say)
    kept: list[Predictions] = []
    task = run.task.measured(run.config, _THRESHOLD.value)
    drawn = shown(source) if _DRAW.value else []
    written = COMMAND.workdir.value or _OUTPUT.value
    look = run.config.data, _THRESHOLD.value, _MAX_SHOWN.value
    images = ImageResults(task, source, run.classes, *look, _CONFUSED.value)
    each = (images.add,) if written else ()
    batches = run.predictions(source, say, _VIEWS.value)
    metrics = of_all_processes(gather(task, source, keeping(batches, drawn, kept), *each))
    kept = [rows for own in exchanged(kept) for rows in own]
    images.add_other_processes()
    if not first:
        return
    summary = summarise(task, metrics)
    print(f"{run.config.data.source} {split} ({_VIEWS.value}), {run.name}, {summary['examples']:,} examples")
    table = task.table(summary)
    width = max(19, *map(len, table))
    for name, value in table.items():
        print(f"  {name:<{width}} {value:,}" if isinstance(value, int) else f"  {name:<{width}} {value:.4f}")
    if written:
        _write(run, source, split, metrics, summary, images)
    if _DRAW.value:
        _draw(split, Evaluated(task, source, run.config.data, run.classes, metrics, summary, kept))


def _other(run: "Run", say: Callable[[str], None]) -> tuple[str, str]:
    """The source in --data, and the split to evaluate on; "" where they are the run's own."""
    if not _DATA.value:
        return "", ""
    from morphism.data import recognise, sources

    found = recognise.at(_DATA.value, run.config.data.data_dir)
    if found.source == run.config.data.source:  # evaluated on what the run held out
        say(f"data: {found.about}; the run's own")
        return "", ""
    named = [sources.validation(found.splits), "test", "train"]
    split = next((name for name in named if name in found.splits), found.splits[0])
    say(f"data: {found.about}; evaluated on {_SPLIT.value or split}")
    return found.source, split


def _load(run: "Run", split: str, other: str, say: Callable[[str], None]) -> "Source":
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
            say(
                f"data: {where} is cut from its train split, {data.val_fraction:.3g} of it; --split train evaluates "
                "all of it"
            )
    found = sources.load(data, split)
    if COMMAND.workdir.value and not other and jax.process_index() == 0:
        difference = data_changed(folder(COMMAND.workdir.value), split, fingerprint(found))
        if difference:
            say(f"data: {where} has changed since the run was last started: {difference}")
    return run.task.with_classes(found, run.classes, where)


def _write(
    run: "Run", source: "Source", split: str, metrics: "Metrics", summary: dict[str, Any], images: "ImageResults"
) -> None:
    """Writes the JSON file, and next to it what is known of each image and the task's own files."""
    from morphism.evaluation.drawings import file_name
    from morphism.runtime.paths import folder, write_files, write_json, write_text

    path = folder(_OUTPUT.value or f"{COMMAND.workdir.value}/eval_{file_name(_evaluation(split))}.json")
    facts = {"split": split, "source": run.config.data.source, **run.facts, "views": _VIEWS.value}
    remedy = "name a file that can be written as --output"
    write_json(path, facts | summary, remedy)
    print(f"  in {path}")
    print(f"  each image in {images.write(path.with_suffix(''), remedy)}")
    for file in run.task.files(metrics, source):
        own = path.with_name(f"{path.stem}_{file.name}.json")
        write_text(own, json.dumps(file.value, allow_nan=False), remedy)
        write_files(own.with_suffix(""), file.images, remedy)
        print(f"  {file.title} in {own}")


def _draw(split: str, evaluated: "Evaluated") -> None:
    """Draws into the workdir's plots, or into a folder next to --output."""
    from morphism.evaluation.drawings import drawings, folder_of, write
    from morphism.runtime.paths import folder

    if _OUTPUT.value:
        output = folder(_OUTPUT.value)
        into = output.with_name(f"{output.stem}_plots")
    else:
        into = folder_of(folder(COMMAND.workdir.value), _evaluation(split))
    write(into, drawings(evaluated, _THRESHOLD.value, _MAX_SHOWN.value), "name another file as --output")
    print(f"  drawn in {into}")


def _evaluation(split: str) -> str:
    return split if _VIEWS.value == "center" else f"{split}_{_VIEWS.value}"
