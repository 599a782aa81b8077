"""`morphism train --profile 10:15`: a trace of some steps, for XProf (TensorBoard's profiler) and Perfetto."""

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax

from morphism.errors import UserError
from morphism.runtime.paths import AnyPath


class Span(NamedTuple):
    """Steps, counted from 1, both included."""

    first: int
    last: int

    @classmethod
    def of(cls, text: str) -> "Span":
        """From "10:15". Raises UserError."""
        found = re.fullmatch(r"(\d+):(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--profile is {text!r}; write the first and the last step, such as 10:15")
        return cls(int(found[1]), int(found[2]))

    def check(self, begun: int, total: int) -> None:
        """Raises UserError unless a run of `total` steps that continues after step `begun` will take these steps."""
        if self.last > total:
            raise UserError(f"--profile is {self.first}:{self.last}; the training has only {total} steps")
        if self.first <= begun:
            raise UserError(
                f"--profile is {self.first}:{self.last}; the run goes on from step {begun}, choose steps after it"
            )


class Profiler(AbstractContextManager):
    """Traces the steps of `span`, if there is one, into a folder.

    Only at its two ends does the loop wait for the devices, so that the trace has whole steps; no value depends on it.
    """

    def __init__(self, span: Span | None, into: AnyPath):
        self._span, self._into, self._tracing = span, into, False

    def __exit__(self, *error: object) -> None:
        if self._tracing:  # stopped, or failed, inside the span
            self._stop()

    def step(self, number: int, state: Any) -> AbstractContextManager:
        """The context in which step `number` is dispatched, on `state`."""
        if self._span and number == self._span.first:
            jax.block_until_ready(state)
            self._into.mkdir(parents=True, exist_ok=True)
            # Without Python's calls, which would slow the host and fill the trace's million events in seconds.
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(str(self._into), create_perfetto_trace=True, profiler_options=options)
            self._tracing = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number) if self._tracing else nullcontext()

    def after(self, number: int, results: Any) -> str:
        """Takes note of step `number`, with its results; returns a line once the trace is written, before that ""."""
        if not self._tracing or number != self._span.last:
            return ""
        jax.block_until_ready(results)
        self._stop()
        return (
            f"profile of steps {self._span.first} to {self._span.last} in {self._into}: pip install xprof, then "
            f"xprof --logdir {self._into}; or open its perfetto_trace.json.gz in https://ui.perfetto.dev"
        )

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
