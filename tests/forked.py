"""Commands in processes of their own that need not import JAX and the libraries first: that takes longer than they do.

The fork server of multiprocessing has imported them and forks for each command: the fork has its own arguments,
devices, pipes, signals and exit status. What a start imports, and in which order, is not tested this way. Where system
libraries may not be forked, which is elsewhere than on Linux, each command is an interpreter of its own.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parent.parent
FORKS = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
IMPORTED = ("training.loop", "training.drawer", "evaluation.run", "evaluation.plots", "runtime.digest")
multiprocessing.set_forkserver_preload([f"morphism.{name}" for name in IMPORTED])


class Process:
    """As subprocess.Popen of `python ARGUMENTS` in the repository, with text pipes; only what tests use of it."""

    def __init__(self, arguments: list[str], devices: int):
        (out, into_out), (err, into_err) = FORKS.Pipe(duplex=False), FORKS.Pipe(duplex=False)
        self.args = [str(each) for each in arguments]
        self._process = FORKS.Process(target=_run, args=(self.args, devices, into_out, into_err))
        self._process.start()
        into_out.close()
        into_err.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(each.fileno())) for each in (out, err))
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        with ThreadPoolExecutor(2) as pool, self.stdout, self.stderr:
            streams = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            finally:
                self.kill()  # otherwise whoever reads would wait
            out, err = (stream.result() for stream in streams)
        return out, err


def run(arguments: list[str], devices: int, timeout: float) -> subprocess.CompletedProcess:
    process = Process(arguments, devices)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def _run(arguments: list[str], devices: int, out: Connection, err: Connection) -> None:
    """What the fork does: it becomes `python ARGUMENTS`."""
    import jax

    for pipe, number in ((out, 1), (err, 2)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(ROOT)
    jax.config.update("jax_num_cpu_devices", devices)
    sys.argv, sys.path[0] = list(arguments), str(ROOT)
    try:
        if sys.argv[0] == "-m":
            del sys.argv[0]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which processes of multiprocessing leave out
