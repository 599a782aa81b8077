"""Predicts what images show, with a trained run or with other trained weights.

    python predict.py --workdir runs/quickstart picture.jpg folder/of/pictures ...
    python predict.py --config experiments/imagenet_resnet.py:50 --weights torchvision:resnet50/IMAGENET1K_V2 cat.jpg

    python predict.py --workdir runs/camvid --masks masks/ street.jpg

Prints a line per image, or one for each object or class; or writes JSON with --output: a list with an entry per image.
Of detections --output has all that evaluation would count; those that score less than --threshold are not printed.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

import cli
import training.startup
from errors import UserError

_CONFIG = cli.ConfigFlag()
_WORKDIR = flags.DEFINE_string("workdir", None, "The --workdir of a training run.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
_WEIGHTS = flags.DEFINE_string("weights", None, "With --config, instead of --workdir: a file, torchvision:..., a run.")
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file to write, instead of printing.")
_THRESHOLD = flags.DEFINE_float("threshold", 0.25, "Detections that score less are not printed.", 0.0, 1.0)
_MAX_SHOWN = flags.DEFINE_integer("max_shown", 50, "How many detections of an image are printed at most.", 1)
_MASKS = flags.DEFINE_string(
    "masks", None, "Of a segmentation: a folder for a PNG a picture, its pixels' class numbers."
)
flags.adopt_module_key_flags(cli)
training.startup.define_flags()
flags.adopt_module_key_flags(training.startup)


def main(argv: list[str]) -> None:
    cli.check_trained(_WORKDIR.value, _WEIGHTS.value, _CONFIG)
    if len(argv) < 2:
        raise UserError("name pictures, or folders of pictures")
    training.startup.start_jax()
    import jax

    from data.pictures import Pictures, find_pictures
    from evaluation.run import open_run, open_weights
    from training.paths import folder, write_json
    from training.resume import OF_EVALUATION

    first = jax.process_index() == 0  # every process has all predictions, one of them speaks
    tell = partial(print, file=sys.stderr, flush=True) if first else lambda line: None
    if _WORKDIR.value:
        run = open_run(folder(_WORKDIR.value), _CHECKPOINT.value)
        _CONFIG.override(run.config, OF_EVALUATION)
    else:
        run = open_weights(_CONFIG.value, _WEIGHTS.value, _CONFIG.overrides, tell)
    source = Pictures(find_pictures(argv[1:]), run.classes)
    if _MASKS.value:
        if run.config.task != "segmentation":
            raise UserError(f"--masks: {run.name} is trained for {run.config.task}, which makes none; leave it out")
        from evaluation.masks import MaskWriter

        writer = MaskWriter(Path(_MASKS.value), source.files)
    found: dict[int, dict[str, Any]] = {}
    detections = shown = 0
    for predictions in run.predict(source, tell):
        if not first:
            continue
        for row, index in enumerate(predictions["id"].tolist()):
            if _MASKS.value:
                writer.write(index, run.task.mask(predictions, row))
            found[index] = described = run.task.describe(predictions, row, run.classes)
            if _OUTPUT.value:
                continue
            lines = run.task.lines(described, _THRESHOLD.value, _MAX_SHOWN.value)
            for line in lines:
                print(source.files[index], *map(_shown, line), sep="\t")
            detections += len(described.get("detections", ()))
            shown += sum(len(line) > 1 for line in lines)
    if _OUTPUT.value and first:
        listed = [{"file": str(source.files[i]), **found[i]} for i in sorted(found)]
        write_json(Path(_OUTPUT.value), listed, "name a file that can be written as --output")
        tell(f"predictions of {len(found):,} images in {_OUTPUT.value}")
    elif detections > shown:
        tell(
            f"{shown:,} shown of {detections:,} detections (--threshold={_THRESHOLD.value:g}, "
            f"--max_shown={_MAX_SHOWN.value}); --output writes all"
        )


def _shown(value: Any) -> str:
    """Numbers as they are worth reading; a box as its four."""
    if isinstance(value, list):
        return " ".join(f"{each:.1f}" for each in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    if any(argument.startswith("--config.") for argument in sys.argv):
        sys.argv = cli.with_config_of_workdir(sys.argv)
    cli.run(main, "predict.py")
