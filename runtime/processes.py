"""What several processes of one run need: a workdir that all of them see, and an end to waiting for one another."""

import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from morphism.errors import UserError

PATIENCE_S = 600  # for the others, who may be compiling, reading or writing
LOOK_S = 10  # for a file to appear on a network's disk


@contextmanager
def time_limit(what: str, seconds: float = PATIENCE_S) -> Iterator[None]:
    """Ends this process, with one line, where the block waits longer for the other processes of the run.

    A wait inside JAX or Orbax cannot be interrupted. With a single process there is no limit.
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


def end(message: str, status: int = 2) -> None:
    """Ends this process from any thread, whatever the others are doing.

    Two call it: a command whose user asks a second time, and a wait for a process of the run that is lost, which
    nothing else can end. A run of a single process never ends the process that it is in.
    """
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr, flush=True)
    os._exit(status)


def check_shared(workdir: epath.Path) -> None:
    """Process 0 leaves a token in `workdir` that all others look for.

    Raises UserError, in every process, where one does not find it, or where it cannot be written.
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
            "share, such as a folder of a network's disk or gs://bucket/folder"
        )


def _token(workdir: epath.Path, name: np.ndarray) -> epath.Path:
    """A file of a new name: what a network's disk remembers to be absent it may call absent for a minute."""
    return workdir / f".shared-{name.tobytes().hex()}"


def _appears(path: epath.Path) -> bool:
    end = time.monotonic() + LOOK_S
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
