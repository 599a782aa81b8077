"""Signals, and what the processes of one run ask of one another."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from morphism.errors import UserError
from morphism.runtime import processes

ROOT = Path(__file__).parents[2]
DEAF = """
import ctypes
from morphism.runtime.signals import StopSignals

with StopSignals() as stop:
    stop.ready()
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    print("waiting", flush=True)
    lock(mutex)  # never returns, and no handler of Python's runs meanwhile
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the mutex is of glibc's size")
def test_a_second_signal_ends_a_process_that_waits_outside_python():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", DEAF], cwd=ROOT, **pipes)
    try:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)  # as timeout(1) does: to the process, then to its group
        time.sleep(0.8)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert err == "-c: error: ended by a second signal; the same command goes on from the last checkpoint\n"


@pytest.fixture
def two_processes(monkeypatch):
    """two_processes(index): in this one of two; the other's token is "other", and its files are not seen here."""

    def become(index):
        monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
        monkeypatch.setattr(processes.jax, "process_index", lambda: index)
        monkeypatch.setattr(processes, "LOOK_S", 0)
        token = np.full(16, 7, np.uint8)
        monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", lambda x: token if index else x)
        seen = lambda x: np.array([True, bool(x)]) if index else np.array([bool(x), False])  # noqa: E731
        monkeypatch.setattr(processes.multihost_utils, "process_allgather", seen)
        return token

    return become


@pytest.mark.parametrize("index", [0, 1])
def test_a_workdir_that_another_host_does_not_see_is_refused_by_all(tmp_path, two_processes, index):
    two_processes(index)
    with pytest.raises(UserError, match=f"{tmp_path}/run: process 0 writes there, and process 1 does not see it"):
        processes.check_shared(tmp_path / "run")
    assert not list(tmp_path.glob("run/*")) and not list(tmp_path.glob("run/.*"))


def test_a_value_that_another_process_has_otherwise_is_named_by_all(monkeypatch):
    processes.check_same({"config.seed": 0})  # a single process
    every = [{"a": 1, "b": 2, "data": {"records": 3}}, {"a": 1, "b": 2, "data": {"records": 3}}]
    monkeypatch.setattr(processes, "exchanged", lambda own: every)
    processes.check_same(every[0])
    every.append({"a": 1, "b": 5, "data": {"records": 3}})
    with pytest.raises(UserError, match="^b is 2 in process 0, and 5 in process 2; start the same command on all"):
        processes.check_same(every[0])
    every[2] = {"a": 1, "b": 2}
    with pytest.raises(UserError, match="^data is {'records': 3} in process 0, and None in process 2"):
        processes.check_same(every[0])


def test_a_workdir_that_all_see_is_taken(tmp_path, two_processes):
    processes._token(tmp_path, two_processes(1)).write_text("")
    processes.check_shared(tmp_path)


def test_waiting_for_others_has_an_end(two_processes, monkeypatch):
    two_processes(1)
    lines = []
    monkeypatch.setattr(processes, "end", lines.append)
    with processes.time_limit("saving", seconds=0.05):
        time.sleep(0.2)
    assert lines and "saving: no answer from the other processes for 0.05 s" in lines[0]
