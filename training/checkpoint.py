"""Checkpoints of a run: Orbax behind the few operations that training and evaluation need.

Writing is asynchronous and atomic: a checkpoint exists whole or not at all. The newest `keep` and the best are kept.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from orbax.checkpoint import checkpoint_managers

from errors import UserError, did_you_mean
from training.integrity import check_steps, check_whole
from training.state import TrainState


class Checkpoints:
    """The folder `checkpoints` of a workdir. Close it (or leave its `with`) to finish what is being written."""

    def __init__(self, workdir: Path, keep: int = 1, best: str = "", writer: bool = False):
        """`best` names the metric whose highest value, among checkpoints saved with metrics, is the best.

        `writer` is True for the one run that saves here: it clears away what an interrupted run left half written.
        """
        self.folder = workdir.absolute() / "checkpoints"
        check_steps(self.folder)
        policy = [checkpoint_managers.LatestN(keep)]
        if best:
            # Without metrics a checkpoint is never the best, yet LatestN keeps it while it is new.
            policy.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[best], n=1, keep_checkpoints_without_metrics=False
                )
            )
        self._best = best
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policy),
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),  # when to save is the loop's decision
                best_fn=(lambda metrics: metrics[best]) if best else None,
                keep_checkpoints_without_metrics=True,
                cleanup_tmp_directories=writer,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: Any) -> None:
        with self._explained():
            self._manager.close()

    def save(self, step: int, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Copies the state off the device, then writes in the background; the state may be donated on return.

        Raises UserError where this or the previous checkpoint could not be written; those before it are whole.
        """
        with self._explained():
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # Orbax and TensorStore pass on the disk's in several types
            raise UserError(
                f"{self.folder}: a checkpoint could not be written ({_reason(error)}); the earlier ones are whole: "
                "make room, or make the folder writable, and start the same command again"
            ) from error

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the highest metric, or None where none was saved with metrics."""
        return self._manager.best_step() if self._best else None

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def restore(self, step: int, like: TrainState, sharding: Sharding) -> TrainState:
        """The state of `step`, on any number of devices, in the structure of `like` (arrays or their shapes).

        Raises UserError where it is broken, or of another architecture, optimiser or number of classes.
        """
        check_whole(self.folder / str(step))
        saved = self._manager.item_metadata(step)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
        check_same(shapes(saved), shapes(target), self.folder / str(step))
        return self._manager.restore(step, args=ocp.args.StandardRestore(target))

    def read(self, step: int) -> dict[str, Any]:
        """The state of `step` as nested dicts of NumPy arrays, without a model to compare it with.

        Raises UserError where it is broken.
        """
        check_whole(self.folder / str(step))
        target = jax.tree.map(
            lambda x: ocp.RestoreArgs(restore_type=np.ndarray), self._manager.item_metadata(step).tree
        )
        with ocp.PyTreeCheckpointer() as reader:
            return reader.restore(self.folder / str(step) / "default", restore_args=target)


def has_steps(workdir: Path) -> bool:
    """Whether a run in `workdir` would go on from a checkpoint."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def _reason(error: BaseException) -> str:
    """The system's own words, such as "No space left on device", out of a library's long message."""
    text = " ".join(str(error).split())
    known = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)]
    return next((reason for reason in known if reason in text), text[:200])


def choose(checkpoints: Checkpoints, which: str) -> int:
    """The step that "best", "latest" or a number names. "best" is the latest where nothing was evaluated."""
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{checkpoints.folder}: no checkpoint; train first")
    if which == "latest":
        return steps[-1]
    if which == "best":
        best = checkpoints.best()
        return steps[-1] if best is None else best
    if not which.isdigit() or int(which) not in steps:
        raise UserError(
            f"{checkpoints.folder}: no checkpoint {which!r}; it holds {', '.join(map(str, steps))}"
            f"{did_you_mean(which, ('best', 'latest'))}"
        )
    return int(which)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path joined with dots -> shape."""
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "tree", tree))
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}


def check_same(saved: dict[str, tuple], wanted: dict[str, tuple], where: Path) -> None:
    """Raises UserError naming the first array that the checkpoint at `where` and the model do not have alike."""
    for path in sorted(saved.keys() | wanted.keys()):
        if saved.get(path) != wanted.get(path):
            raise UserError(
                f"{where}: {path} is {saved.get(path, 'absent')} there and {wanted.get(path, 'absent')} in this model; "
                "it is a checkpoint of another configuration"
            )
