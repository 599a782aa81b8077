"""Trainings in one process: as a notebook or a sweep starts them, after one another and in any thread."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.monitoring
import pytest
from absl import flags

from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import digest
from morphism.runtime.paths import read_json, write_json
from morphism.runtime.stopping import StopRequest
from morphism.training import build
from morphism.training.loop import train

pytestmark = pytest.mark.usefixtures("blockless")

ROOT = Path(__file__).parents[2]
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"  # of every program that is compiled or found in the cache


def digest_of(workdir):
    with Checkpoints(workdir) as checkpoints:
        return digest(checkpoints.read(8))


def surroundings():
    """What of its process a training could leave changed; files of earlier tests' garbage are closed first."""
    gc.collect()
    return {
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "wakeup": signal.set_wakeup_fd(-1),
        "threads": {thread.name for thread in threading.enumerate()},
        "files": sorted(os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook),
        "jax": dict(jax.config.values),
        "flags": flags.FLAGS.is_parsed(),
        "environment": dict(os.environ),
        "arguments": (list(sys.argv), list(sys.warnoptions), list(warnings.filters), os.getcwd()),
        "backend": "matplotlib" in sys.modules and sys.modules["matplotlib"].get_backend(),
        "streams": (sys.stdout, sys.stderr),
    }


@pytest.fixture
def lowered():
    """A list that grows by a name with every program that JAX lowers."""
    names = []

    def note(event, seconds, fun_name="", **_):
        if event == LOWERED:
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


async def cell(config, workdir):
    """As Jupyter runs code: inside an event loop."""
    train(config, workdir)


def others(config):
    """`config` with another value of every hyper-parameter that it has, in a copy."""
    config = config.copy_and_resolve_references()
    config.seed = 2**32 - 1
    config.duration = "10"
    config.optimizer.update(learning_rate=0.03, weight_decay=0.01, momentum=0.5, clip_norm=0.3, reference_batch=8)
    config.optimizer.lr_multipliers = (("fc.*", 3.0),)
    config.schedule.update(warmup="3", warmup_factor=0.2, final_factor=0.1, hold="1")
    config.ema.update(decay=0.7, every="2")
    return config


def test_trainings_with_other_hyper_parameters_compile_nothing_and_leave_nothing_behind(config, tmp_path, lowered):
    config.optimizer.update(weight_decay=0.1, clip_norm=1.0, lr_multipliers=(("fc.*", 2.0),))
    config.ema.decay = 0.9
    (tmp_path / "command").mkdir()
    write_json(tmp_path / "command" / "config.json", config.to_dict())
    before = surroundings()

    train(config, tmp_path / "first")
    assert lowered
    del lowered[:]
    programs = build.build(config).programs.train_step._cache_size()  # more than one where other tests have trained it
    with ThreadPoolExecutor(1) as threads:
        threads.submit(train, others(config), tmp_path / "other").result()
        assert lowered == []
        assert build.build(config).programs.train_step._cache_size() == programs
    assert surroundings() == before
    asyncio.run(cell(config, tmp_path / "again"))  # of whose loop Orbax keeps a pipe
    assert lowered == []

    done = subprocess.run([sys.executable, "train.py", "--workdir", tmp_path / "command"], cwd=ROOT, check=False)
    assert done.returncode == 0
    found = {name: digest_of(tmp_path / name) for name in ("first", "again", "command", "other")}
    assert found["first"] == found["again"] == found["command"] != found["other"]
    commands = {name: read_json(tmp_path / name / "manifest.json", list)[0]["command"] for name in found}
    assert commands["first"] == [] and commands["command"][0] == "train.py"


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_when_called_again(config, tmp_path, capsys):
    class Impatient(StopRequest):
        def ready(self):
            threading.Thread(target=self.request).run()

    stop = Impatient()
    assert train(config, tmp_path, stop=stop) == {}
    assert "stopped on request after step 1 of 8, saved" in capsys.readouterr().out
    assert train(config, tmp_path)["top1"] > 0
