"""One sweep on two machines, which have in common its folder and a storage: a journal file, or a PostgreSQL server."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from morphism.experiments import quickstart
from morphism.sweeps.folder import STORAGE, Plan, begin_sweep, open_sweep
from morphism.sweeps.storage import open_storage, without_password

# A worker whose trainings only note where they ran. The first machine hangs in its second trial; the second machine
# waits for that in its first.
MACHINE = """
import os, sys, time
from pathlib import Path
from morphism.sweeps import worker
from morphism.training import loop

folder, home, ran = Path(sys.argv[1]), Path(os.environ["HOME"]), []

def training(config, workdir, **given):
    ran.append(workdir)
    with (workdir / "ran").open("a") as file:
        file.write(home.name + "\\n")
    if home.name == "first" and len(ran) == 2:
        (folder / "hangs").touch()
        time.sleep(600)
    while home.name == "second" and not (folder / "hangs").exists():
        time.sleep(0.05)
    (home / "works").touch()
    return loop.Progress(8, {"top1": config.optimizer.learning_rate}, over=True)
    yield

loop.training = training
worker.work(folder)
"""


def postgres(name: str) -> str | None:
    """A program of PostgreSQL's server, which Debian keeps out of PATH."""
    return shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)


@pytest.fixture
def server():
    """The URL of a PostgreSQL server of its own, which listens on a socket in its folder only."""
    pytest.importorskip("psycopg")
    initdb, program = postgres("initdb"), postgres("postgres")
    if not initdb or not program:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        user = {"user": "postgres"} if os.getuid() == 0 else {}  # it refuses to run as root
        if user:
            try:
                shutil.chown(folder, "postgres")
            except LookupError:
                pytest.skip("there is no user postgres")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **user}
        subprocess.run([initdb, "-D", f"{folder}/data", "-U", "me", "--no-sync", "-A", "trust"], check=True, **quiet)
        command = [program, "-D", f"{folder}/data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        process = subprocess.Popen(command, **quiet)
        try:
            yield f"postgresql+psycopg://me:secret@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def reachable(url: str) -> str:
    """`url`, once it answers."""
    end = time.monotonic() + 60
    while True:
        try:
            open_storage(url)
            return url
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@pytest.mark.parametrize("kind", ["journal", "postgresql"])
def test_two_machines_run_each_trial_once_and_one_takes_over_from_the_other(kind, tmp_path, request):
    url = f"journal:///{tmp_path}/trials.log" if kind == "journal" else reachable(request.getfixturevalue("server"))
    folder = tmp_path / "sweep"
    plan = dict(experiment="", config=quickstart.get_config().lock(), space="", metric="top1", lower=False, trials=8)
    plan |= dict(grid={"optimizer.learning_rate": tuple(each / 10 for each in range(1, 9))}, sampler="grid", eta=3)
    begin_sweep(folder, Plan(**plan, sampler_seed=0, pruner="none", rungs=(), storage=without_password(url)))
    assert "secret" not in (folder / "sweep.json").read_text()
    machines = {}
    try:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            surroundings = {"HOME": str(tmp_path / name), STORAGE: url, "PYTHONPATH": os.pathsep.join(sys.path)}
            machines[name] = subprocess.Popen(
                [sys.executable, "-c", MACHINE, str(folder)],
                env={**os.environ, **surroundings},
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        end = time.monotonic() + 120
        while not all((tmp_path / name / "works").exists() for name in machines) and time.monotonic() < end:
            time.sleep(0.05)
        os.killpg(machines["first"].pid, signal.SIGKILL)
        _, said = machines["second"].communicate(timeout=120)
        assert machines["second"].returncode == 0, said
    finally:
        for each in machines.values():
            each.kill()
            each.wait()
    trials = open_sweep(folder, url)[1].records()
    assert [each.value for each in trials] == [each / 10 for each in range(1, 9)]
    ran = sorted((folder / each.workdir / "ran").read_text().split() for each in trials)
    assert ran == sorted([["first"], ["first", "second"], *[["second"]] * 6])
