"""Requests to stop a run."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from morphism.runtime.processes import time_limit

ASK_EVERY = 10  # batches of an evaluation, if several processes have to agree


class Stopped(Exception):
    """A stop was requested before an evaluation ended."""


class StopRequest:
    """A run asks it whether to stop. `request` may be called from any thread."""

    reason = "on request"

    def __init__(self):
        self._requested = False

    def request(self) -> None:
        """Asks the run to finish its step, save and return."""
        self._requested = True

    def ready(self) -> None:
        """Called by the run before its first step: from then on it can save its state when it stops."""

    def agreed(self) -> bool:
        """Whether to stop: the same answer in every process. All processes must ask at the same step."""
        if jax.process_count() == 1:
            return self._requested
        with time_limit("agreeing on whether to stop"):
            return bool(multihost_utils.process_allgather(np.array(self._requested)).any())

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches unchanged. Raises Stopped, at the same batch in every process, once a stop is requested."""
        every = 1 if jax.process_count() == 1 else ASK_EVERY
        for index, batch in enumerate(batches):
            if index % every == 0 and self.agreed():
                raise Stopped
            yield batch
