"""What a shared cluster does to a run: kills, full disks, second starts, several processes."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import forked
import jax
import numpy as np
import pytest
from test_commands import MORPHISM, ROOT, SMALL, ours, run, train

from morphism.runtime.checkpoint import Checkpoints
from morphism.training.meter import TIMED

ENDLESS = ("--config.duration=100k", "--config.schedule.warmup=1", "--config.checkpoint_every=50")


def start(workdir, *more, devices=1):
    command = ["train.py", "--config=experiments/quickstart.py", f"--workdir={workdir}", *SMALL, *more]
    return forked.Process(command, devices)


def wait_for(process, words):
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(process.stderr.read())


def test_a_run_killed_at_every_kind_of_moment_ends_with_the_same_bits(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import resume_under_fire

    def start(command, workdir):
        return forked.Process([*command[1:], f"--workdir={workdir}"], devices=1)

    monkeypatch.setattr(resume_under_fire, "start", start)
    flags = ("--kills=4", "--steps=44", "--config.data.val_split=val[:200]", "--config.model.options.depth=2")
    monkeypatch.setattr(sys, "argv", ["resume_under_fire.py", *flags])
    with pytest.raises(SystemExit) as ended:
        resume_under_fire.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0 and "after 4 kills: latest equal, best equal, metrics equal" in out


def test_a_second_run_on_a_workdir_is_refused_until_the_first_is_dead(tmp_path):
    first = start(tmp_path / "run", *ENDLESS)
    try:
        wait_for(first, "first step done")
        second = train(tmp_path / "run", *ENDLESS)
        assert second.returncode == 2
        assert f"process {first.pid} on {socket.gethostname()} is training here" in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
    finally:
        first.kill()
        first.communicate()
    assert Path(tmp_path / "run" / "lock").exists()
    again = start(tmp_path / "run", *ENDLESS)
    wait_for(again, "first step done")
    again.kill()
    again.communicate()


@pytest.mark.parametrize(
    ("number", "more", "status"), [(signal.SIGTERM, ("--stopped_status=75",), 75), (signal.SIGINT, (), 0)]
)
def test_a_signal_saves_and_exits_with_one_line_that_says_how_to_go_on(tmp_path, number, more, status):
    process = start(tmp_path / "run", *ENDLESS, "--config.data.workers=1", *more)
    wait_for(process, "first step done")
    time.sleep(1)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status and err == ""
    assert "saved; the same command goes on from step" in out.strip().splitlines()[-1]
    step = out.strip().rsplit(" ", 1)[-1]
    assert (tmp_path / "run" / "checkpoints" / step).is_dir()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2.5 MB; its remount(size) makes room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield disk, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_told_keeps_the_earlier_checkpoints_and_the_run_goes_on_with_room(small_disk, tmp_path):
    disk, remount = small_disk
    more = ("--config.duration=12", "--config.keep=10", "--config.model.options.depth=8")
    full = train(disk / "run", *more)
    assert full.returncode == 2
    assert "No space left on device" in full.stderr and "start the same command again" in full.stderr
    assert len(full.stderr.strip().splitlines()) == 1
    assert any(path.name.isdigit() for path in (disk / "run" / "checkpoints").iterdir())
    remount("50m")
    again = run("train.py", "--workdir", str(disk / "run"))  # which has the configuration
    assert again.returncode == 0 and "going on from step" in again.stdout, again.stderr
    assert train(tmp_path / "roomy", *more).returncode == 0
    digests = [run(*MORPHISM, "digest", str(workdir)).stdout for workdir in (disk / "run", tmp_path / "roomy")]
    assert digests[0] == digests[1] != ""


def test_after_20_steps_1_2_and_8_devices_have_the_same_parameters(tmp_path):
    """Up to rounding: at most 1e-5 of what devices change that normalise each by itself.

    In deeper networks 20 steps blow rounding up: a sum in another order flips the sign before a ReLU here and there.
    """
    more = (
        "--config.duration=20",
        "--config.batch_size=32",
        "--config.checkpoint_every=20",
        "--config.log_every=20",
        "--config.model.sync_bn=True",
        "--config.optimizer.learning_rate=0.01",
        "--config.augment.mixup_alpha=0.2",
        "--config.data.train_crop=random_resized",
    )

    def parameters(name, devices, *changes):
        done = train(tmp_path / name, *more, *changes, devices=devices)
        assert done.returncode == 0, done.stderr
        with Checkpoints(tmp_path / name) as checkpoints:
            return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(checkpoints.read(20)["params"])])

    one = parameters("1", 1)
    of_its_own = np.linalg.norm(parameters("own", 8, "--config.model.sync_bn=False") - one)
    assert of_its_own > 1e-3 * np.linalg.norm(one)
    for devices in (2, 8):
        assert np.linalg.norm(parameters(str(devices), devices) - one) < 1e-5 * of_its_own


def test_two_processes_that_share_a_state_and_then_one_process_train_as_one_does(tmp_path):
    """Two processes of two devices hold a quarter of the state per device; one process with whole copies goes on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = ("--distributed", f"--coordinator=localhost:{port}", "--num_processes=2")
    constant = ("--config.schedule.name=constant", "--config.schedule.warmup=0", "--config.model.sync_bn=True")
    slow = "--config.optimizer.learning_rate=0.02"  # small, so that roundings stay small, too
    deep = "--config.model.options.depth=8"  # whose last kernels are large enough to be shared
    more = (*constant, slow, deep, "--config.checkpoint_every=2", "--config.eval_every=4", "--config.duration=6")
    two = (*more, "--config.duration=4", "--config.mesh.fsdp=4", *flags)
    processes = [start(tmp_path / "two", *two, f"--process_id={index}", devices=2) for index in range(2)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "step 4/4" in outputs[0][0]
    assert ours(outputs[1][0]) == ""  # only process 0 speaks
    goes_on = train(tmp_path / "two", *more, devices=4)
    assert goes_on.returncode == 0 and "config.mesh.fsdp=4, now it is 1" in goes_on.stdout, goes_on.stderr
    assert train(tmp_path / "one", *more, devices=4).returncode == 0

    def metrics(name):
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]

    two, one = metrics("two"), metrics("one")
    assert len(two) == len(one)
    for a, b in zip(two, one, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


def test_a_lost_process_ends_the_others_within_a_minute(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = ("--distributed", f"--coordinator=localhost:{port}", "--num_processes=2")
    processes = [start(tmp_path / "run", *ENDLESS, *flags, f"--process_id={index}") for index in range(2)]
    try:
        wait_for(processes[0], "first step done")
        processes[1].kill()
        killed = time.monotonic()
        _, err = processes[0].communicate(timeout=120)
        assert time.monotonic() - killed < 60
        assert processes[0].returncode == 2
        assert len(err.splitlines()) == 1 and "error: another process of the run is lost" in err
    finally:
        for process in processes:
            process.kill()
