"""SIGTERM and SIGINT: the first asks the loop to stop, the second ends the process, whatever it is doing."""

import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from morphism.runtime.processes import end, time_limit

NUMBERS = (signal.SIGTERM, signal.SIGINT)
# Seconds within which signals are one request: timeout(1) and launchers signal a process and then its whole group.
ONE_REQUEST_S = 0.5
ASK_EVERY = 10  # batches of an evaluation, where several processes have to agree


class Stopped(Exception):
    """A stop was requested before an evaluation ended."""


class StopRequest:
    """Listens from `listen` until its `with` ends.

    Python runs a signal's handler between two of its own instructions: never, while the main thread waits inside JAX
    for a process that is lost. So a thread of its own counts the signals, from the bytes that Python writes to a
    socket as they arrive.
    """

    def __init__(self):
        self._requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        return self

    def listen(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in NUMBERS}
        threading.Thread(target=self._count, args=(self._reader,), daemon=True, name="signals").start()

    def __exit__(self, *error: object) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        signal.set_wakeup_fd(self._wakeup)
        self._writer.close()  # which ends the thread

    def _note(self, number: int, frame: Any) -> None:
        self._requested = True

    def _count(self, reader: socket.socket) -> None:
        with reader:
            first = None
            while number := reader.recv(1):
                if number[0] not in NUMBERS:
                    continue
                first = first or time.monotonic()
                if time.monotonic() - first > ONE_REQUEST_S:
                    end("ended by a second signal; the same command goes on from the last checkpoint", 128 + number[0])

    def agreed(self) -> bool:
        """Whether to stop: the same answer in every process, which all of them have to ask for at the same moment."""
        if jax.process_count() == 1:
            return self._requested
        with time_limit("agreeing on whether to stop"):
            return bool(multihost_utils.process_allgather(np.array(self._requested)).any())

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches unchanged. Raises Stopped, in every process at the same batch, once a stop is requested."""
        every = 1 if jax.process_count() == 1 else ASK_EVERY
        for index, batch in enumerate(batches):
            if index % every == 0 and self.agreed():
                raise Stopped
            yield batch
