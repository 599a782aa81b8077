"""Commands in processes of their own that need not import JAX and the libraries first, which takes longer than they do.

One process has imported them and forks for each command: the fork has its own arguments, devices, pipes, signals and
exit status, and ends as any interpreter does. What a start imports, and in which order, is not tested this way.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import jax

ROOT = Path(__file__).parent.parent
NUMBER = struct.Struct("i")
IMPORTED = ("training.loop", "training.drawer", "evaluation.run", "evaluation.plots", "runtime.digest")


class Process:
    """As subprocess.Popen of `python ARGUMENTS` in the repository, with text pipes; only what tests use of it."""

    def __init__(self, arguments: list[str], devices: int):
        pipes = [os.pipe() for _ in range(3)]
        request = json.dumps({"arguments": [str(each) for each in arguments], "devices": devices}).encode()
        socket.send_fds(_server(), [request], [written for _, written in pipes])
        for _, written in pipes:
            os.close(written)
        out, err, state = (read for read, _ in pipes)
        self.stdout, self.stderr, self._state = os.fdopen(out), os.fdopen(err), os.fdopen(state, "rb", buffering=0)
        self.args, self.returncode = arguments, None
        self.pid = self._read()

    def _read(self) -> int:
        return NUMBER.unpack(self._state.read(NUMBER.size))[0]

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._state], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._state], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = self._read()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        found = {}

        def read(name: str) -> None:
            with getattr(self, name) as stream:
                found[name] = stream.read()

        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(timeout)
        return found["stdout"], found["stderr"]


def start(arguments: list[str], devices: int) -> Process | subprocess.Popen:
    if sys.platform.startswith("linux"):
        return Process(arguments, devices)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}  # other systems' libraries may not be forked
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, **pipes)


def run(arguments: list[str], devices: int, timeout: float) -> subprocess.CompletedProcess:
    process = start(arguments, devices)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@cache
def _server() -> socket.socket:
    """The connection to the process that forks, which ends with this one."""
    ours, its = socket.socketpair()
    with its:
        process = subprocess.Popen([sys.executable, __file__, str(its.fileno())], cwd=ROOT, pass_fds=[its.fileno()])
    atexit.register(process.wait)
    atexit.register(ours.close)  # the later registered is called first
    return ours


def _serve(connection: socket.socket) -> dict:
    """Forks for each request that arrives, and reports the fork's id and at its end its status; returns in the fork."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the forks take care
    while True:
        message, pipes, *_ = socket.recv_fds(connection, 1 << 20, 3)
        _reap()
        if not message:
            os._exit(0)
        if os.fork():
            for pipe in pipes:
                os.close(pipe)
            continue
        connection.close()
        out, err, state = pipes
        if child := os.fork():
            os.close(out)
            os.close(err)
            os.write(state, NUMBER.pack(child))
            os.write(state, NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
            os._exit(0)
        os.close(state)
        for pipe, number in ((out, 1), (err, 2)):
            os.dup2(pipe, number)
            os.close(pipe)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return json.loads(message)


def _reap() -> None:
    """Waits for the processes that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(ROOT)
    for name in IMPORTED:
        importlib.import_module(f"morphism.{name}")
    assert len(os.listdir("/proc/self/task")) == 1, "a library has threads, so that this process cannot be forked"
    gc.freeze()
    request = _serve(connection)
    jax.config.update("jax_num_cpu_devices", request["devices"])
    sys.argv = request["arguments"]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
