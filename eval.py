"""Evaluates a run's checkpoint, or other trained weights, on any split, each example exactly once, on all devices.

    python eval.py --workdir runs/quickstart [--split val] [--checkpoint best|latest|STEP] [--views ten_crop] [--draw]
    python eval.py --config experiments/imagenet_resnet.py:50 --weights torchvision:resnet50/IMAGENET1K_V2 \
        [--config.data.source=imagenet:pictures/val] [--output result.json]

Prints a table, and writes it as JSON (and a .png with --draw) where --output says; in the workdir, unless it is given,
as eval_<split>.json, or eval_<split>_<views>.json with --views but the central crop.
--weights are a file (.safetensors, .pth, darknet's .weights), a public checkpoint of torchvision's, or a run's workdir.
"""

import re
import sys

import numpy as np
from absl import flags

import cli
import training.startup
from errors import UserError

MASKS_DRAWN = 12  # pictures with a class a pixel, of which no more are kept

_CONFIG = cli.ConfigFlag()
_WORKDIR = flags.DEFINE_string("workdir", None, "The --workdir of a training run.")
_SPLIT = flags.DEFINE_string("split", None, "Which split; the run's config.data.val_split unless given.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
_SOURCE = flags.DEFINE_string("source", None, "Other data, of the run's classes or some of them.")
_VIEWS = flags.DEFINE_string("views", "center", "Of each picture: center, flip, ten_crop; of masks also scales[_flip].")
_WEIGHTS = flags.DEFINE_string("weights", None, "With --config, instead of --workdir: a file, torchvision:..., a run.")
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file to write; eval_<split>.json in the --workdir unless given.")
_DRAW = flags.DEFINE_bool("draw", False, "Also draw pictures with what was predicted.")
flags.adopt_module_key_flags(cli)
training.startup.define_flags()
flags.adopt_module_key_flags(training.startup)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}")
    cli.check_trained(_WORKDIR.value, _WEIGHTS.value, _CONFIG)
    if _WEIGHTS.value and _DRAW.value and not _OUTPUT.value:
        raise UserError("--output is missing; name a JSON file, and --draw puts its picture beside it")
    training.startup.start_jax()
    import jax

    from data import sources
    from data.fingerprint import fingerprint
    from evaluation.loop import gather, summarise
    from evaluation.run import open_run, open_weights
    from tasks.coco import write_results
    from training.manifest import data_changed
    from training.paths import folder, write_json
    from training.resume import OF_EVALUATION

    if _WORKDIR.value:
        run = open_run(folder(_WORKDIR.value), _CHECKPOINT.value)
        _CONFIG.override(run.config, OF_EVALUATION)
    else:
        run = open_weights(_CONFIG.value, _WEIGHTS.value, _CONFIG.overrides, print)
    split = _SPLIT.value or run.config.data.val_split
    with run.config.unlocked():
        run.config.data.source = _SOURCE.value or run.config.data.source
    where = f"{run.config.data.source} {split}"
    data = sources.load(run.config.data, split)
    if _WORKDIR.value and not _SOURCE.value and jax.process_index() == 0:
        difference = data_changed(folder(_WORKDIR.value), split, fingerprint(data))
        if difference:
            print(f"data: {where} is not what the run began with: {difference}")
    source = sources.with_classes(data, run.classes, where)

    drawn = _drawn(run.config.task, len(source)) if _DRAW.value else np.zeros(len(source), bool)
    kept = []

    def keeping(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        for predictions in batches:
            rows = drawn[predictions["id"]]
            if rows.any():
                kept.append({name: value[rows] for name, value in predictions.items()})
            yield predictions

    views = _VIEWS.value
    batches = run.predict(source, print, views)
    metrics = gather(run.task, source, keeping(batches))
    if jax.process_index() != 0:
        return
    summary = summarise(run.task, metrics)
    print(f"{run.config.data.source} {split} ({views}), {run.name}, {summary['examples']:,} examples")
    table = run.task.table(summary)
    width = max(19, *map(len, table))
    for name, value in table.items():
        print(f"  {name:<{width}} {value:.4f}")
    if not _WORKDIR.value and not _OUTPUT.value:
        return
    name = split if views == "center" else f"{split}_{views}"
    path = folder(_OUTPUT.value or f"{_WORKDIR.value}/eval_{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}.json")
    remedy = "name a file that can be written as --output"
    write_json(path, {"split": split, "source": run.config.data.source, **run.facts, "views": views, **summary}, remedy)
    print(f"  in {path}")
    if run.config.task == "detection":
        results = path.with_name(f"{path.stem}_detections.json")
        write_results(results, metrics["gathered"], source.category_ids, source.image_ids)
        print(f"  detections, in COCO's format, in {results}")
    if _DRAW.value:
        from evaluation.plots import draw_classification, draw_detection, draw_segmentation

        drawing = path.with_suffix(".png")
        if run.config.task == "segmentation":
            draw_segmentation(drawing, source, kept, run.config)
        else:
            together = {name: np.concatenate([each[name] for each in kept]) for name in kept[0]}
            if run.config.task == "detection":
                draw_detection(drawing, source, together, _THRESHOLD.value, _MAX_SHOWN.value, run.config)
            else:
                draw_classification(drawing, source, together, np.array(summary["confusion"]), run.config)
        print(f"  drawn in {drawing}")


def _drawn(task: str, count: int) -> np.ndarray:
    """Whether a drawing needs the predictions of each record: all in classification, whose worst mistakes are drawn."""
    from evaluation.plots import DRAWN, spread

    return np.isin(np.arange(count), range(count) if task == "classification" else spread(count, DRAWN[task]))


if __name__ == "__main__":
    if any(argument.startswith("--config.") for argument in sys.argv):
        sys.argv = cli.with_config_of_workdir(sys.argv)
    cli.run(main, "eval.py")
