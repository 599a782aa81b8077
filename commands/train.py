"""Trains an experiment, or continues the run in its workdir.

    python train.py --config experiments/quickstart.py --workdir runs/quickstart
    python train.py --config experiments/imagenet_resnet.py:50 --config.batch_size=1024 --workdir runs/r50
    python train.py --config experiments/bccd_retinanet.py --data my/photos --workdir runs/mine
    python train.py --workdir runs/quickstart [--config.duration=20ep] [--profile 10:15]
    python train.py --config experiments/finetune.py:resnet50 --config.data.source=folder:images --budget 30min \
        --workdir runs/own

--data takes a folder of nearly any layout, finds out which one, and sets config.data.source and the splits.
--budget is what an experiment that derives its fields, such as finetune, keeps to.
Without --config the run in the workdir continues with its own configuration.
All local devices take part. For several machines, start the same command on each, with --distributed.
"""

import sys
import time
from collections.abc import Collection

from ml_collections import ConfigDict

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command(config="flag", distributed=True, data=True)
_WORKDIR = COMMAND.string("workdir", None, "Folder of the run: its checkpoints, metrics and configuration.")
_BUDGET = COMMAND.string("budget", None, "What derived fields keep to: 30min (start to end), 20ep or 500 (steps).")
_PROFILE = COMMAND.string("profile", None, "10:15 traces steps 10 to 15 into WORKDIR/profile, for XProf or Perfetto.")
_STOPPED = COMMAND.integer("stopped_status", 0, "Exit status where a signal stops the run before its end.", 0)

_STARTED = time.time()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; values are given as --config.field=value")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name a folder for the run, such as runs/first")
    config = _budgeted(COMMAND.config.value, COMMAND.config.overrides, _BUDGET.value)
    steps = _PROFILE.value

    COMMAND.start_jax()
    from morphism.runtime.paths import folder
    from morphism.runtime.signals import StopSignals
    from morphism.training.loop import advance
    from morphism.training.profiling import Span

    profile = Span.of(steps) if steps is not None else None
    with StopSignals() as stop:
        progress = advance(
            config, folder(_WORKDIR.value), stop=stop, started=_STARTED, command=sys.argv, profile=profile
        )
    if not progress.over:
        sys.exit(_STOPPED.value)


def _budgeted(config: ConfigDict, overrides: Collection[str], budget: str | None) -> ConfigDict:
    """`config` with the --budget, deriving nothing that --config.field=value gives.

    Raises UserError for a budget that nothing would keep to.
    """
    derive = tuple(name for name in config.derive if name not in overrides)
    if budget is not None:
        if config.budget != budget and "duration" not in derive:
            given = "--config.duration is given" if config.derive else "this configuration derives no field"
            raise UserError(
                f"--budget={budget}: {given}, so that nothing would keep to it; leave it out and set the length with "
                "--config.duration, such as 20ep, or take experiments/finetune.py:<model> in a new --workdir"
            )
        config.budget = budget
    config.derive = derive
    return config
