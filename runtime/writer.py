"""Writes a run's values to the terminal, metrics.jsonl and TensorBoard."""

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tqdm import tqdm

from morphism.errors import NonFinite, Unwritable
from morphism.runtime import events
from morphism.runtime.paths import AnyPath, is_local, write_bytes

MEASURED = "train/images_per_s"  # absent if no step was timed


class Writer:
    """Writes from the main process only. First removes the values that a resumed run will write again."""

    def __init__(
        self, workdir: AnyPath, total_steps: int, resumed_at: int, active: bool, evaluates_again: bool = False
    ):
        """Opens the files of `workdir`.

        Args:
          total_steps: the length of the training.
          resumed_at: the step of the checkpoint from which the run continues, or 0.
          active: True in the one process that writes.
          evaluates_again: whether the evaluation of step `resumed_at` did not end, and will be repeated.
        """
        self._total = total_steps
        self._active = active
        self._progress = None
        self._workdir = workdir
        if not active:
            return

        def stays(step: int, name: str) -> bool:
            if step == resumed_at and evaluates_again:
                return not name.startswith("val/")
            return step <= resumed_at

        with self._explained():
            self._metrics = _Lines(workdir / "metrics.jsonl", stays)
            self._board = _board(workdir / "tensorboard", stays, resumed_at)
        if sys.stderr.isatty():
            self._progress = _Bar(total=total_steps, initial=resumed_at, unit="step", dynamic_ncols=True)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        if self._active:
            with self._explained():
                self._metrics.close()
                self._board.close()
            if self._progress:
                self._progress.close()

    def record(self, step: int, values: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl and a point to each TensorBoard curve; both are on disk when this returns.

        Raises NonFinite naming a value that is not finite, which JSON cannot hold.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFinite(f"step {step}: {name} is {value}; look at config.schedule and config.optimizer")
        if not self._active:
            return
        with self._explained():
            self._metrics.append(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
            self._board.write_event(events.of(step, values))
            self._board.flush()

    def images(self, step: int, images: dict[str, bytes]) -> None:
        """Adds encoded images to TensorBoard, from any thread."""
        if not self._active or not images:
            return
        with self._explained():
            self._board.write_event(events.of_images(step, images))
            self._board.flush()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unwritable(
                f"{self._workdir}: metrics not written ({error.strerror or error}); make room, then start the same "
                "command again"
            ) from error

    def training_line(self, step: int, values: dict[str, float], images_left: int) -> None:
        """Reports progress: a bar on a terminal, else a line. `values` are those of Meter.close."""
        parts = [f"loss {values['train/loss']:.3f}"]
        if MEASURED in values:
            parts.append(f"{values[MEASURED]:,.0f} images/s")
            parts.append(f"input wait {100 * values['train/input_wait']:.0f} %")
        if self._progress:
            self._progress.update(step - self._progress.n)
            self._progress.set_postfix_str(", ".join(parts))
            return
        if MEASURED in values:
            parts.append(f"eta {_duration(images_left / values[MEASURED])}")
        self.say("  ".join([f"step {step}/{self._total}", *parts]))

    def say(self, line: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._active:
            tqdm.write(line)
            sys.stdout.flush()


class _Bar(tqdm):
    monitor_interval = 0  # no thread that redraws an idle bar and outlives it


class _Lines:
    """A file of JSON lines to append to, without lines that do not stay and without an incomplete line at its end."""

    def __init__(self, path: AnyPath, stays: events.Stays):
        self._path = path
        self._text = _kept(path.read_bytes().decode("utf-8", errors="replace"), stays) if path.exists() else ""
        write_bytes(path, self._text.encode())
        self._file = path.open("a", encoding="utf-8") if is_local(path) else None

    def append(self, line: str) -> None:
        if self._file is None:  # a store takes whole files
            self._text += line
            write_bytes(self._path, self._text.encode())
            return
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file:
            self._file.close()


def recorded(workdir: AnyPath, name: str, before: float) -> list[float]:
    """The values of `name` in metrics.jsonl, in the order of the steps, of steps lower than `before`."""
    path = workdir / "metrics.jsonl"
    text = path.read_bytes().decode("utf-8", errors="replace") if path.exists() else ""
    lines = map(json.loads, _kept(text, lambda step, _: step < before).splitlines())
    return [line[name] for line in lines if name in line]


def _kept(text: str, stays: events.Stays) -> str:
    """The lines that stay, up to the first that `record` did not write: a crash of the machine can leave any bytes."""
    kept = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break
        if type(values) is not dict or type(values.get("step")) is not int:
            break
        if all(stays(values["step"], name) for name in values):
            kept.append(line + "\n")
    return "".join(kept)


def _board(folder: AnyPath, stays: events.Stays, resumed_at: int) -> Any:
    """Opens a new event file. A running TensorBoard drops what it has read of the steps after `resumed_at`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("events.out.tfevents.*")):
        events.take_back(path, stays)
    board = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
    if resumed_at:
        board.write_event(Event(step=resumed_at + 1, session_log=events.RESTARTED))
    board.flush()
    return board


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
