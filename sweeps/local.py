"""Workers as processes of this machine, each on devices or CPU cores of its own, started again when they die."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from morphism.errors import Busy, UserError
from morphism.runtime.stopping import StopRequest
from morphism.sweeps.claims import exclusive, is_of_process
from morphism.sweeps.folder import STORAGE, Plan, newest_checkpoint
from morphism.sweeps.storage import Store
from morphism.sweeps.trials import DEATHS, ERROR, Record

LOOK_S = 1.0  # between two looks at the workers and the trials
BARREN = 3  # workers that may die in a row without having run anything
GRACE_S = 120.0  # how long workers may take to save when the sweep is stopped


def command(folder: Path, attached: bool, cores: Sequence[int] = ()) -> list[str]:
    """The command line of a worker; what starts it sets the variable MORPHISM_STORAGE if the storage has a password.

    attached: its standard input is a pipe, at whose end the worker saves and ends.
    """
    words = [sys.executable, "-m", "morphism.sweeps.worker", str(folder), "attached" if attached else "alone"]
    return [*words, *map(str, cores)]


def placement(slot: int, workers: int) -> tuple[dict[str, str], list[int]]:
    """The environment and the CPU cores of worker `slot` of `workers`: accelerators in turn, cores in equal parts."""
    environment = {}
    gpus, chips = _gpus(), _tpu_chips()
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        sharing = -(-workers // len(gpus))
        if sharing > 1:
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharing:.3f}"
    elif chips:
        environment |= {
            "TPU_VISIBLE_CHIPS": chips[slot % len(chips)],
            "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_BOUNDS": "1,1,1",
        }
    if sys.platform != "linux":
        return environment, []
    cores = sorted(os.sched_getaffinity(0))
    each = max(len(cores) // workers, 1)  # as many for every worker: a trial may move from one to another
    first = slot * each % len(cores)
    return environment, (cores + cores)[first : first + each]


def _gpus() -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [each for each in given.split(",") if each.strip()]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia*")]
    return sorted((each for each in found if each.isdigit()), key=int)


def _tpu_chips() -> list[str]:
    given = os.environ.get("TPU_VISIBLE_CHIPS")
    if given is not None:
        return [each for each in given.split(",") if each.strip()]
    found = (re.fullmatch(r"accel(\d+)", path.name) for path in Path("/dev").glob("accel*"))
    return sorted((each[1] for each in found if each), key=int)


@dataclass
class _Process:
    slot: int
    process: subprocess.Popen
    log: Path
    ran: bool = False  # whether it was seen running a trial


class Pool:
    """The worker processes of a sweep on this machine. Leaving its `with` asks them to save, and waits for them.

    `name` is that of the log, where several machines have a pool of one worker.
    """

    def __init__(self, folder: Path, plan: Plan, store: Store, workers: int, name: str = ""):
        self._folder, self._plan, self._store, self._workers, self._name = folder, plan, store, workers, name
        self._barren = 0
        self._processes: list[_Process] = []

    def __enter__(self) -> "Pool":
        self._processes = [self._start(slot) for slot in range(self._workers)]
        return self

    def __exit__(self, *error: object) -> None:
        for each in self._processes:
            each.process.stdin.close()
        end = time.monotonic() + GRACE_S
        for each in self._processes:
            with suppress(subprocess.TimeoutExpired):
                each.process.wait(max(end - time.monotonic(), 0.1))
            if each.process.poll() is None:
                each.process.kill()

    def watch(self, stop: StopRequest, show: Callable[[list[Record], int], None]) -> None:
        """Returns once all trials are over or a stop is requested; `show` gets the trials and the number of workers.

        Raises UserError if workers end before they run anything.
        """
        while not stop.agreed():
            trials = self._store.records()
            for each in self._processes:
                each.ran |= any(is_of_process(trial.owner, each.process.pid) for trial in trials)
            self._processes = [each for process in self._processes if (each := self._alive(process, trials))]
            if not self._processes:
                trials = self._store.records()  # with what the last worker did before it ended
            show(trials, len(self._processes))
            if not self._processes:
                return
            time.sleep(LOOK_S)

    def _alive(self, each: _Process, trials: Sequence[Record]) -> _Process | None:
        """The process, or the one that replaces it if it died; None if it is done."""
        status = each.process.poll()
        if status is None:
            return each
        if status == 0:
            return None
        reason = f"signal {-status}" if status < 0 else f"status {status}"
        last = _last_line(each.log)
        if status == 2 and last.startswith("error: "):
            raise UserError(last.removeprefix("error: "))
        for trial in trials:
            if trial.state == "running" and is_of_process(trial.owner, each.process.pid):
                self._count_death(trial, f"its process ended with {reason}{_meaning(status)}")
        self._barren = 0 if each.ran else self._barren + 1
        if self._barren >= BARREN:
            raise UserError(f"{each.log}: workers end with {reason} before they run a trial; the last says: {last}")
        return self._start(each.slot)

    def _count_death(self, trial: Record, reason: str) -> None:
        """Notes that the process of `trial` died; after as many deaths without progress as are allowed, it failed."""
        while True:
            try:
                with exclusive(self._folder):
                    step = newest_checkpoint(self._folder / trial.workdir)
                    same = trial.deaths_at == (trial.rung, step)
                    count = trial.deaths + 1 if same else 1
                    self._store.note(trial.key, **{DEATHS: {"count": count, "rung": trial.rung, "step": step}})
                    now = self._store.record(trial.key)
                    if count >= self._plan.tries and now.owner == trial.owner and now.state == "running":
                        self._store.note(trial.key, **{ERROR: f"{reason}, {count} times without progress"})
                        self._store.fail(trial.key)
                return
            except Busy:
                time.sleep(0.05)

    def _start(self, slot: int) -> _Process:
        environment, cores = placement(slot, self._workers)
        log = self._folder / "workers" / f"{self._name or slot}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(
                command(self._folder, attached=True, cores=cores),
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env={**os.environ, **environment, STORAGE: self._store.url},
                start_new_session=True,  # the sweep passes on a terminal's Ctrl-C itself, so that workers save
            )
        return _Process(slot, process, log)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing"


def _meaning(status: int) -> str:
    return {-9: " (killed: out of memory?)", -11: " (segmentation fault)", -6: " (aborted)"}.get(status, "")
