"""Who runs a trial: owners, their heartbeats, and how the trial of one that is gone is taken over.

A waiting trial is claimed atomically in the storage. A running one belongs to its owner as long as that lives: an owner
of this machine is looked up among its processes; one of another machine lives while its beat changes.
"""

import fcntl
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from morphism.errors import Busy
from morphism.runtime.stopping import StopRequest
from morphism.sweeps.storage import Store
from morphism.sweeps.trials import BEAT, OWNER, Record

BEAT_S = 10.0  # between two heartbeats
SILENT_S = 90.0  # after which an owner on another machine counts as gone
UNNAMED_S = 10.0  # the same, of a claim to which no name was written
SETTLE_S = 3.0  # after which a take-over from another machine is checked again


def _here() -> str:
    """This machine, boot and process namespace: within it, process ids mean the same."""
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if "ns" in path else Path(path).read_text().strip())
        except OSError:
            parts.append("")
    return "|".join(parts)


HERE = _here()


def _started(pid: int) -> str:
    """When the process `pid` started, in ticks since boot; "" if there is none, or if it has ended unawaited."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        try:  # a system without /proc
            os.kill(pid, 0)
        except OSError:
            return ""
        return "alive"
    return "" if fields[0] == "Z" else fields[19]


def owner_of_this_process() -> str:
    pid = os.getpid()
    return f"{HERE}|{pid}|{_started(pid)}|{uuid.uuid4().hex[:8]}"


def is_of_process(owner: str, pid: int) -> bool:
    """Whether `owner` is, or was, the process `pid` of this machine."""
    return owner.startswith(f"{HERE}|{pid}|")


class Watch:
    """Tells which running trials have lost their owner; for those of other machines it has to look for SILENT_S."""

    def __init__(self, me: str, clock: Callable[[], float] = time.monotonic):
        self._me, self._clock = me, clock
        self._seen: dict[int, tuple[tuple[str, int], float]] = {}

    def lost(self, trial: Record) -> bool:
        """Whether the owner of the running `trial` is gone."""
        if trial.owner == self._me:
            return True  # this worker runs nothing while it looks for work
        if trial.owner.startswith(f"{HERE}|"):
            pid, started, _ = trial.owner.removeprefix(f"{HERE}|").split("|")
            return _started(int(pid)) != started
        state, now = (trial.owner, trial.beat), self._clock()
        before, since = self._seen.get(trial.key, (None, now))
        if before != state:
            self._seen[trial.key] = (state, now)
            return False
        return now - since >= (SILENT_S if trial.owner else UNNAMED_S)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """One process of all that see `folder` at a time. Raises Busy if another is inside; where locks fail, all enter."""
    with (folder / "takeover.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"{folder}: another worker is taking over a trial") from error
        except OSError:  # a network disk without locks
            pass
        yield


def is_free(workdir: Path) -> bool:
    """Whether no process trains in `workdir`, as far as its lock tells."""
    try:
        with (workdir / "lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def claim(store: Store, trial: Record, me: str) -> bool:
    """Makes a waiting trial this worker's own, and writes its name: of several workers that try, one succeeds."""
    if not store.claim(trial.key):
        return False
    store.note(trial.key, **{OWNER: me})
    return True


def let_go(store: Store, key: int) -> None:
    """Lets a trial of this worker wait. The name goes first: the trial may be claimed as soon as it waits."""
    store.note(key, **{OWNER: ""})
    store.release(key)


def take_over(store: Store, folder: Path, trial: Record, me: str) -> bool:
    """Makes a running trial that has lost its owner this worker's own.

    Several workers may notice at once: one at a time looks whether the owner is still the lost one. Where the folder's
    disk has no locks, the last to write its name gets the trial, after a time in which any other has written.
    """
    try:
        with exclusive(folder):
            if trial.workdir and not is_free(folder / trial.workdir):
                return False
            now = store.record(trial.key)
            if now.state != "running" or now.owner != trial.owner:
                return False
            store.note(trial.key, **{OWNER: me, BEAT: now.beat + 1})
    except Busy:
        return False
    if not trial.owner.startswith(HERE):
        time.sleep(SETTLE_S)
    return store.record(trial.key).owner == me


class Heartbeat:
    """Counts up the beat of a trial while its `with` lasts, and asks the run to stop if it has got another owner."""

    def __init__(self, store: Store, trial: Record, me: str, stop: StopRequest):
        self._store, self._trial, self._me, self._stop = store, trial, me, stop
        self._done = threading.Event()
        self.lost = False

    def __enter__(self) -> "Heartbeat":
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> bool:
        """Whether the trial is still this worker's."""
        now = self._store.record(self._trial.key)
        self.lost = self.lost or now.owner != self._me or now.state != "running"
        return not self.lost

    def _beat(self) -> None:
        beat = self._trial.beat
        while not self._done.wait(BEAT_S):
            try:
                if not self.check():
                    self._stop.request()
                    return
                beat += 1
                self._store.note(self._trial.key, **{BEAT: beat})
            except Exception:  # the storage may be away for a while; if for long, another worker takes over
                continue
