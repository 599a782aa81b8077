"""The steps since the last report: their scalars, and how long they took."""

import math
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from morphism.errors import NonFinite

REMEDY = (
    "Lower config.optimizer.learning_rate, lengthen config.schedule.warmup, or set config.optimizer.clip_norm; then "
    "start in a new --workdir"
)


class NonFiniteLoss(NonFinite):
    """The loss, or another value of the training, is not finite."""


class Meter:
    """Collects the scalars of the steps since the last report, on the device, and times the steps."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._scalars: list[dict[str, jax.Array]] = []
        self._ids: list[np.ndarray] = []  # records of the steps that are not yet checked
        self._checked = 0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Excludes the time before (compiling, evaluating, saving) from images per second."""
        self._since, self._waited, self._timed_from = time.perf_counter(), 0.0, len(self._scalars)

    def timed(self, batches: Iterator[tuple[dict, dict]]) -> Iterator[tuple[dict, dict]]:
        """The batches unchanged; measures how long each is waited for."""
        while True:
            before = time.perf_counter()
            pair = next(batches, None)
            self._waited += time.perf_counter() - before
            if pair is None:
                return
            yield pair

    def add(self, scalars: dict[str, jax.Array], ids: np.ndarray) -> None:
        """Adds a step's scalars, and the record numbers of this process's rows of its batch."""
        self._scalars.append(scalars)
        self._ids.append(ids.copy())  # a view would keep the batch, whose memory may be shared with a worker

    def check(self, step: int) -> None:
        """Fetches the scalars up to those of `step`, so that none stay on the device.

        Raises NonFiniteLoss naming the first step with a value that is not finite, the value, and the examples.
        """
        steps = jax.device_get(self._scalars[self._checked :])
        for offset, scalars in enumerate(steps):
            for name, value in scalars.items():
                if not math.isfinite(value):
                    raise NonFiniteLoss(
                        f"step {step - len(steps) + 1 + offset}: {name} is {value}, on examples "
                        f"{', '.join(map(str, self._ids[offset]))}; the last checkpoint is from before. {REMEDY}"
                    )
        self._scalars[self._checked :] = steps
        self._checked, self._ids = len(self._scalars), []

    def close(self, step: int) -> dict[str, float]:
        """Means of the scalars over the steps up to `step`, images per second, share of time spent waiting.

        The last two are absent if no step was timed. Raises NonFiniteLoss as `check` does.
        """
        self.check(step)
        steps, elapsed = self._scalars, time.perf_counter() - self._since
        values = {f"train/{name}": float(jnp.mean(jnp.array([s[name] for s in steps]))) for name in steps[0]}
        timed = len(steps) - self._timed_from
        if timed:
            values["train/images_per_s"] = timed * self._batch_size / elapsed
            values["train/input_wait"] = min(self._waited / elapsed, 1.0)
        self._scalars, self._checked = [], 0
        self.restart_clock()
        return values
