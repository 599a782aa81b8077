"""The evaluation loop, the same for every task."""

import math
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data.oddities import Oddities
from data.pipeline import empty_eval_batches, eval_batches, eval_note
from data.sources import Source
from errors import NonFinite, UserError
from training.mesh import HOST_ONLY, to_devices

Predictions = dict[str, np.ndarray]


def predict(
    eval_step: Callable, variables: dict[str, Any], source: Source, config: ConfigDict, mesh: Mesh, odd: Oddities
) -> Iterator[Predictions]:
    """The task's predictions for `source`, a batch at a time and in order, without the rows that fill up the last.

    The same on every process, whatever the number of devices. Each batch is fetched while the device computes the next,
    so that neither waits for the other. `odd` tells of the odd images among them, and where canvases change what is
    found. Raises NonFinite naming a record for which the network's outputs are not finite.
    """
    odd.note(eval_note(source, config))
    batches = eval_batches(
        source,
        config,
        batch_size=_batch_size(config, mesh),
        process_index=jax.process_index(),
        processes=jax.process_count(),
    )
    previous = None
    for _, batch in to_devices(odd.watch(batches), mesh):
        current = eval_step(variables, batch)
        if previous is not None:
            yield _valid(previous, source)
        previous = current
    yield _valid(previous, source)


def gather(task: ModuleType, source: Source, batches: Iterable[Predictions]) -> Any:
    """What the task's metrics are made of, from the batches that `predict` yields."""
    metrics = task.init_metrics(source)
    for predictions in batches:
        metrics = task.update_metrics(metrics, predictions)
    return metrics


def summarise(task: ModuleType, metrics: Any) -> dict[str, Any]:
    """The task's summary of what was gathered. Raises NonFinite naming a number of its headline that is not finite."""
    summary = task.summarise(metrics)
    for name in task.HEADLINE:
        if not math.isfinite(summary[name]):
            raise NonFinite(f"the evaluation's {name} is {summary[name]}")
    return summary


def evaluate(task: ModuleType, source: Source, batches: Iterable[Predictions]) -> dict[str, Any]:
    """The task's metrics over the batches that `predict` yields. Raises NonFinite as `summarise` does."""
    return summarise(task, gather(task, source, batches))


def check_sizes(eval_step: Callable, variables: Any, source: Source, config: ConfigDict, mesh: Mesh) -> None:
    """Traces the evaluation of the smallest batches; `variables` may be their shapes.

    Raises UserError where the network cannot take images of their size.
    """
    data = config.data
    for batch in empty_eval_batches(source, config, _batch_size(config, mesh)):
        height, width = batch["image"].shape[1:3]
        sent = {key: value for key, value in batch.items() if key not in HOST_ONLY}
        try:
            jax.eval_shape(eval_step, variables, sent)
        except (UserError, ValueError, TypeError, ZeroDivisionError) as error:  # whatever a network says of its sizes
            field = "eval_size" if data.get("eval_size") else "canvases" if data.get("canvases") else "image_size"
            reason = str(error).partition("; ")[0].splitlines()[0]
            raise UserError(
                f"config.data.{field}: the network cannot evaluate images of {height}x{width} ({reason}); enlarge it"
            ) from error


def _batch_size(config: ConfigDict, mesh: Mesh) -> int:
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
