"""What a sweep says while it runs: a table on a terminal, otherwise a line for each trial that ends."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from morphism.sweeps.folder import Plan
from morphism.sweeps.trials import Record, ranked

SHOWN = 8  # running trials of the table
LINE_S = 30.0  # between two lines of the whole sweep, where there is no table


def best_of(trials: Sequence[Record], lower: bool) -> Record | None:
    """The complete trial with the best metric, the first of equals; None if there is none."""
    return next(iter(ranked(trials, lower)), None)


def in_words(trial: Record) -> str:
    """The fields of a trial, without the groups that they are in: "learning_rate=0.1 name=adam"."""
    shown = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in trial.overrides.values())
    names = (name.rpartition(".")[2] for name in trial.overrides)
    return " ".join(f"{name}={value}" for name, value in zip(names, shown, strict=True))


def summary(trials: Sequence[Record], plan: Plan, seconds_left: float | None) -> str:
    """One line about the whole sweep."""
    count = {state: sum(each.state == state for each in trials) for state in ("complete", "pruned", "failed")}
    flying = sum(each.state == "running" for each in trials)
    paused = sum(each.state in ("paused", "waiting") for each in trials)
    words = [f"{sum(count.values())}/{plan.total} trials over", f"{flying} running"]
    words += [f"{paused} paused"] if paused else []
    words += [f"{number} {state}" for state, number in count.items() if number and state != "complete"]
    if best := best_of(trials, plan.lower):
        words.append(f"best {plan.metric} {best.value:.4f} (trial {best.number})")
    if seconds_left is not None:
        words.append(f"eta {duration(seconds_left)}")
    return ", ".join(words)


def seconds_left(trials: Sequence[Record], total: int, workers: int) -> float | None:
    """An estimate: the trials that are not over take as long as those that are; None before the first is."""
    over = [each for each in trials if each.over and each.seconds]
    if not over or not workers:
        return None
    spent = sum(each.seconds for each in over) / len(over)
    begun = sum(min(each.seconds, spent) for each in trials if not each.over)
    left = max(total - sum(each.over for each in trials), 0)
    return max(left * spent - begun, 0.0) / workers


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def ended(trial: Record, metric: str) -> str:
    """One line about a trial that is over."""
    value = "" if trial.value is None else f"  {metric} {trial.value:.4f}"
    why = f": {trial.error}" if trial.error else ""
    return f"trial {trial.number} {trial.state}{value}  {in_words(trial)}{why}"


class Live:
    """Shows the trials of the sweep `plan` in `folder` on `out`, each time that it is called with them."""

    def __init__(self, folder: Path, plan: Plan, out: TextIO):
        self._folder, self._plan, self._out = folder, plan, out
        self._table = out.isatty()
        self._said: set[int] | None = None
        self._drawn, self._last = 0, -LINE_S

    def __call__(self, trials: Sequence[Record], workers: int) -> None:
        over = {each.number for each in trials if each.over}
        new = [] if self._said is None else [each for each in trials if each.number in over - self._said]
        self._said = over
        self._erase()
        for each in new:
            print(ended(each, self._plan.metric), file=self._out)
        line = summary(trials, self._plan, seconds_left(trials, self._plan.total, workers))
        if self._table:
            rows = [self._row(each) for each in trials if each.state == "running"]
            more = [f"... and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
            self._draw([*rows[:SHOWN], *more, line])
        elif time.monotonic() - self._last >= LINE_S:
            print(line, file=self._out)
            self._last = time.monotonic()
        self._out.flush()

    def close(self) -> None:
        self._erase()
        self._out.flush()

    def _row(self, trial: Record) -> str:
        now = last_line(self._folder / trial.workdir)
        loss = f"  loss {now['train/loss']:.3f}" if "train/loss" in now else ""
        value = "" if trial.value is None else f"  {self._plan.metric} {trial.value:.4f}"
        return f"  trial {trial.number:<4} step {now.get('step', trial.steps)}{loss}{value}  {in_words(trial)}"

    def _draw(self, lines: Sequence[str]) -> None:
        width = shutil.get_terminal_size().columns
        for each in lines:
            print(each[: width - 1], file=self._out)
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}A\x1b[J", end="", file=self._out)
        self._drawn = 0


def last_line(workdir: Path) -> dict[str, float]:
    """The last values in a trial's metrics.jsonl; {} if there are none yet."""
    try:
        with (workdir / "metrics.jsonl").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - 4096, 0))
            for text in reversed(file.read().splitlines()):
                values = json.loads(text)
                if "train/loss" in values:
                    return values
    except (OSError, ValueError):
        pass
    return {}
