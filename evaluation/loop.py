"""The evaluation loop, the same for every task."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism.data.canvases import eval_note
from morphism.data.oddities import Oddities
from morphism.data.pipeline import eval_batches
from morphism.data.records import Source
from morphism.errors import NonFinite
from morphism.evaluation.step import NONE
from morphism.runtime.mesh import all_rows, own_rows, to_devices
from morphism.runtime.processes import exchanged
from morphism.tasks import Task
from morphism.tasks.task import ADDED, Metrics, Predictions


class BatchCache:
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
    *,
    own: bool = False,
    cache: BatchCache | None = None,
) -> Iterator[Predictions]:
    """Yields the task's predictions batch by batch, in the order of `source`, without the padding of the last batch.

    They are the same on every process, for any number of devices; or with `own` each process has only the rows that
    its devices predict, perhaps none, and nothing travels between processes. A batch is on its way to the host while
    the next is computed.

    Args:
      eval_step: what make_eval_step returns.
      variables: the model's, on the devices.
      source: the records to predict.
      config: the resolved configuration.
      mesh: the devices.
      odd: reports odd images, and canvases that change predictions.
      skip_broken: leaves out records that cannot be read.
      cache: keeps the batches on the devices, for the next call with it.

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
    for batch in load() if cache is None else cache(load):
        current = eval_step(variables, batch)
        jax.tree.map(lambda x: x.copy_to_host_async(), current)
        if previous is not None:
            yield _valid(previous, source, own)
        previous = current
    yield _valid(previous, source, own)


def gather(
    task: Task,
    source: Source,
    batches: Iterable[Predictions],
    each: Callable[[Metrics, Predictions], None] = lambda metrics, predictions: None,
) -> Metrics:
    """The task's metrics, gathered over the batches that `predict` yields; `each` is called after each of them."""
    metrics = task.init_metrics(source)
    for predictions in batches:
        if len(predictions["id"]):
            metrics = task.update_metrics(metrics, predictions)
            each(metrics, predictions)
    return metrics


def of_all_processes(metrics: Metrics) -> Metrics:
    """The metrics over the examples of all processes, of which each gathered its `own`.

    Where metrics hold a list, its order is by process.
    """
    return _added(metrics, exchanged(_counted(metrics)))


def _counted(metrics: Any) -> Any:
    """What differs between processes: numbers, arrays and lists, also in dictionaries."""
    if isinstance(metrics, dict):
        return {name: _counted(value) for name, value in metrics.items() if isinstance(value, ADDED)}
    return metrics


def _added(metrics: Any, counted: Sequence[Any]) -> Any:
    """`metrics` with the sums and joined lists of what the processes `counted`."""
    if isinstance(metrics, dict):
        return {
            name: _added(value, [each[name] for each in counted]) if isinstance(value, ADDED) else value
            for name, value in metrics.items()
        }
    return sum(counted, start=[] if isinstance(metrics, list) else 0)


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


def _valid(predictions: dict[str, jax.Array], source: Source, own: bool) -> Predictions:
    """The valid rows, on the host. Raises NonFinite, on all processes, naming a record with outputs that are not."""
    broken = int(predictions["broken"])
    if broken != NONE:
        record = source[broken]["name"]
        raise NonFinite(f"{record}: the network's outputs are not finite, so that they predict nothing")
    rows = {name: value for name, value in predictions.items() if name != "broken"}
    host = own_rows(rows) if own else all_rows(rows)
    valid = host.pop("valid")
    return {name: value[valid] for name, value in host.items()}
