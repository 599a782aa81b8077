"""The recipes of docs/launch, with the programs of a cluster replaced by scripts."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from morphism.commands.train import COMMAND

LAUNCH = Path(__file__).parents[1] / "docs" / "launch"
FLAGS = {"distributed", "coordinator", "num_processes", "process_id", "stopped_status", "workdir", "config"}


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """pretend(name, *statuses): a program that notes its arguments in the file `calls`, and ends with these in turn."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PAUSE", "0")

    def make(name, *statuses):
        program = tmp_path / name
        cases = "".join(f"{n}) exit {status};; " for n, status in enumerate(statuses, 1))
        count = f"$(grep -c '^{name} ' {calls})"
        program.write_text(f'#!/bin/bash\necho "{name} $*" >> {calls}\ncase {count} in {cases}*) exit 0;; esac\n')
        program.chmod(0o755)
        return lambda: [line for line in calls.read_text().splitlines() if line.startswith(f"{name} ")]

    return make


def launch(script, *arguments):
    return subprocess.run([LAUNCH / script, *arguments], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(("status", "restarts", "requeued"), [(0, 0, 0), (75, 50, 1), (2, 3, 1), (2, 20, 0)])
def test_a_slurm_job_that_has_not_ended_requeues_itself(pretend, monkeypatch, status, restarts, requeued):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    steps, requeues = pretend("srun", status), pretend("scontrol")
    done = launch("slurm.sh", "--workdir", "runs/a b")
    assert len(steps()) == 1 and steps()[0].endswith("--workdir runs/a b")
    assert requeues() == ["scontrol requeue 7"] * requeued
    assert done.returncode == (status if not requeued else 0)


def test_hosts_start_again_with_those_that_the_file_names_then(pretend, tmp_path):
    starts = pretend("ssh", 0, 75, 0, 0)
    (tmp_path / "hosts").write_text("one\ntwo\n")
    assert launch("hosts.sh", str(tmp_path / "hosts"), "/code", "--workdir", "/shared/r").returncode == 0
    assert len(starts()) == 4 and sum("--process_id 1" in line for line in starts()) == 2
    assert all("--coordinator one:1234 --num_processes 2" in line for line in starts())


def test_a_slice_of_tpus_starts_again_until_the_run_has_ended(pretend):
    starts = pretend("gcloud", 75, 255, 0)
    assert launch("tpu_vm.sh", "pod", "zone", "--workdir", "gs://b/r").returncode == 0
    assert len(starts()) == 3 and "--stopped_status 75 --workdir gs://b/r" in starts()[0]


def test_the_pods_find_one_another():
    service, job = yaml.safe_load_all((LAUNCH / "gke.yaml").read_text())
    name, spec = service["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    command = pod["containers"][0]["command"]
    given = dict(each.removeprefix("--").partition("=")[::2] for each in command[2:])
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]} and pod["subdomain"] == name
    assert given["coordinator"] == f"{job['metadata']['name']}-0.{name}:1234"
    assert int(given["num_processes"]) == spec["completions"] == spec["parallelism"]


def test_every_flag_of_the_recipes_exists():
    text = "".join(path.read_text() for path in LAUNCH.iterdir())
    for flag in FLAGS - {"config"}:
        assert f"--{flag}" in text and flag in COMMAND.flags
