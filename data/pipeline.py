"""From a source to batches: NumPy dicts with a leading batch axis, decoded in Grain's threads or worker processes.

The batch of step k is a pure function of (source, config, seed, k). So nothing about the input needs saving but the
step: a run resumes at `start_step`, on any number of processes and workers, with exactly the batches that it would have
seen. Each process loads its own contiguous rows of every global batch.
"""

import contextlib
import multiprocessing
import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from data import image
from data.sampling import Sampler, make_sampler, spread
from data.sources import Record, Source
from errors import UserError

Batch = dict[str, np.ndarray]


def train_batches(
    source: Source, config: ConfigDict, *, start_step: int, stop_step: int, process_index: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """The rows of this process of the training batches of steps start_step .. stop_step - 1.

    Epochs follow one another without a gap, each as data/sampling.py draws it; a batch may span two.
    image uint8 [b,S,S,3], label int32 [b], id int32 [b] (the record), draw int32 [b] (how many times it was drawn
    before; with id, the source of an example's randomness), valid bool [b] (all True), and odd int32 [b] (image.Odd),
    which stays on the host.
    """
    shard = _Shard(config.batch_size, process_index, processes)
    sampler = make_sampler(source, config.data, config.seed)
    return _iterate(TrainBatch(source, config.data, config.seed, shard, sampler), start_step, stop_step, config.data)


def eval_batches(
    source: Source, data: ConfigDict, *, batch_size: int, process_index: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """The rows of this process of batches that hold each record exactly once, in order.

    The last batch is filled up with rows that have `valid` False. Keys are those of training.
    """
    shard = _Shard(batch_size, process_index, processes)
    return _iterate(EvalBatch(source, data, shard), 0, -(-len(source) // batch_size), data)


@dataclass(frozen=True)
class _Shard:
    batch_size: int
    index: int
    count: int

    @property
    def rows(self) -> slice:
        """This process's rows of every global batch."""
        rows = self.batch_size // self.count
        return slice(self.index * rows, (self.index + 1) * rows)

    def positions(self, step: int, repeats: int = 1) -> list[int]:
        """Where this process's rows of batch `step` stand in the endless sequence of examples."""
        return (step * self.batch_size + spread(self.batch_size, repeats)[self.rows]).tolist()


@dataclass(frozen=True)
class TrainBatch:
    """step -> batch, cropped at random; randomness comes from (seed, draw, id) alone."""

    source: Source
    data: ConfigDict
    seed: int
    shard: _Shard
    sampler: Sampler

    def __call__(self, step: int) -> Batch:
        data = self.data
        positions = self.shard.positions(step, data.repeats)
        batch = _empty_batch(len(positions), data.image_size)
        for row, position in enumerate(positions):
            index, draw = self.sampler(position)
            record = self.source[index]
            if data.train_crop == "random_resized":
                rng = np.random.default_rng((self.seed, draw, index))
                pixels, odd = image.random_resized_crop(
                    record["image"], record["name"], data.image_size, data.crop_scale, data.crop_ratio, rng
                )
            else:
                pixels, odd = _center(record, data.resize_size, data.image_size)
            label, odd = _checked_label(record, self.source), _checked_odd(odd, record, data)
            _fill(batch, row, image=pixels, label=label, id=index, draw=draw, odd=odd)
        return batch


@dataclass(frozen=True)
class EvalBatch:
    """step -> batch of records in order; rows beyond the last record stay empty."""

    source: Source
    data: ConfigDict
    shard: _Shard

    def __call__(self, step: int) -> Batch:
        positions = self.shard.positions(step)
        batch = _empty_batch(len(positions), self.data.eval_size or self.data.image_size)
        for row, index in enumerate(positions):
            if index < len(self.source):
                record = self.source[index]
                pixels, odd = evaluated(record, self.data)
                label, odd = _checked_label(record, self.source), _checked_odd(odd, record, self.data)
                _fill(batch, row, image=pixels, label=label, id=index, draw=0, odd=odd)
        return batch


def _empty_batch(rows: int, size: int) -> Batch:
    return {
        "image": np.zeros((rows, size, size, 3), np.uint8),
        "label": np.zeros(rows, np.int32),
        "id": np.full(rows, -1, np.int32),
        "draw": np.zeros(rows, np.int32),
        "odd": np.zeros(rows, np.int32),
        "valid": np.zeros(rows, bool),
    }


def _fill(batch: Batch, row: int, **values: Any) -> None:
    for key, value in values.items():
        batch[key][row] = value
    batch["valid"][row] = True


def evaluated(record: Record, data: ConfigDict) -> tuple[image.Pixels, image.Odd]:
    """The picture as evaluation sees it: the shorter side resized, the centre cut out; and what was odd about it."""
    return _center(record, data.resize_size, data.eval_size or data.image_size)


def _center(record: Record, resize_size: int, size: int) -> tuple[image.Pixels, image.Odd]:
    pixels, odd = image.decode(record["image"], record["name"])
    return image.resize_and_center_crop(pixels, resize_size, size), odd


def _checked_odd(odd: image.Odd, record: Record, data: ConfigDict) -> int:
    if odd and data.strict:
        rules = ", ".join(image.RULES[each] for each in odd)
        raise UserError(f"{record['name']}: {rules}; mend or remove it, or set config.data.strict=False")
    return int(odd)


def _checked_label(record: Record, source: Source) -> int:
    if not 0 <= record["label"] < len(source.classes):
        raise UserError(
            f"{record['name']}: label {record['label']} is outside the {len(source.classes)} classes, "
            f"0 to {len(source.classes) - 1}; mend or remove it, or choose another split"
        )
    return record["label"]


def _iterate(load: TrainBatch | EvalBatch, start: int, stop: int, data: ConfigDict) -> Iterator[Batch]:
    """Loads batches ahead of the consumer and in order: in threads of this process, or in `workers` processes."""
    if start >= stop:
        return iter(())
    batches = grain.MapDataset.range(start, stop).map(load)
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch))
    if data.workers > 0:
        # At exit the resource tracker frees the batches still under way, which is its work, and warns, which is noise.
        sys.warnoptions.append("ignore:resource_tracker:UserWarning")
        options = grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=_start_worker)
    return _watched(batches, data.timeout)


def _start_worker(index: int, count: int) -> None:
    """Ends with the main process, however that ends, and leaves signals to it: Ctrl-C reaches every process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _watched(batches: Iterable[Batch], timeout: float) -> Iterator[Batch]:
    """`batches`, fetched by a thread, so that a worker process that hangs is an error instead of an endless wait.

    Raises UserError for a worker that died, and where `timeout` seconds bring no batch.
    """
    fetched: queue.Queue = queue.Queue(maxsize=1)
    abandoned = threading.Event()

    def put(item: tuple[Batch | None, BaseException | None]) -> None:
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

    threading.Thread(target=fetch, daemon=True, name="input").start()
    try:
        while True:
            try:
                batch, error = fetched.get(timeout=timeout)
            except queue.Empty:
                hung = multiprocessing.active_children()
                for process in hung:
                    process.kill()
                culprit = f"worker processes {', '.join(str(p.pid) for p in hung)} hang" if hung else "reading hangs"
                raise UserError(
                    f"data: no batch for {timeout:g} s; {culprit}. Look at the disk, or raise config.data.timeout; "
                    "the same command goes on from the last checkpoint"
                ) from None
            if isinstance(error, StopIteration):
                return
            if isinstance(error, RuntimeError) and "Worker process was terminated" in str(error):
                raise UserError(
                    f"data: a worker process died ({_exit(str(error))}), perhaps for want of memory: lower "
                    "config.data.workers or config.data.prefetch; the same command goes on from the last checkpoint"
                ) from error
            if error is not None:
                raise error
            yield batch
    finally:
        abandoned.set()


def _exit(message: str) -> str:
    """ "exit code -9" -> "SIGKILL", out of Grain's message."""
    code = int(re.search(r"exit code (-?\d+)", message)[1])
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
