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


def predict(
    eval_step: Callable,
    variables: dict[str, Any],
    source: Source,
    config: ConfigDict,
    mesh: Mesh,
    odd: Oddities,
    skip_broken: bool = False,
) -> Iterator[Predictions]:
    """The task's predictions for `source`, a batch at a time and in order, without the rows that fill up the last.

    The same on every process, whatever the number of devices. Each batch is fetched while the device computes the next,
    so that neither waits for the other. `odd` tells of the odd images among them, and where canvases change what is
    found. With `skip_broken` records that cannot be read are left out. Raises NonFinite naming a record for which the
    network's outputs are not finite.
    """
    odd.note(eval_note(source, config.data))
    batches = eval_batches(
        source,
        config,
        batch_size=eval_batch_size(config, mesh),
        process_index=jax.process_index(),
        processes=jax.process_count(),
        skip_broken=skip_broken,
    )
    previous = None
    for _, batch in to_devices(odd.watch(batches), mesh):
        current = eval_step(variables, batch)
        if previous is not None:
            yield _valid(previous, source)
        previous = current
    yield _valid(previous, source)


def gather(task: Task, source: Source, batches: Iterable[Predictions]) -> Metrics:
    """What the task's metrics are made of, from the batches that `predict` yields."""
    metrics = task.init_metrics(source)
    for predictions in batches:
        metrics = task.update_metrics(metrics, predictions)
    return metrics


def summarise(task: Task, metrics: Metrics) -> dict[str, Any]:
    """The task's summary of what was gathered. Raises NonFinite naming a number of its headline that is not finite."""
    summary = task.summarise(metrics)
    for name in task.headline:
        if not math.isfinite(summary[name]):
            raise NonFinite(f"the evaluation's {name} is {summary[name]}")
    return summary


def evaluate(task: Task, source: Source, batches: Iterable[Predictions]) -> dict[str, Any]:
    """The task's metrics over the batches that `predict` yields. Raises NonFinite as `summarise` does."""
    return summarise(task, gather(task, source, batches))


def eval_batch_size(config: ConfigDict, mesh: Mesh) -> int:
    """config.eval_batch_size, or where that is 0 the training batch, rounded up to the devices."""
    return -(-(config.eval_batch_size or config.batch_size) // mesh.size) * mesh.size


def _valid(predictions: dict[str, jax.Array], source: Source) -> Predictions:
    """Raises NonFinite naming the first record for which the network's outputs, or a prediction, are not finite."""
    host = jax.device_get(predictions)
    valid, finite = host.pop("valid"), host.pop("finite")
    for value in host.values():
        if np.issubdtype(value.dtype, np.floating):
            finite = finite & np.isfinite(value).reshape(len(value), -1).all(axis=1)
    if not finite[valid].all():
        record = source[int(host["id"][valid & ~finite][0])]["name"]
        raise NonFinite(f"{record}: the network's outputs are not finite, so that they predict nothing")
    return {name: value[valid] for name, value in host.items()}
