"""Processes of this machine."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context

from morphism.data.pipeline import end_with_parent, starting_workers
from morphism.data.preparing.preparation import Work
from morphism.data.preparing.shards import Shard, Writer
from morphism.errors import UserError

_writer: Writer | None = None  # of a worker process


def run(
    work: Work, shards: Sequence[Shard], workers: int, options: Sequence[str], done: Callable[[Shard], None]
) -> None:
    """workers: processes; 0: one per core. Raises UserError for the first record that cannot be read."""
    if options:
        raise UserError(f"--beam_options: {' '.join(options)}: only --engine beam takes options; leave them out")
    workers = min(workers or os.cpu_count() or 1, len(shards))
    if workers <= 1:
        write = work.writer()
        for shard in shards:
            write(shard)
            done(shard)
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start, initargs=(work,))
    try:
        with starting_workers():
            running = {pool.submit(_write, shard): shard for shard in shards}
        for future in as_completed(running):
            future.result()
            done(running[future])
    except BaseException as error:
        for process in set(active_children()) - others:
            process.kill()  # a shard may take a minute; the error is said now
        pool.shutdown(cancel_futures=True)
        pool = running = future = None  # whose semaphores are thereby given back, before the command ends at once
        if not isinstance(error, BrokenProcessPool):
            raise
        raise UserError(
            "a worker process died, perhaps for want of memory: start the same command again with fewer --workers; "
            "what is finished stays"
        ) from error
    pool.shutdown()


def _start(work: Work) -> None:
    global _writer
    end_with_parent()
    _writer = work.writer()


def _write(shard: Shard) -> None:
    _writer(shard)
