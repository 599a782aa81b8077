"""Workers as jobs of SLURM, through submitit: pip install 'morphism[slurm]'.

Options are those of submitit's executor: timeout_min, gpus_per_node, cpus_per_task, mem_gb, slurm_partition, ... and
cluster=local, which runs the jobs as processes of this machine. A job that SLURM preempts, or whose time is over, is
queued again, as often as submitit's slurm_max_num_timeout allows for the latter; its trial goes on from its checkpoint.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import submitit

from morphism.errors import UserError, one_line
from morphism.runtime.stopping import StopRequest
from morphism.sweeps.folder import STORAGE, Plan
from morphism.sweeps.launchers import job
from morphism.sweeps.storage import Store
from morphism.sweeps.trials import Record


class Work(submitit.helpers.Checkpointable):
    """A job. Being called again is all that it takes to go on."""

    def __call__(self, folder: str) -> str:
        return job.run(folder, f"slurm-{submitit.JobEnvironment().job_id}")


class Slurm:
    """A launcher (launchers/__init__.py)."""

    def __init__(self, folder: Path, plan: Plan, store: Store, workers: int, *, options: Mapping[str, Any]):
        self._folder, self._plan, self._store, self._workers = folder, plan, store, workers
        os.environ[STORAGE] = store.url  # the jobs have this environment; a file would show the password
        options = dict(options)
        try:
            logs = folder.absolute() / "workers" / "slurm"
            self._executor = submitit.AutoExecutor(folder=logs, cluster=options.pop("cluster", "slurm"))
            self._executor.update_parameters(name="morphism", **options)
        except (NameError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"--launcher slurm: {one_line(error)}") from error

    def __enter__(self) -> "Slurm":
        try:
            self._jobs = [self._executor.submit(Work(), str(self._folder.absolute())) for _ in range(self._workers)]
        except (RuntimeError, submitit.core.utils.FailedJobError) as error:
            raise UserError(f"--launcher slurm: {one_line(error)}") from error
        return self

    def __exit__(self, *error: object) -> None:
        for each in self._jobs:
            with suppress(Exception):  # it has ended
                if not each.done():
                    each.cancel()

    def watch(self, stop: StopRequest, show: Callable[[list[Record], int], None]) -> None:
        job.watch(self._store, self._plan.total, self._jobs, stop, show, _ended)


def _ended(each: submitit.Job) -> str | None:
    if not each.done():
        return None
    error = each.exception()
    if error is None:
        return each.result()
    return f"job {each.job_id}: {one_line(error)[:300]}; see {each.paths.stderr}"
