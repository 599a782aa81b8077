"""SIGTERM and SIGINT: the first signal asks the run to stop, the second ends the process, whatever it is doing."""

import signal
import socket
import threading
import time
from typing import Any

from morphism.runtime.processes import end
from morphism.runtime.stopping import StopRequest

NUMBERS = (signal.SIGTERM, signal.SIGINT)
# Signals within these seconds are one request: timeout(1) and launchers signal a process and then its whole group.
ONE_REQUEST_S = 0.5


class StopSignals(StopRequest):
    """A stop request by signals, for a command, which owns its process: listens from `ready` until its `with` ends.

    Python runs signal handlers between two instructions of the main thread: never, while that waits inside JAX for a
    lost process. So a separate thread counts the signals, from the bytes that Python writes to a socket as they arrive.
    """

    reason = "by a signal"

    def __init__(self):
        super().__init__()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        return self

    def ready(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, lambda number, frame: self.request()) for number in NUMBERS}
        threading.Thread(target=self._count, args=(self._reader,), daemon=True, name="signals").start()

    def __exit__(self, *error: object) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        signal.set_wakeup_fd(self._wakeup)
        self._writer.close()  # which ends the thread

    def _count(self, reader: socket.socket) -> None:
        with reader:
            first = None
            while number := reader.recv(1):
                if number[0] not in NUMBERS:
                    continue
                first = first or time.monotonic()
                if time.monotonic() - first > ONE_REQUEST_S:
                    end("ended by a second signal; the same command goes on from the last checkpoint", 128 + number[0])
