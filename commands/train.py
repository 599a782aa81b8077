"""Trains an experiment, or continues the run in its workdir.

    python train.py --config experiments/quickstart.py --workdir runs/quickstart
    python train.py --config experiments/imagenet_resnet.py:50 --config.batch_size=1024 --workdir runs/r50
    python train.py --workdir runs/quickstart [--config.duration=20ep] [--profile 10:15]

Without --config the run in the workdir continues with its own configuration.
All local devices take part. For several machines, start the same command on each, with --distributed.
"""

import sys
import time

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command(config="flag", distributed=True)
_WORKDIR = COMMAND.string("workdir", None, "Folder of the run: its checkpoints, metrics and configuration.")
_PROFILE = COMMAND.string("profile", None, "10:15 traces steps 10 to 15 into WORKDIR/profile, for XProf or Perfetto.")

_STARTED = time.time()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; values are given as --config.field=value")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name a folder for the run, such as runs/first")
    config = COMMAND.config.value
    steps = _PROFILE.value

    COMMAND.start_jax()
    from morphism.runtime.paths import folder
    from morphism.runtime.signals import StopSignals
    from morphism.training.loop import train
    from morphism.training.profiling import Span

    profile = Span.of(steps) if steps is not None else None
    with StopSignals() as stop:
        train(config, folder(_WORKDIR.value), stop=stop, started=_STARTED, command=sys.argv, profile=profile)
