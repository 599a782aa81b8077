"""Workers as tasks of Ray: pip install 'morphism[ray]'.

The cluster is the one that RAY_ADDRESS names, or else this machine. Options are those of a task, such as num_cpus=4,
num_gpus=1. A task whose node dies is started on another one; its trial goes on from its checkpoint.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray

from morphism.errors import UserError, one_line
from morphism.runtime.stopping import StopRequest
from morphism.sweeps.folder import Plan
from morphism.sweeps.launchers import job
from morphism.sweeps.storage import Store
from morphism.sweeps.trials import Record


class Ray:
    """A launcher (launchers/__init__.py)."""

    def __init__(self, folder: Path, plan: Plan, store: Store, workers: int, *, options: Mapping[str, Any]):
        self._folder, self._plan, self._store, self._workers = folder, plan, store, workers
        try:
            self._work = ray.remote(**{"num_cpus": 1, "max_retries": -1, **options})(_work)
        except (TypeError, ValueError) as error:
            raise UserError(f"--launcher ray: {one_line(error)}") from error

    def __enter__(self) -> "Ray":
        try:
            if not ray.is_initialized():
                ray.init(log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--launcher ray: {one_line(error)[:300]}") from error
        folder, url = str(self._folder.absolute()), self._store.url
        self._tasks = [self._work.remote(folder, url) for _ in range(self._workers)]
        return self

    def __exit__(self, *error: object) -> None:
        for each in self._tasks:
            ray.cancel(each)  # KeyboardInterrupt, at which its worker saves and ends
        ray.wait(self._tasks, num_returns=len(self._tasks), timeout=60)

    def watch(self, stop: StopRequest, show: Callable[[list[Record], int], None]) -> None:
        job.watch(self._store, self._plan.total, self._tasks, stop, show, _ended)


def _work(folder: str, url: str) -> str:
    here = ray.get_runtime_context()
    return job.run(folder, f"ray-{here.get_node_id()[:8]}-{here.get_task_id()[:8]}", url)


def _ended(task: Any) -> str | None:
    done, _ = ray.wait([task], timeout=0)
    if not done:
        return None
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        return one_line(error)[:300]
