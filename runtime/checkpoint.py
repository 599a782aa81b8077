"""Checkpoints of a run: Orbax, reduced to the few operations that training and evaluation need.

Writing is asynchronous and atomic: a checkpoint is complete or absent. The newest `keep` and the best are kept.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from morphism import tasks
from morphism.errors import Unwritable, UserError, did_you_mean
from morphism.runtime.digest import by_path
from morphism.runtime.integrity import METRICS, check_steps, check_whole, write_checksums
from morphism.runtime.mesh import laid_out
from morphism.runtime.paths import AnyPath, is_local, read_json, write_json
from morphism.runtime.processes import is_lost, time_limit
from morphism.tasks.task import lower_is_better

State = Any  # a tree of arrays

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)


class Checkpoints:
    """The folder `checkpoints` of a workdir. Leaving its `with` finishes the checkpoint that is being written.

    A step is saved before it is evaluated: its metrics are added to its folder later, as Orbax would write them.
    """

    def __init__(self, workdir: AnyPath, keep: int = 1, best: str = "", lowest: bool = False, writer: bool = False):
        """`keep`: how many of the newest checkpoints stay; `best`: the metric whose highest value marks the best one,
        or with `lowest` its lowest (`best_by`).

        `writer` is True for the run that saves here: it removes checkpoints that an interrupted run left incomplete.
        """
        self.folder = (workdir.absolute() if is_local(workdir) else workdir) / "checkpoints"
        check_steps(self.folder)
        self._best, self._sign, self._keep = best, -1 if lowest else 1, keep
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_Preserved(self),
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),  # when to save is the loop's decision
                cleanup_tmp_directories=writer,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._finish),
            ),
        )
        paths = {step: self.folder / str(step) / METRICS for step in self.steps()}
        self._metrics = {step: read_json(path, dict) for step, path in paths.items() if path.exists()}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: Any) -> None:
        with self._explained(), time_limit("finishing a checkpoint"):
            self._manager.close()

    def save(self, step: int, state: State) -> None:
        """Copies the state to the host, then writes it in the background; afterwards the state may be donated.

        Raises UserError if this checkpoint or the previous one could not be written; the earlier ones are complete.
        """
        with self._explained(), time_limit("saving a checkpoint"):
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the metrics of `step` to its checkpoint, once that is written.

        Removes the checkpoints that are then neither among the newest nor the best. Raises UserError as `save` does.
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

    def _finish(self) -> None:
        """Adds checksums to a step that Orbax has written, before it gives the folder its name."""
        if jax.process_index() == 0 and is_local(self.folder):  # Orbax has waited for the others
            for unnamed in self.folder.glob("*.orbax-checkpoint-tmp*"):
                write_checksums(unnamed)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # the disk's errors, as Orbax and TensorStore raise them
            text = " ".join(str(error).split())
            if is_lost(error):
                raise UserError(
                    f"{self.folder}: a checkpoint was not written, because another process of the run is lost "
                    f"({text[:200]}); start the same command on all hosts again"
                ) from error
            disk = next((reason for reason in map(os.strerror, DISK) if reason in text), "")
            remedy = "make room, or make the folder writable, and start" if disk else "start"
            raise Unwritable(
                f"{self.folder}: a checkpoint could not be written ({disk or text[:200]}); the earlier ones are whole: "
                f"{remedy} the same command again"
            ) from error

    def latest(self) -> int | None:
        """The newest step; None if there is none."""
        return self._manager.latest_step()

    def metrics(self, step: int) -> dict[str, float] | None:
        """The metrics of `step`; None if its evaluation never ended."""
        return self._metrics.get(step)

    def best(self) -> int | None:
        """The step with the best metric, the latest of equals; None if no checkpoint has metrics."""
        return self._best_of(self.steps())

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Those of the ascending `steps` that stay: the newest and the best."""
        best = self._best_of(steps)
        return {*steps[-self._keep :], *(() if best is None else (best,))}

    def _best_of(self, steps: Sequence[int]) -> int | None:
        scores = {step: found[self._best] for step in steps if (found := self._metrics.get(step)) and self._best}
        return max(scores, key=lambda step: (self._sign * scores[step], step), default=None)

    def steps(self) -> list[int]:
        """The steps of all checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def restore(self, step: int, like: State, mesh: Mesh) -> State:
        """The state of `step`, in the structure of `like` (arrays or their shapes), laid out on `mesh`.

        It may have been saved on any number of devices, laid out in any way.

        Raises UserError if it is broken, or of another architecture, optimiser or number of classes.
        """
        check_whole(self.folder / str(step))
        saved = self._manager.item_metadata(step)
        target = laid_out(like, mesh)
        check_same(shapes(saved), shapes(target), self.folder / str(step))
        return self._manager.restore(step, args=ocp.args.StandardRestore(target))

    def read(self, step: int) -> dict[str, Any]:
        """The state of `step` as nested dicts of NumPy arrays, without a model to compare it with.

        Raises UserError if it is broken.
        """
        check_whole(self.folder / str(step))
        target = jax.tree.map(
            lambda x: ocp.RestoreArgs(restore_type=np.ndarray), self._manager.item_metadata(step).tree
        )
        with ocp.PyTreeCheckpointer() as reader:
            return reader.restore(self.folder / str(step) / "default", restore_args=target)


@dataclass(frozen=True)
class _Preserved(checkpoint_managers.PreservationPolicy):
    """Tells Orbax which checkpoints to keep; it removes the others once the new one is complete."""

    checkpoints: Checkpoints

    def should_preserve(self, found: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [each.step for each in found]
        return [step in self.checkpoints.kept(steps) for step in steps]


def best_by(config: ConfigDict) -> dict[str, Any]:
    """The arguments `best` and `lowest` of Checkpoints for the metric config.best."""
    return {"best": config.best, "lowest": bool(config.best) and lower_is_better(tasks.of(config), config.best)}


def choose(checkpoints: Checkpoints, which: str) -> int:
    """The step that "best", "latest" or a number names. "best" is the latest if none was evaluated."""
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
    """The variables for evaluation from a training state's fields: the moving averages, if they are kept."""
    return ema or {"params": params, "batch_stats": batch_stats}


def read_trained(workdir: AnyPath, config: ConfigDict, which: str) -> tuple[int, dict[str, Any]]:
    """The step that `which` names, "best" by config.best, and its variables for evaluation, NumPy arrays.

    Raises UserError if there is no such checkpoint, or if it is broken.
    """
    with Checkpoints(workdir, **best_by(config)) as checkpoints:
        step = choose(checkpoints, which)
        state = checkpoints.read(step)
    return step, eval_variables(state["params"], state["batch_stats"], state["ema"])


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path joined with dots -> shape."""
    return {path: tuple(leaf.shape) for path, leaf in by_path(getattr(tree, "tree", tree)).items()}


def check_same(saved: dict[str, tuple], model: dict[str, tuple], where: AnyPath) -> None:
    """Raises UserError naming the first array whose shape differs between the checkpoint at `where` and the model."""
    for path in sorted(saved.keys() | model.keys()):
        if saved.get(path) != model.get(path):
            raise UserError(
                f"{where}: {path} is {saved.get(path, 'absent')} there and {model.get(path, 'absent')} in this model; "
                "it is a checkpoint of another configuration"
            )
