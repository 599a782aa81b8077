"""Trains an experiment, or continues the run in its workdir.

    python train.py --config experiments/quickstart.py --workdir runs/quickstart
    python train.py --config experiments/imagenet_resnet.py:50 --config.batch_size=1024 --workdir runs/r50
    python train.py --config experiments/bccd_retinanet.py --data my/photos --workdir runs/mine
    python train.py --workdir runs/quickstart [--config.duration=20ep]

--data takes a folder of nearly any layout, finds out which one, and sets config.data.source and the splits.
Without --config the run in the workdir continues with its own configuration.
All local devices take part. For several machines, start the same command on each, with --distributed.
"""

import sys
import time

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command(config="flag", distributed=True, data=True)
_WORKDIR = COMMAND.string("workdir", None, "Folder of the run: its checkpoints, metrics and configuration.")

_STARTED = time.time()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; values are given as --config.field=value")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name a folder for the run, such as runs/first")
    config = COMMAND.config.value

    COMMAND.start_jax()
    from morphism.runtime.paths import folder
    from morphism.runtime.signals import StopSignals
    from morphism.training.loop import train

    with StopSignals() as stop:
        train(config, folder(_WORKDIR.value), stop=stop, started=_STARTED, command=sys.argv)
