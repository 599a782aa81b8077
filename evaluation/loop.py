"""The evaluation loop, the same for every task."""

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data.oddities import Oddities
from data.pipeline import eval_batches, eval_note
from data.sources import Source
from training.mesh import to_devices

Predictions = dict[str, np.ndarray]


def predict(
    eval_step: Callable, variables: dict[str, Any], source: Source, config: ConfigDict, mesh: Mesh, odd: Oddities
) -> Iterator[Predictions]:
    """The task's predictions for `source`, a batch at a time and in order, without the rows that fill up the last.

    The same on every process, whatever the number of devices. Each batch is fetched while the device computes the next,
    so that neither waits for the other. A batch is config.eval_batch_size, rounded up to the devices. `odd` tells of
    the odd pictures among them, and where canvases change what is found.
    """
    odd.note(eval_note(source, config))
    size = config.eval_batch_size or config.batch_size
    batches = eval_batches(
        source,
        config,
        batch_size=-(-size // mesh.size) * mesh.size,
        process_index=jax.process_index(),
        processes=jax.process_count(),
    )
    previous = None
    for _, batch in to_devices(odd.watch(batches), mesh):
        current = eval_step(variables, batch)
        if previous is not None:
            yield _valid(previous)
        previous = current
    yield _valid(previous)


def gather(task: ModuleType, source: Source, batches: Iterable[Predictions]) -> Any:
    """What the task's metrics are made of, from the batches that `predict` yields."""
    metrics = task.init_metrics(source)
    for predictions in batches:
        metrics = task.update_metrics(metrics, predictions)
    return metrics


def evaluate(task: ModuleType, source: Source, batches: Iterable[Predictions]) -> dict[str, Any]:
    """The task's metrics over the batches that `predict` yields."""
    return task.summarise(gather(task, source, batches))


def _valid(predictions: dict[str, jax.Array]) -> Predictions:
    host = jax.device_get(predictions)
    valid = host.pop("valid")
    return {name: value[valid] for name, value in host.items()}
