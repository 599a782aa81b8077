"""A fingerprint of a checkpoint's parameters, to compare runs to the bit.

    morphism digest WORKDIR [--step N]

SHA-256 of the path, type, shape and bytes of every parameter and running statistic, ordered by path.
"""

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command()
_STEP = COMMAND.string("step", "latest", "Which checkpoint: latest, best or a step.")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError("give one workdir")
    from morphism.runtime.checkpoint import Checkpoints, best_by, choose
    from morphism.runtime.digest import digest
    from morphism.runtime.manifest import read_config
    from morphism.runtime.paths import folder

    workdir = folder(argv[1])
    with Checkpoints(workdir, **best_by(read_config(workdir))) as checkpoints:
        step = choose(checkpoints, _STEP.value)
        print(f"{digest(checkpoints.read(step))}  step {step}")
