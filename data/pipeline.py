"""From source to batches: dicts of NumPy arrays with a leading batch axis, loaded in threads or worker processes.

The batch of step k is a pure function of (source, config, seed, k). So the step is all that a run must save about its
input: it resumes at `start_step`, on any number of processes and workers, with exactly the batches that it would have
seen. Each process loads its own contiguous rows of every global batch.
"""

import contextlib
import math
import multiprocessing
import os
import queue
import re
import shutil
import signal
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from morphism.data import examples
from morphism.data.canvases import Shape, canvas_at, canvases, largest_canvas, smallest_canvas
from morphism.data.intensity import settle, settle_pixels
from morphism.data.records import Source
from morphism.data.sampling import Draw, Members, Plan, members_of
from morphism.data.shipping import shipped
from morphism.errors import UserError

Batch = dict[str, np.ndarray]

SKIPPED = 10  # records in a row that cannot be read, after which reading itself must be at fault
CLOSING = 5  # seconds that workers have to end
SHARED = "/dev/shm"
QUIET = "ignore:resource_tracker:UserWarning"
GRAINS_FLAG = "grain_enable_multiprocess_worker_profiling"  # Grain reads it; absl raises unless it counts as parsed


def train_batches(
    source: Source, config: ConfigDict, *, start_step: int, stop_step: int, process_index: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """This process's rows of the training batches of steps start_step .. stop_step - 1.

    Epochs follow one another without a gap, each as data/sampling.py draws it; a batch may span two.

    Returns:
      Batches of b rows on a canvas of H x W pixels (data/canvases.py), with the keys

      image [b,H,W,3]: 0..255, uint8 or float32, by config.data.pixels.
      id int32 [b]: the record. draw int32 [b]: how many times it was drawn before. With the seed, the two are the
        source of all randomness of an example.
      valid bool [b]: True. odd int32 [b]: odd.Odd, for the host alone.
      unread int32 [b]: only with config.data.broken=skip, for the host alone: the record in whose place this one is,
        because it cannot be read; -1 for all others.

      and those of `examples.empty`: sizes, and the targets of config.data.targets.

    A record that cannot be read is an error, or with config.data.broken=skip replaced by the next one of its canvas
    that can be, drawn as often: as long as the same records are broken, batches are the same whenever they are loaded.
    """
    shard = Shard(config.batch_size, process_index, processes)
    config = settle(config, source) if config.data.pixels == "auto" else config
    return iterate(TrainBatch.of(source, config, shard), start_step, stop_step, config.data)


def eval_batches(
    source: Source,
    config: ConfigDict,
    *,
    batch_size: int,
    process_index: int = 0,
    processes: int = 1,
    skip_broken: bool = False,
    least: int = 0,
) -> Iterator[Batch]:
    """This process's rows of batches that hold each record exactly once, canvas by canvas, in order.

    Keys are those of training. The last batch of a canvas is padded with rows whose `valid` is False.

    skip_broken: whether records that cannot be read become such rows too, instead of an error; config.data.broken=skip
      says so too, and `unread` then names them.
    least: the rows of the smallest batch, of which the others have 2, 4, 8, ... times as many, up to batch_size; 0: all
      batches have batch_size rows.
    """
    shard = Shard(batch_size, process_index, processes)
    load = EvalBatch(source, settle_pixels(config, source), shard, skip_broken, least)
    return iterate(load, 0, len(load.plan), config.data)


def problem(source: Source, config: ConfigDict, index: int) -> str:
    """The error that keeps evaluation from reading a record; "" if it can be read."""
    load = EvalBatch(source, settle_pixels(config, source), Shard(1, 0, 1))
    shapes, groups = canvases(source, load.config.data, training=False)
    shape = shapes[groups[index]]
    try:
        examples.eval_example(source, index, load.config, shape)
    except UserError as error:
        return str(error)
    return ""


def smallest_batch(source: Source, config: ConfigDict) -> Batch:
    """An empty training batch on the smallest canvas, for whatever depends on shapes alone."""
    return _empty_train_batch(source, config, smallest_canvas(source, config.data))


def largest_batch(source: Source, config: ConfigDict) -> Batch:
    """The same on the largest canvas."""
    return _empty_train_batch(source, config, largest_canvas(source, config.data))


def _empty_train_batch(source: Source, config: ConfigDict, canvas: Shape) -> Batch:
    return blank_batch(config.batch_size, canvas, settle_pixels(config, source), training=True)


def empty_eval_batches(source: Source, config: ConfigDict, batch_size: int) -> list[Batch]:
    """Batches as from eval_batches, but without records: one of the least height, and one of the least width.

    Raises UserError where a record fits no canvas.
    """
    config = settle_pixels(config, source)
    plan = EvalBatch(source, config, Shard(batch_size, 0, 1)).plan
    shapes = [shape for shape, members in zip(plan.shapes, plan.members, strict=True) if len(members)]
    smallest = {min(shapes, key=lambda shape: shape[side]) for side in (0, 1)}
    return [blank_batch(batch_size, shape, config, training=False) for shape in sorted(smallest)]


def eval_bytes(source: Source, config: ConfigDict) -> int:
    """Bytes of all batches of an evaluation, without their padding. config.data.pixels must be settled."""
    plan = EvalBatch(source, config, Shard(1, 0, 1)).plan
    rows = (
        (blank_batch(1, shape, config, False), len(own)) for shape, own in zip(plan.shapes, plan.members, strict=True)
    )
    return sum(count * sum(value.nbytes for value in one.values()) for one, count in rows)


def blank_batch(rows: int, shape: Shape, config: ConfigDict, training: bool) -> Batch:
    """A batch of `rows` without any record, on a canvas of `shape`, with the keys of train_batches or eval_batches.

    config.data.pixels must be settled.
    """
    return {
        "image": np.zeros((rows, *shape[:2], 3), np.float32 if config.data.pixels == "float32" else np.uint8),
        "id": np.full(rows, -1, np.int32),
        "draw": np.zeros(rows, np.int32),
        "odd": np.zeros(rows, np.int32),
        "valid": np.zeros(rows, bool),
        **({"unread": np.full(rows, -1, np.int32)} if config.data.broken == "skip" else {}),
        **examples.empty(rows, shape, config, training),
    }


@dataclass(frozen=True)
class Shard:
    """Which rows of every global batch belong to a process."""

    batch_size: int
    index: int
    count: int

    @property
    def rows(self) -> slice:
        """This process's rows of every global batch."""
        rows = self.batch_size // self.count
        return slice(self.index * rows, (self.index + 1) * rows)


@dataclass(frozen=True)
class TrainBatch:
    """step -> batch; all randomness comes from (seed, draw, id)."""

    source: Source
    config: ConfigDict
    shard: Shard
    shapes: list[Shape]  # of the canvases
    plan: Plan

    @classmethod
    def of(cls, source: Source, config: ConfigDict, shard: Shard) -> "TrainBatch":
        shapes, groups = canvases(source, config.data, training=True)
        plan = Plan(source, config.data, config.seed, shard.batch_size, members_of(groups))
        return cls(source, config, shard, shapes, plan)

    def __call__(self, step: int) -> Batch:
        canvas, draws = self.plan(step, self.shard.rows)
        return self.batch_of(draws, canvas, canvas_at(self.shapes[canvas], step, self.config))

    def batch_of(self, draws: Sequence[Draw], canvas: int, shape: Shape) -> Batch:
        """The examples of `draws`, records of `canvas`, on a canvas of `shape`."""
        config = self.config
        batch = blank_batch(len(draws), shape, config, training=True)
        for row, (index, draw) in enumerate(draws):
            try:
                _fill(batch, row, draw=draw, **self._example(index, draw, shape))
            except UserError as error:
                if config.data.broken != "skip":
                    raise
                _fill(batch, row, draw=draw, unread=index, **self._next(index, draw, canvas, shape, error))
        return batch

    def _example(self, index: int, draw: int, shape: Shape) -> dict[str, Any]:
        rng = np.random.default_rng((self.config.seed, draw, index))
        return {"id": index, **examples.train_example(self.source, index, self.config, shape, rng)}

    def _next(self, index: int, draw: int, canvas: int, shape: Shape, error: UserError) -> dict[str, Any]:
        """The example of the first record after `index` on its canvas that can be read.

        Raises `error`, that of `index`, if none of the next SKIPPED can be: then it is not the record that is broken.
        """
        members = self.plan.members[canvas]
        position = int(np.searchsorted(members, index)) if isinstance(members, np.ndarray) else index
        for further in range(1, min(SKIPPED + 1, len(members))):
            with contextlib.suppress(UserError):
                return self._example(int(members[(position + further) % len(members)]), draw, shape)
        raise error


@dataclass(frozen=True)
class EvalPlan:
    """The batches of an evaluation, canvas by canvas: the shape and the records of each."""

    shapes: Sequence[Shape]
    members: Sequence[Members]
    batch_size: int

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, step: int) -> tuple[Shape, Members]:
        canvas = bisect_right(self._ends, step)
        start = (step - (self._ends[canvas - 1] if canvas else 0)) * self.batch_size
        return self.shapes[canvas], self.members[canvas][start : start + self.batch_size]

    @cached_property
    def _ends(self) -> list[int]:
        """The number of batches up to and with each canvas."""
        return list(accumulate(-(-len(each) // self.batch_size) for each in self.members))


@dataclass(frozen=True)
class EvalBatch:
    """step -> batch of records in order; rows after the last record of a canvas stay empty."""

    source: Source
    config: ConfigDict
    shard: Shard
    skip_broken: bool = False
    least: int = 0

    @cached_property
    def plan(self) -> "EvalPlan":
        shapes, groups = canvases(self.source, self.config.data, training=False)
        members = members_of(groups)
        return EvalPlan(shapes[: len(members)], members, self.shard.batch_size)

    def __call__(self, step: int) -> Batch:
        config, (shape, members) = self.config, self.plan[step]
        rows = replace(self.shard, batch_size=self._rows(len(members))).rows
        batch = blank_batch(rows.stop - rows.start, shape, config, training=False)
        for row, index in enumerate(map(int, members[rows])):
            try:
                example = examples.eval_example(self.source, index, config, shape)
            except UserError:
                if config.data.broken == "skip":
                    batch["unread"][row] = index
                elif not self.skip_broken:
                    raise
                continue
            _fill(batch, row, id=index, **example)
        return batch

    def _rows(self, members: int) -> int:
        """The rows of a batch for this number of records."""
        if not self.least:
            return self.shard.batch_size
        return min(self.shard.batch_size, self.least * 2 ** math.ceil(math.log2(max(1, members / self.least))))


def _fill(batch: Batch, row: int, **values: Any) -> None:
    for key, value in values.items():
        batch[key][row] = value
    batch["valid"][row] = True


def iterate(load: Callable[[int], Batch], start: int, stop: int, data: ConfigDict) -> Iterator[Batch]:
    """Loads batches in order and ahead of the consumer: in threads of this process, or in data.workers processes."""
    if start >= stop:
        return iter(())
    if data.workers > 0:
        return _from_workers(load, start, stop, data)
    return _watched(_loaded(load, start, stop, data), data.timeout)


def _loaded(load: Callable[[int], Batch], start: int, stop: int, data: ConfigDict) -> grain.IterDataset:
    batches = grain.MapDataset.range(start, stop).map(load)
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch))


def _from_workers(load: Callable[[int], Batch], start: int, stop: int, data: ConfigDict) -> Iterator[Batch]:
    _prepare_workers()
    options = grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=2)
    with shipped(load) as (sent, received):
        batches = _loaded(sent, start, stop, data).mp_prefetch(options, worker_init_fn=_start_worker)
        with contextlib.closing(_watched(batches, data.timeout)) as watched:
            for count, batch in enumerate(watched, 1):
                if count == data.workers:  # they take turns, so each has opened what it was sent
                    received()
                yield batch


