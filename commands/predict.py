"""Predicts what images show, with a trained run or with other trained weights.

    morphism predict --workdir runs/quickstart image.jpg folder/of/images ...
    morphism predict --config experiments/imagenet_resnet.py:50 --weights torchvision:resnet50/IMAGENET1K_V2 cat.jpg
    morphism predict --workdir runs/camvid --masks masks/ street.jpg

Prints a line per image, object or class. With --output it writes JSON instead: a list with an entry per image, or with
the suffix .jsonl a line per image.
Detections with a score below --threshold are not printed; --output contains all that evaluation would count.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from morphism.commands import cli
from morphism.errors import UserError

if TYPE_CHECKING:
    from morphism.evaluation.masks import MaskWriter
    from morphism.evaluation.run import Run

COMMAND = cli.Command(config="flag", distributed=True, trained=True)
_OUTPUT = COMMAND.string("output", None, "A JSON file to write, instead of printing; .jsonl: a line per image.")
_THRESHOLD = COMMAND.number("threshold", 0.25, "Detections with a lower score are not printed.", 0.0, 1.0)
_MAX_SHOWN = COMMAND.integer("max_shown", 50, "Most detections to print per image.", 1)
_MASKS = COMMAND.string("masks", None, "Segmentation: a folder for a PNG per image, with the class of every pixel.")


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError("name images, or folders of images")
    COMMAND.start_jax()
    import jax

    from morphism.data.loose import LooseImages, find_images, readable

    first = jax.process_index() == 0  # every process has all predictions; one of them prints
    say = partial(print, file=sys.stderr, flush=True) if first else lambda line: None
    run = COMMAND.open_trained(say)
    files = find_images(argv[1:])
    whole, broken = readable(files)
    source = LooseImages(whole, run.classes)
    masks = _mask_writer(run, whole) if _MASKS.value else None
    found: dict[Path, dict[str, Any]] = {}
    for predictions in run.predictions(source, say, skip_broken=True) if whole else ():
        for row, index in enumerate(predictions["id"].tolist()):
            found[whole[index]] = run.task.describe(predictions, row, run.classes)
            if masks and first:
                for name in run.task.masks:
                    masks.write(index, run.task.mask(predictions, row, name), name)
            if not _OUTPUT.value and first:
                _print(whole[index], run.task.lines(found[whole[index]], _THRESHOLD.value, _MAX_SHOWN.value))
    broken |= {path: run.problem(source, index) for index, path in enumerate(whole) if path not in found}
    if first:
        _finish(argv[0], run, files, found, broken, say)
    if broken:
        sys.exit(2)


def _mask_writer(run: "Run", files: list[Path]) -> "MaskWriter":
    if not run.task.masks:
        raise UserError(f"--masks: {run.name} is trained for {run.task.name}, which makes none; leave it out")
    from morphism.evaluation.masks import MaskWriter

    return MaskWriter(Path(_MASKS.value), files, run.task.masks)


def _finish(
    program: str,
    run: "Run",
    files: list[Path],
    found: dict[Path, dict[str, Any]],
    broken: dict[Path, str],
    say: Callable[[str], None],
) -> None:
    """Writes the JSON file, or says how many detections were not printed; then says what could not be read."""
    from morphism.runtime.paths import write_json, write_json_lines

    if _OUTPUT.value:
        entries = [{"file": str(path)} | (found[path] if path in found else {"error": broken[path]}) for path in files]
        write = write_json_lines if _OUTPUT.value.endswith(".jsonl") else write_json
        write(Path(_OUTPUT.value), entries, "name a file that can be written as --output")
        say(f"predictions of {len(found):,} images in {_OUTPUT.value}")
    else:
        counts = [run.task.counts(each, _THRESHOLD.value, _MAX_SHOWN.value) for each in found.values()]
        shown, total = np.sum(counts, axis=0, dtype=int) if counts else (0, 0)
        if shown < total:
            say(
                f"{shown:,} shown of {total:,} detections (--threshold={_THRESHOLD.value:g}, "
                f"--max_shown={_MAX_SHOWN.value}); --output writes all"
            )
    for reason in broken.values():
        say(f"{program}: error: {' '.join(reason.split())}")


def _print(path: Path, lines: list[tuple[Any, ...]]) -> None:
    for line in lines:
        print(path, *map(_shown, line), sep="\t", flush=True)


def _shown(value: Any) -> str:
    """A value as text: boxes with 1 decimal, other floats with 4."""
    if isinstance(value, list):
        return " ".join(f"{each:.1f}" for each in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
