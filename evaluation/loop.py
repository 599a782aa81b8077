"""The evaluation loop, the same for every task."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism.data.canvases import eval_note
from morphism.data.oddities import Oddities
from morphism.data.pipeline import eval_batches
from morphism.data.records import Source
from morphism.errors import NonFinite
from morphism.evaluation.step import NONE
from morphism.runtime.mesh import own_rows, share_of, to_devices
from morphism.runtime.processes import exchanged
from morphism.tasks import Task
from morphism.tasks.task import ADDED, Metrics, Predictions, Totals


class Predicted(NamedTuple):
    """What is predicted for a batch.

    rows: the task's predictions for the examples on this process's devices, without padding; perhaps none.
    totals: the task's totals over the examples of all processes, on the first of them; {} on the others.
    """

    rows: Predictions
    totals: Totals


class Drawn(NamedTuple):
    """Predictions of which only those for some records are needed: `names`, and those `records`."""

    names: Collection[str] = ()
    records: Collection[int] = ()


ALL = Drawn()  # all predictions leave the devices


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
    cache: BatchCache | None = None,
    drawn: Drawn = ALL,
) -> Iterator[Predicted]:
    """Yields the task's predictions batch by batch, in the order of `source`, without the padding of the last batch.

    Each process has the rows that its own devices predict; nothing but totals travels between processes. A batch is on
    its way to the host while the next is computed.

    Args:
      eval_step: what make_eval_step returns.
      variables: the model's, on the devices.
      source: the records to predict.
      config: the resolved configuration.
      mesh: the devices.
      odd: reports odd images, and canvases that change predictions.
      skip_broken: leaves out records that cannot be read.
      cache: keeps the batches on the devices, for the next call with it.
      drawn: predictions that stay on the devices, except for those of batches with one of its records.

    Raises: NonFinite naming a record for which the network's outputs are not finite.
    """
    odd.note(eval_note(source, config.data))
    index, processes = share_of(mesh)

    def load() -> Iterator[dict[str, jax.Array]]:
        batches = eval_batches(
            source,
            config,
            batch_size=eval_batch_size(config, mesh),
            process_index=index,
            processes=processes,
            skip_broken=skip_broken,
            least=mesh.size if getattr(source, "apart", False) else 0,
        )
        return (batch for _, batch in to_devices(odd.watch(batches), mesh))

    previous = None
    for batch in load() if cache is None else cache(load):
        current = eval_step(variables, batch)
        jax.tree.map(lambda x: x.copy_to_host_async(), _without(current, drawn.names))
        if previous is not None:
            yield _on_host(previous, source, drawn, first=index == 0)
        previous = current
    yield _on_host(previous, source, drawn, first=index == 0)


def gather(
    task: Task,
    source: Source,
    batches: Iterable[Predicted],
    each: Callable[[Metrics, Predictions], None] = lambda metrics, predictions: None,
) -> Metrics:
    """The task's metrics, gathered over the batches that `predict` yields; `each` is called after each of them."""
    metrics = task.init_metrics(source)
    for rows, totals in batches:
        if totals:
            metrics = task.add_totals(metrics, totals)
        if len(rows["id"]):
            metrics = task.update_metrics(metrics, rows)
            each(metrics, rows)
    return metrics


def of_all_processes(metrics: Metrics) -> Metrics:
    """The metrics over the examples of all processes, of which each gathered its own.

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


def evaluate(task: Task, source: Source, batches: Iterable[Predicted]) -> dict[str, Any]:
    """The task's summary over the batches that `predict` yields. Raises NonFinite as `summarise` does."""
    return summarise(task, gather(task, source, batches))


def eval_batch_size(config: ConfigDict, mesh: Mesh) -> int:
    """config.eval_batch_size, or config.batch_size if that is 0, rounded up to a multiple of the devices."""
    return -(-(config.eval_batch_size or config.batch_size) // mesh.size) * mesh.size


def _on_host(predictions: dict[str, Any], source: Source, drawn: Drawn, first: bool) -> Predicted:
    """What reaches the host; `first`: with the totals.

    Raises NonFinite, on all processes, naming a record with outputs that are not finite.
    """
    broken, totals = int(predictions["broken"]), predictions["totals"]
    if broken != NONE:
        record = source[broken]["name"]
        raise NonFinite(f"{record}: the network's outputs are not finite, so that they predict nothing")
    rows = _without(predictions, ("broken", "totals"))
    ids = own_rows({"id": rows["id"]})["id"]
    if drawn.names and not set(drawn.records).intersection(ids.tolist()):
        rows = _without(rows, drawn.names)
    host = own_rows(rows)
    valid = host.pop("valid")
    return Predicted({name: value[valid] for name, value in host.items()}, jax.device_get(totals) if first else {})


def _without(values: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
