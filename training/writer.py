"""Where a run's numbers go: the terminal, metrics.jsonl and TensorBoard."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

from errors import UserError
from training.manifest import write_text


class Writer:
    """Writes from the main process only. What a resumed run will write again is first taken back."""

    def __init__(self, workdir: Path, total_steps: int, resumed_at: int, active: bool):
        """`active` is False on all processes but one, which then write nothing."""
        self._total = total_steps
        self._active = active
        self._progress = None
        self._workdir = workdir
        if not active:
            return
        self._metrics = _truncated(workdir / "metrics.jsonl", resumed_at)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_at + 1, write_to_disk=True)
        if sys.stderr.isatty():
            self._progress = tqdm(total=total_steps, initial=resumed_at, unit="step", dynamic_ncols=True)

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
        """One line of metrics.jsonl, on disk before this returns, and one point of each TensorBoard curve."""
        if not self._active:
            return
        with self._explained():
            self._metrics.write(json.dumps({"step": step, **values}) + "\n")
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._workdir}: metrics not written ({error.strerror}); make room, then start the same command again"
            ) from error

    def training_line(self, step: int, loss: float, images_per_s: float, input_wait: float, eta_s: float) -> None:
        """Progress for a person: a bar on a terminal, a line elsewhere."""
        if self._progress:
            self._progress.update(step - self._progress.n)
            self._progress.set_postfix_str(
                f"loss {loss:.3f}, {images_per_s:,.0f} images/s, input wait {input_wait:.0%}"
            )
        else:
            self.say(
                f"step {step}/{self._total}  loss {loss:.3f}  {images_per_s:,.0f} images/s  "
                f"input wait {100 * input_wait:.0f} %  eta {_duration(eta_s)}"
            )

    def say(self, line: str) -> None:
        if self._active:
            tqdm.write(line)
            sys.stdout.flush()


def _truncated(path: Path, last_step: int):
    """The file, open to append, without the lines after `last_step` and without half a line at its end."""
    kept = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= last_step:
                    kept.append(line + "\n")
            except json.JSONDecodeError:
                break
    write_text(path, "".join(kept))
    return path.open("a")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
