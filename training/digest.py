"""A fingerprint of a checkpoint's parameters, to compare runs to the bit.

    python -m training.digest WORKDIR [--step N]

SHA-256 over path, type, shape and bytes of every parameter and running statistic, in the order of the paths.
"""

import hashlib
from typing import Any

from absl import flags

import cli
from errors import UserError


def digest(state: dict[str, Any]) -> str:
    """Of a state as nested dicts of arrays: its `params` and `batch_stats`."""
    import jax
    import numpy as np

    sha = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path({key: state[key] for key in ("params", "batch_stats")})
    named = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}
    for name, array in sorted(named.items()):
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError("give one workdir")
    from training.checkpoint import Checkpoints, choose
    from training.manifest import read_config
    from training.paths import folder

    workdir = folder(argv[1])
    with Checkpoints(workdir, best=read_config(workdir).best) as checkpoints:
        step = choose(checkpoints, _STEP.value)
        print(f"{digest(checkpoints.read(step))}  step {step}")


if __name__ == "__main__":
    _STEP = flags.DEFINE_string("step", "latest", "Which checkpoint: latest, best or a step.")
    cli.run(main, "training.digest")
