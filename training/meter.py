"""The steps since the last report: their scalars, and where their time went."""

import math
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from morphism.errors import NonFinite
from morphism.runtime import peaks
from morphism.training.clock import DeviceClock

REMEDY = (
    "Lower config.optimizer.learning_rate, lengthen config.schedule.warmup, or set config.optimizer.clip_norm; then "
    "start in a new --workdir"
)

# What a report has besides means of scalars: it differs from run to run.
TIMED = (
    *("train/images_per_s", "train/step_ms", "train/flops_per_s", "train/mfu"),
    *("train/input_wait", "train/host_share", "train/device_share", "train/evaluation_s", "train/saving_s"),
    *("train/peak_memory_bytes", "train/host_peak_memory_bytes"),
)


class NonFiniteLoss(NonFinite):
    """The loss, or another value of the training, is not finite."""


class Meter:
    """Collects the scalars of the steps since the last report, on the device, and times the steps.

    Args:
      batch_size: examples per step.
      clock: of the devices.
      peak: FLOP/s that all devices together could reach, if that is known.
    """

    def __init__(self, batch_size: int, clock: DeviceClock, peak: float | None = None):
        self._batch_size, self._clock, self._peak = batch_size, clock, peak
        self._scalars: list[dict[str, jax.Array]] = []
        self._ids: list[np.ndarray] = []  # records of the steps that are not yet checked
        self._checked = 0
        self._dispatched = 0.0
        self._apart: dict[str, float] = {}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Excludes the time before (compiling, evaluating, saving) from the speed."""
        self._clock.taken()
        self._since, self._host_since = time.perf_counter(), time.thread_time()
        self._waited, self._flops, self._timed_from = 0.0, 0, len(self._scalars)

    def timed(self, batches: Iterator[tuple[dict, dict]]) -> Iterator[tuple[dict, dict]]:
        """The batches unchanged; measures how long each is waited for."""
        while True:
            host, before = time.thread_time(), time.perf_counter()  # in this order no time counts twice
            pair = next(batches, None)
            self._waited += time.perf_counter() - before
            self._host_since += time.thread_time() - host  # it counts as waiting already
            if pair is None:
                return
            yield pair

    def dispatching(self, flops: int) -> None:
        """Says that a step of `flops` floating-point operations, over all devices, is about to be dispatched."""
        self._dispatched = time.perf_counter()
        self._flops += flops

    def add(self, scalars: dict[str, jax.Array], ids: np.ndarray) -> None:
        """Adds a step's scalars, and the record numbers of this process's rows of its batch."""
        self._clock.add(self._dispatched, scalars)
        self._scalars.append(scalars)
        self._ids.append(ids.copy())  # a view would keep the batch, whose memory may be shared with a worker

    def spend(self, kind: str, seconds: float) -> None:
        """Reports time next to the steps: "evaluation" or "saving"."""
        self._apart[kind] = self._apart.get(kind, 0.0) + seconds

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
        """Means of the scalars over the steps up to `step`, and some of TIMED; all names begin with "train/".

        images_per_s, step_ms: speed. flops_per_s: floating-point operations of the model's convolutions and matrix
          products, forward and backward, per second; mfu: their share of the devices' peak.
        input_wait: share of the time in which the loop waited for a batch. host_share: in which its own thread worked,
          dispatching and logging. device_share: in which a step was running (clock.py). The host works while a step
          runs, so that the shares need not add up to 1.
        evaluation_s, saving_s: seconds next to these steps, since the last report.
        peak_memory_bytes: the most that one device has held. host_peak_memory_bytes: that this process has.

        Speed and shares are absent if no step was timed. Raises NonFiniteLoss as `check` does.
        """
        self.check(step)
        host = time.thread_time() - self._host_since
        steps, elapsed = self._scalars, time.perf_counter() - self._since
        values = {f"train/{name}": float(jnp.mean(jnp.array([s[name] for s in steps]))) for name in steps[0]}
        timed = len(steps) - self._timed_from
        if timed:
            values["train/images_per_s"] = timed * self._batch_size / elapsed
            values["train/step_ms"] = 1000 * elapsed / timed
            values["train/flops_per_s"] = self._flops / elapsed
            if self._peak:
                values["train/mfu"] = self._flops / elapsed / self._peak
            values["train/input_wait"] = min(self._waited / elapsed, 1.0)
            values["train/host_share"] = min(host / elapsed, 1.0)
            values["train/device_share"] = min(self._clock.taken() / elapsed, 1.0)
        values |= {f"train/{kind}_s": seconds for kind, seconds in self._apart.items()}
        used = peaks.memory()
        if "device" in used:
            values["train/peak_memory_bytes"] = used["device"]
        values["train/host_peak_memory_bytes"] = used["host"]
        self._scalars, self._checked, self._apart = [], 0, {}
        self.restart_clock()
        return values
