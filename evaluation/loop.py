"""The evaluation loop, the same for every task."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism.data.canvases import eval_note
from morphism.data.oddities import Oddities
from morphism.data.pipeline import eval_batches
from morphism.data.records import Source
from morphism.errors import NonFinite
from morphism.runtime.mesh import to_devices
from morphism.tasks import Task
from morphism.tasks.task import Metrics, Predictions


class Kept:
    """The batches of one evaluation, which stay on the devices and are the same each time."""

    def __init__(self) -> None:
        self._batches: list[dict[str, jax.Array]] | None = None

    def __call__(self, load: Callable[[], Iterator[dict[str, jax.Array]]]) -> Iterator[dict[str, jax.Array]]:
        """All batches: those of `load` until it has once been read to its end."""
        if self._batches is not None:
            yield from self._batches
            return
        batches = []
        for batch in load():
            batches.append(batch)
            yield batch
        self._batches = batches


def predict(
    eval_step: Callable,
    variables: dict[str, Any],
    source: Source,
    config: ConfigDict,
    mesh: Mesh,
    odd: Oddities,
    skip_broken: bool = False,
    kept: Kept | None = None,
) -> Iterator[Predictions]:
    """Yields the task's predictions batch by batch, in the order of `source`, without the padding of the last batch.

    They are the same on every process, for any number of devices. A batch is fetched while the next is computed.

    Args:
      eval_step: what make_eval_step returns.
      variables: the model's, on the devices.
      source: the records to predict.
      config: the resolved configuration.
      mesh: the devices.
      odd: reports odd images, and canvases that change predictions.
      skip_broken: leaves out records that cannot be read.
      kept: keeps the batches on the devices, for the next call with it.

    Raises: NonFinite naming a record for which the network's outputs are not finite.
    """
    odd.note(eval_note(source, config.data))

    def load() -> Iterator[dict[str, jax.Array]]:
        batches = eval_batches(
            source,
            config,
            batch_size=eval_batch_size(config, mesh),
            process_index=jax.process_index(),
            processes=jax.process_count(),
            skip_broken=skip_broken,
            least=mesh.size if getattr(source, "apart", False) else 0,
        )
        return (batch for _, batch in to_devices(odd.watch(batches), mesh))

    previous = None
    for batch in load() if kept is None else kept(load):
        current = eval_step(variables, batch)
        if previous is not None:
            yield _valid(previous, source)
        previous = current
    yield _valid(previous, source)


def gather(
    task: Task,
    source: Source,
    batches: Iterable[Predictions],
    each: Callable[[Metrics, Predictions], None] = lambda metrics, predictions: None,
) -> Metrics:
    """The task's metrics, gathered over the batches that `predict` yields; `each` is called after each of them."""
    metrics = task.init_metrics(source)
    for predictions in batches:
        metrics = task.update_metrics(metrics, predictions)
        each(metrics, predictions)
    return metrics


def summarise(task: Task, metrics: Metrics) -> dict[str, Any]:
    """The task's summary of its metrics. Raises NonFinite naming a number of the headline that is not finite."""
    summary = task.summarise(metrics)
    for name in task.headline:
        if not math.isfinite(summary[name]):
            raise NonFinite(f"the evaluation's {name} is {summary[name]}")
    return summary


def evaluate(task: Task, source: Source, batches: Iterable[Predictions]) -> dict[str, Any]:
    """The task's summary over the batches that `predict` yields. Raises NonFinite as `summarise` does."""
    return summarise(task, gather(task, source, batches))


def eval_batch_size(config: ConfigDict, mesh: Mesh) -> int:
    """config.eval_batch_size, or config.batch_size if that is 0, rounded up to a multiple of the devices."""
    return -(-(config.eval_batch_size or config.batch_size) // mesh.size) * mesh.size


def _valid(predictions: dict[str, jax.Array], source: Source) -> Predictions:
    """The valid rows, on the host. Raises NonFinite naming the first record with outputs that are not finite."""
    host = jax.device_get(predictions)
    valid, finite = host.pop("valid"), host.pop("finite")
    for value in host.values():
        if np.issubdtype(value.dtype, np.floating):
            finite = finite & np.isfinite(value).reshape(len(value), -1).all(axis=1)
    if not finite[valid].all():
        record = source[int(host["id"][valid & ~finite][0])]["name"]
        raise NonFinite(f"{record}: the network's outputs are not finite, so that they predict nothing")
    return {name: value[valid] for name, value in host.items()}
