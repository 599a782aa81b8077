"""Writes a run's values to the terminal, metrics.jsonl and the writers of config.writers."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from morphism.errors import NonFinite, Unwritable
from morphism.runtime import events
from morphism.runtime import writers as each_writer
from morphism.runtime.paths import AnyPath, is_local, write_bytes
from morphism.runtime.writers.background import Opening
from morphism.runtime.writers.tensorboard import TensorBoard

MEASURED = "train/images_per_s"  # absent if no step was timed
SHARES = {"train/host_share": "host", "train/device_share": "device", "train/mfu": "mfu"}  # shown where they are
APART = {"train/evaluation_s": "eval", "train/saving_s": "save"}  # seconds since the last line


class Writer:
    """Writes from the main process only. First removes the values that a resumed run will write again."""

    def __init__(
        self,
        workdir: AnyPath,
        total_steps: int,
        resumed_at: int,
        active: bool,
        evaluates_again: bool = False,
        writers: Sequence[str] = (each_writer.TENSORBOARD,),
        config: Mapping[str, Any] | None = None,
    ):
        """Opens the files of `workdir`.

        Args:
          total_steps: the length of the training.
          resumed_at: the step of the checkpoint from which the run continues, or 0.
          active: True in the one process that writes.
          evaluates_again: whether the evaluation of step `resumed_at` did not end, and will be repeated.
          writers: config.writers, where the values go besides metrics.jsonl.
          config: dotted field -> value, for those writers that store it.
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
            board = each_writer.TENSORBOARD in writers
            self._boards = [TensorBoard(workdir / "tensorboard", stays, resumed_at)] if board else []
        opening = Opening(workdir, config or {}, self.say)
        self._others = [each_writer.in_thread(name, opening) for name in each_writer.EXTRA if name in writers]
        if sys.stderr.isatty():
            self._progress = _Bar(total=total_steps, initial=resumed_at, unit="step", dynamic_ncols=True)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        if self._active:
            with self._explained():
                self._metrics.close()
                for board in self._boards:
                    board.close()
            for other in self._others:
                other.close()
            if self._progress:
                self._progress.close()

    def record(self, step: int, values: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl and a point to each curve; metrics.jsonl and TensorBoard have them at once.

        Raises NonFinite naming a value that is not finite, which JSON cannot hold.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFinite(f"step {step}: {name} is {value}; look at config.schedule and config.optimizer")
        if not self._active:
            return
        with self._explained():
            self._metrics.append(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
            for board in self._boards:
                board.record(step, values)
        for other in self._others:
            other.record(step, values)

    def images(self, step: int, images: Mapping[str, bytes]) -> None:
        """Shows images, encoded as PNG or JPEG, by names such as "val/examples", in TensorBoard and the other writers.

        Any thread may call it.
        """
        if not self._active or not images:
            return
        with self._explained():
            for board in self._boards:
                board.images(step, images)
        for other in self._others:
            other.images(step, images)

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
            parts += [f"{name} {100 * values[key]:.0f} %" for key, name in SHARES.items() if key in values]
        parts += [f"{name} {_seconds(values[key])}" for key, name in APART.items() if key in values]
        if self._progress:
            self._progress.update(step - self._progress.n)
            self._progress.set_postfix_str(", ".join(parts))
            return
        if MEASURED in values:
            parts.append(f"eta {duration(images_left / values[MEASURED])}")
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


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)


def duration(seconds: float) -> str:
    """In a unit that leaves one to three digits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
