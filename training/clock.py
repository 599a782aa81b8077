"""How long the devices work: measured from a thread, so that neither they nor the loop wait for it."""

import queue
import threading
import time
from contextlib import suppress
from typing import Any

import jax


class DeviceClock:
    """Adds up the time in which a step was running, as a context manager.

    The devices run one step after the other. So a step runs from the end of the one before it, or from its own dispatch
    if that is later, until its results are there, which a thread waits for. The rest of the time the devices wait for
    the host. The time that a dispatch takes until the devices start counts as running.
    """

    def __init__(self):
        self._steps: queue.Queue = queue.Queue()
        self._busy, self._end = 0.0, 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True, name="device clock")

    def __enter__(self) -> "DeviceClock":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._steps.put(None)

    def add(self, dispatched: float, results: Any) -> None:
        """Adds a step that was dispatched at that time.perf_counter(), and whose results are arrays."""
        self._steps.put((dispatched, results))

    def taken(self) -> float:
        """The seconds in which a step was running since the last call. Waits for all steps that were added."""
        self._steps.join()
        busy, self._busy = self._busy, 0.0
        return busy

    def _watch(self) -> None:
        while (step := self._steps.get()) is not None:
            dispatched, results = step
            with suppress(Exception):  # the loop meets it too, and reports it
                jax.block_until_ready(results)
            now = time.perf_counter()
            self._busy += now - max(self._end, dispatched)
            self._end = now
            del step, results
            self._steps.task_done()
