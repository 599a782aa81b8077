"""Trains an experiment, or goes on where its workdir left off.

    python train.py --config experiments/quickstart.py --workdir runs/quickstart
    python train.py --config experiments/imagenet_resnet.py:50 --config.batch_size=1024 --workdir runs/r50
    python train.py --workdir runs/quickstart [--config.duration=20ep]

Without --config the run in the workdir goes on as it was configured.
All local devices take part. Several machines: start the same command on each, with --distributed.
"""

import sys
import time

from absl import flags

import cli
import training.startup
from errors import UserError

_CONFIG = cli.ConfigFlag()
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and the configuration are kept.")
flags.adopt_module_key_flags(cli)
training.startup.define_flags()
flags.adopt_module_key_flags(training.startup)

_STARTED = time.time()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; values are given as --config.field=value")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name a folder for the run, such as runs/first")
    config = _CONFIG.value

    training.startup.start_jax()
    from training.loop import train
    from training.paths import folder

    train(config, folder(_WORKDIR.value), _STARTED)


if __name__ == "__main__":
    sys.argv = cli.with_config_of_workdir(sys.argv)
    cli.run(main, "train.py")