def _prepare_workers() -> None:
    """Lets Grain start workers from this process, without errors or warnings, even if absl has parsed no flags."""
    flag = flags.FLAGS[GRAINS_FLAG]
    flag.present = max(flag.present, 1)
    # At exit the resource tracker frees the batches in flight, as it should, but also warns, which is noise.
    sys.warnoptions.append(QUIET)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(QUIET)


def _start_worker(index: int, count: int) -> None:
    end_with_parent()


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Processes and threads that are started in this context get no Ctrl-C, not even while they import."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Makes a worker end with the main process, however that ends, and ignore signals: Ctrl-C reaches all processes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _watched(batches: Iterable[Batch], timeout: float) -> Iterator[Batch]:
    """`batches`, fetched by a thread, so that a hanging worker process is an error instead of an endless wait.

    Raises UserError for a worker that died, and if no batch arrives for `timeout` seconds.
    """
    fetched: queue.Queue = queue.Queue(maxsize=1)
    abandoned = threading.Event()

    def put(item: tuple[Batch | None, Exception | None]) -> None:
        while not abandoned.is_set():
            with contextlib.suppress(queue.Full):
                return fetched.put(item, timeout=1)

    def fetch() -> None:
        try:
            with contextlib.closing(iter(batches)) as iterator:  # closing ends Grain's worker processes
                for batch in iterator:
                    put((batch, None))
                    if abandoned.is_set():
                        return
            put((None, StopIteration()))
        except Exception as error:  # handed to the consumer
            put((None, error))

    thread = threading.Thread(target=fetch, daemon=True, name="input")
    with starting_workers():  # which the thread does; signals are for the main thread in any case
        thread.start()
    try:
        while True:
            batch, error = _received(fetched, timeout)
            if isinstance(error, StopIteration):
                return
            if isinstance(error, RuntimeError) and "Worker process was terminated" in str(error):
                raise UserError(_death(_exit(str(error)))) from error
            if error is not None:
                raise error
            yield batch
    finally:
        abandoned.set()
        thread.join(CLOSING)  # Grain's workers end before this process does


