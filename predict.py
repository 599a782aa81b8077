"""Predicts the classes of pictures with a trained run.

    python predict.py --workdir runs/quickstart picture.jpg folder/of/pictures ...

Prints a line a picture, or writes them all as JSON with --output.
"""

import sys
from functools import partial
from pathlib import Path

from absl import flags

import cli
import training.startup
from errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "The --workdir of a training run.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file to write, instead of printing.")
flags.adopt_module_key_flags(training.startup)


def main(argv: list[str]) -> None:
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name the folder of a training run")
    if len(argv) < 2:
        raise UserError("name pictures, or folders of pictures")
    training.startup.start_jax()
    from data.pictures import Pictures, find_pictures
    from evaluation.run import open_run
    from training.manifest import write_json

    run = open_run(Path(_WORKDIR.value), _CHECKPOINT.value)
    source = Pictures(find_pictures(argv[1:]), run.classes)
    found = []
    for predictions in run.predict(source, partial(print, file=sys.stderr)):
        for index, number, confidence in zip(
            predictions["id"], predictions["class"], predictions["confidence"], strict=False
        ):
            picture = str(source.files[index])
            found.append({"file": picture, "class": run.classes[number], "confidence": round(float(confidence), 4)})
            if not _OUTPUT.value:
                print(f"{picture}\t{run.classes[number]}\t{confidence:.4f}")
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), found)
        print(f"{len(found)} predictions in {_OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main, "predict.py")
