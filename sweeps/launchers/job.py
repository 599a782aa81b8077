"""What SLURM and Ray start on a machine: a worker process, which is watched and started again as on this machine."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from morphism.errors import UserError, one_line
from morphism.runtime.stopping import StopRequest
from morphism.sweeps.folder import open_sweep
from morphism.sweeps.local import Pool
from morphism.sweeps.storage import Store
from morphism.sweeps.trials import Record

LOOK_S = 2.0  # between two looks at the trials and the jobs


def run(folder: str, name: str, url: str = "") -> str:
    """Runs trials with one worker until none is left, or SIGTERM; returns an error's line, or "".

    name: of the job, for its log. url: the storage, with its password if it has one.
    """
    stop = StopRequest()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: stop.request())
    try:
        plan, store = open_sweep(Path(folder), url)
        with Pool(Path(folder), plan, store, 1, name=name) as pool:
            pool.watch(stop, lambda *_: None)
    except UserError as error:  # by its text: the engine need not know its class
        return one_line(error)
    return ""


def watch(
    store: Store,
    total: int,
    jobs: Sequence[Any],
    stop: StopRequest,
    show: Callable[[list[Record], int], None],
    ended: Callable[[Any], str | None],
) -> None:
    """Returns once all jobs have ended or a stop is requested. `ended`: job -> its error, "" if it has none, or None if
    it runs or waits. Raises UserError if all have ended, with the first error.
    """
    while not stop.agreed():
        results = [ended(each) for each in jobs]
        trials = store.records()
        show(trials, results.count(None))
        if None not in results:
            error = next(filter(None, results), "")
            if error and not (len(trials) >= total and all(each.over for each in trials)):
                raise UserError(error)
            return
        time.sleep(LOOK_S)
