"""Checkpoints of a run: Orbax behind the few operations that training and evaluation need.

Writing is asynchronous and atomic: a checkpoint exists whole or not at all. The newest `keep` and the best are kept.
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from orbax.checkpoint import checkpoint_managers

from morphism.errors import UserError, did_you_mean
from morphism.runtime.integrity import check_steps, check_whole
from morphism.runtime.paths import AnyPath, is_local, write_json
from morphism.runtime.processes import time_limit

State = Any  # a tree of arrays

METRICS = "metrics/metrics"  # where Orbax keeps a step's metrics
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)
# In what JAX, its coordination service and Gloo say where a process is gone, or does not answer.
LOST = (
    *("DEADLINE_EXCEEDED", "UNAVAILABLE", "task died", "heartbeat", "Barrier timed out", "barrier"),
    *("Connection reset", "Connection closed", "Connection refused", "Gloo"),
)


class Checkpoints:
    """The folder `checkpoints` of a workdir. Close it (or leave its `with`) to finish what is being written.

    A step is saved first and evaluated after: its metrics follow into its folder, as Orbax would have written them.
    """

    def __init__(self, workdir: AnyPath, keep: int = 1, best: str = "", writer: bool = False):
        """`best` names the metric whose highest value, among checkpoints that have metrics, is the best.

        `writer` is True for the one run that saves here: it clears away what an interrupted run left half written.
        """
        self.folder = (workdir.absolute() if is_local(workdir) else workdir) / "checkpoints"
        check_steps(self.folder)
        self._best, self._keep = best, keep
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_Preserved(self),
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),  # when to save is the loop's decision
                cleanup_tmp_directories=writer,
            ),
        )
        self._metrics = {step: _read_metrics(self.folder / str(step)) for step in self.steps()}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: Any) -> None:
        with self._explained(), time_limit("finishing a checkpoint"):
            self._manager.close()

    def save(self, step: int, state: State) -> None:
        """Copies the state off the device, then writes in the background; the state may be donated on return.

        Raises UserError where this or the previous checkpoint could not be written; those before it are whole.
        """
        with self._explained(), time_limit("saving a checkpoint"):
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Adds what the evaluation of `step` found to its checkpoint, which is written to its end first.

        Those that are then neither among the newest nor the best are removed. Raises UserError as `save` does.
        """
        with self._explained(), time_limit("finishing a checkpoint"):
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                (self.folder / str(step) / "metrics").mkdir(exist_ok=True)
                write_json(self.folder / str(step) / METRICS, metrics)
            self._metrics[step] = metrics
            for other in self.steps():
                if other not in self.kept(self.steps()):
                    self._manager.delete(other)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # Orbax and TensorStore pass on the disk's in several
            text = " ".join(str(error).split())
            if jax.process_count() > 1 and any(word in text for word in LOST):
                raise UserError(
                    f"{self.folder}: a checkpoint was not written, since another process of the run is lost "
                    f"({text[:200]}); start the same command on all hosts again"
                ) from error
            disk = next((reason for reason in map(os.strerror, DISK) if reason in text), "")
            remedy = "make room, or make the folder writable, and start" if disk else "start"
            raise UserError(
                f"{self.folder}: a checkpoint could not be written ({disk or text[:200]}); the earlier ones are whole: "
                f"{remedy} the same command again"
            ) from error

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def metrics(self, step: int) -> dict[str, float] | None:
        """What the evaluation of `step` found; None where there was none, or it did not end."""
        return self._metrics.get(step)

    def best(self) -> int | None:
        """The step with the highest metric, the latest of equals, or None where none was saved with metrics."""
        return self._best_of(self.steps())

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Those of the ascending `steps` that are to stay: the newest and the best."""
        return {*steps[-self._keep :], self._best_of(steps)}

    def _best_of(self, steps: Sequence[int]) -> int | None:
        scores = {step: found[self._best] for step in steps if (found := self._metrics.get(step)) and self._best}
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def restore(self, step: int, like: State, sharding: Sharding) -> State:
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


@dataclass(frozen=True)
class _Preserved(checkpoint_managers.PreservationPolicy):
    """Orbax removes the others once the step being saved is whole."""

    checkpoints: Checkpoints

    def should_preserve(self, found: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [each.step for each in found]
        return [step in self.checkpoints.kept(steps) for step in steps]


def _read_metrics(step: AnyPath) -> dict[str, float] | None:
    path = step / METRICS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


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


def eval_variables(params: Any, batch_stats: Any, ema: Any) -> dict[str, Any]:
    """What a model is evaluated with, of a training state's fields: the moving averages where they are kept."""
    return ema or {"params": params, "batch_stats": batch_stats}


def read_trained(workdir: AnyPath, best: str, which: str) -> tuple[int, dict[str, Any]]:
    """The step that `which` names, "best" by the metric `best`, and what its model is evaluated with, NumPy arrays.

    Raises UserError where there is no such checkpoint, or it is broken.
    """
    with Checkpoints(workdir, best=best) as checkpoints:
        step = choose(checkpoints, which)
        state = checkpoints.read(step)
    return step, eval_variables(state["params"], state["batch_stats"], state["ema"])


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path joined with dots -> shape."""
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "tree", tree))
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}


def check_same(saved: dict[str, tuple], wanted: dict[str, tuple], where: AnyPath) -> None:
    """Raises UserError naming the first array that the checkpoint at `where` and the model do not have alike."""
    for path in sorted(saved.keys() | wanted.keys()):
        if saved.get(path) != wanted.get(path):
            raise UserError(
                f"{where}: {path} is {saved.get(path, 'absent')} there and {wanted.get(path, 'absent')} in this model; "
                "it is a checkpoint of another configuration"
            )