def _received(fetched: queue.Queue, timeout: float) -> tuple[Batch | None, Exception | None]:
    """The next batch or error. If there is none for `timeout` seconds, kills the workers and raises UserError."""
    try:
        return fetched.get(timeout=timeout)
    except queue.Empty:
        hung = multiprocessing.active_children()
        for process in hung:
            process.kill()
        culprit = f"worker processes {', '.join(str(p.pid) for p in hung)} hang" if hung else "reading hangs"
        raise UserError(
            f"data: no batch for {timeout:g} s; {culprit}. Look at the disk, or start the same command again "
            f"with --config.data.timeout={2 * timeout:g}"
        ) from None


def _death(how: str) -> str:
    again = "start the same command again with"
    if how == "SIGBUS" and Path(SHARED).exists():
        size = shutil.disk_usage(SHARED).total / 2**20
        return (
            f"data: a worker process died ({how}), for want of shared memory: batches pass through {SHARED}, which "
            f"holds {size:,.0f} MB; enlarge it (docker run --shm-size=8g), or {again} fewer --config.data.workers: 0 "
            "needs none"
        )
    return (
        f"data: a worker process died ({how}), perhaps for want of memory: {again} fewer --config.data.workers or a "
        "smaller --config.data.prefetch"
    )


def _exit(message: str) -> str:
    """How a worker ended, from Grain's message: "exit code -9" becomes "SIGKILL"."""
    code = int(re.search(r"exit code (-?\d+)", message)[1])
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
