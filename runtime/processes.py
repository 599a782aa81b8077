"""For runs of several processes: a check that all of them see the workdir, and limits to waiting for one another."""

import os
import pickle
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from morphism.errors import UserError
from morphism.runtime.paths import AnyPath

PATIENCE_S = 600  # how long to wait for other processes, which may be compiling, reading or writing
# Parts of the messages of JAX, its coordination service, Gloo and NCCL when a process is gone or does not answer.
LOST = (
    *("DEADLINE_EXCEEDED", "UNAVAILABLE", "task died", "heartbeat", "Barrier timed out", "barrier"),
    *("Connection reset", "Connection closed", "Connection refused", "Gloo", "NCCL"),
)
LOOK_S = 10  # how long a file may take to appear on a network disk


@contextmanager
def time_limit(what: str, seconds: float = PATIENCE_S) -> Iterator[None]:
    """Ends this process, with one line, if the block waits longer than `seconds` for the run's other processes.

    Waiting inside JAX or Orbax cannot be interrupted in any other way. A single process has no limit.
    """

    def give_up() -> None:
        end(
            f"{what}: no answer from the other processes for {seconds:g} s; look at what they say, end them, and start "
            "the same command on all hosts again"
        )

    if jax.process_count() == 1:
        yield
        return
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_lost(error: BaseException) -> bool:
    """Whether `error` says that another process of the run is gone or does not answer."""
    return jax.process_count() > 1 and any(word in str(error) for word in LOST)


def end(message: str, status: int = 2) -> None:
    """Ends this process from any thread, whatever the other threads are doing.

    It has two uses: a second signal to a command, and waiting for a lost process of the run, which nothing else can
    end. A run of a single process never ends the process that it is in.
    """
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr, flush=True)
    os._exit(status)


def exchanged(value: Any, seconds: float = PATIENCE_S) -> list[Any]:
    """The `value` of every process, in their order; each is pickled and compressed.

    seconds: how long to wait for the others.
    """
    if jax.process_count() == 1:
        return [value]
    content = np.frombuffer(zlib.compress(pickle.dumps(value), 1), np.uint8)
    with time_limit("exchanging results", seconds):
        sizes = np.ravel(multihost_utils.process_allgather(np.array(len(content))))
        padded = np.pad(content, (0, int(sizes.max()) - len(content)))
        rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(zlib.decompress(row[:size].tobytes())) for row, size in zip(rows, sizes, strict=True)]


def check_same(own: Mapping[str, Any]) -> None:
    """Raises UserError, in every process, that names the first value which is not the same in all of them."""
    first, *others = exchanged(dict(own))
    for index, other in enumerate(others, 1):
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise UserError(
                    f"{name} is {first.get(name)!r} in process 0, and {other.get(name)!r} in process {index}; start "
                    "the same command on all hosts"
                )


def check_shared(workdir: AnyPath) -> None:
    """Process 0 writes a token file to `workdir`, and all others look for it.

    Raises UserError in every process if one of them does not find it, or if it cannot be written.
    """
    if jax.process_count() == 1:
        return
    first, failed = jax.process_index() == 0, ""
    name = np.frombuffer(uuid.uuid4().bytes, np.uint8)
    if first:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            _token(workdir, name).write_text("whether all hosts see this folder")
        except OSError as error:
            failed = f"{workdir}: cannot be written ({error.strerror or error}); choose another --workdir"
            name = np.zeros_like(name)
    with time_limit("starting"):
        name = multihost_utils.broadcast_one_to_all(name)
    token = _token(workdir, name)
    seen = name.any() and (first or _appears(token))
    with time_limit("starting"):
        found = np.ravel(multihost_utils.process_allgather(np.array(seen)))
    if first:
        with suppress(OSError):
            token.unlink(missing_ok=True)
    if not name.any():
        raise UserError(failed or f"{workdir}: process 0 cannot write there; choose another --workdir")
    if not found.all():
        blind = ", ".join(map(str, np.flatnonzero(~found)))
        raise UserError(
            f"{workdir}: process 0 writes there, and process {blind} does not see it; give a --workdir that all hosts "
            "share, such as a folder on a network disk or gs://bucket/folder"
        )


def _token(workdir: AnyPath, name: np.ndarray) -> AnyPath:
    """A file with a new name each time: a network disk may report a file as absent for a minute after a look-up."""
    return workdir / f".shared-{name.tobytes().hex()}"


def _appears(path: AnyPath) -> bool:
    """Whether `path` exists within LOOK_S seconds."""
    end = time.monotonic() + LOOK_S
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
