import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from morphism.errors import UserError
from morphism.runtime import mesh, startup

FAULTS = """
import resource, sys
import numpy as np
from morphism.runtime import startup

if sys.argv[1] == "kept":
    startup.keep_freed_memory()
before = [np.ones(2**23) for _ in range(2)]
del before
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
after = [np.ones(2**23) for _ in range(2)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_new_pages():
    run = [sys.executable, "-c", FAULTS]
    kept, given_back = (int(subprocess.check_output([*run, way])) for way in ("kept", "given back"))
    assert kept < given_back / 10


def test_an_option_that_this_xla_does_not_know_is_left_out(monkeypatch):
    assert mesh.compiler_options(once=True) == {"xla_backend_optimization_level": 1} | mesh.compiler_options()
    monkeypatch.setattr(mesh, "_NO_YNN", {"xla_cpu_no_such_option": "1"})
    mesh._knows_ynn.cache_clear()
    assert mesh.compiler_options() == {}
    mesh._knows_ynn.cache_clear()


def test_without_a_home_there_is_no_cache_of_compiled_programs(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert startup.compilation_cache() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")  # where nobody may write
    assert startup.compilation_cache() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert startup.compilation_cache() == str(tmp_path / "morphism" / "jax")


def test_no_module_adds_to_the_flags_of_a_whole_process():
    modules = ("training.loop", "runtime.startup", "evaluation.run", "weights.public", "data.survey", "commands.train")
    imports = "".join(f"import morphism.{name}; " for name in modules)
    owners = f"{imports}from absl import flags; print(*flags.FLAGS.flags_by_module_dict())"
    found = subprocess.check_output([sys.executable, "-c", owners], text=True).split()
    assert [name for name in found if name.startswith("morphism.")] == []


@pytest.mark.parametrize(
    ("coordinator", "processes", "index", "words"),
    [
        ("host", 2, 0, "--coordinator=host: give the host and the port of process 0, such as host:1234"),
        ("host:", 2, 1, "--coordinator=host:: give the host and the port"),
        ("localhost:99999", 1, 0, "--coordinator=localhost:99999: .*; choose another port"),
        ("localhost:1", 2, 2, "--process_id=2: of 2 processes; give 0 to 1"),
        ("localhost:1", 2, -1, "--process_id=-1: of 2 processes; give 0 to 1"),
    ],
)
def test_an_address_that_jax_cannot_use_is_one_line(coordinator, processes, index, words):
    with pytest.raises(UserError, match=f"^{words}"):
        startup.start_jax(True, coordinator, processes, index)


def test_a_port_at_which_another_process_listens_is_one_line():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"^--coordinator=localhost:{port}: Address already in use; choose another"):
            startup.start_jax(True, f"localhost:{port}", 1, 0)
    startup._check_free(f"localhost:{port}")


def test_who_waits_for_other_processes_says_so(monkeypatch, capsys):
    monkeypatch.setattr(startup, "ANNOUNCED_S", 0.1)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *join, **limits: time.sleep(0.5))
    startup.start_jax(True, "host:1234", 2, 1)
    assert capsys.readouterr().err == "waiting for the other processes of the run at host:1234\n"
