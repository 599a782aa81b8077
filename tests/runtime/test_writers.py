"""The writers of other libraries: the real ones, offline, where they are installed."""

import os
import struct
import threading
import time
from pathlib import Path

import pytest

from morphism.errors import UserError
from morphism.runtime import events, writers
from morphism.runtime.writer import Writer
from morphism.runtime.writers import background
from morphism.runtime.writers.background import Background, Opening

RUN = ((1, {"train/loss": 1.0}), (4, {"train/loss": 0.25, "train/rate": 1.0}), (4, {"val/top1": 0.5}))
LOST = ((5, {"train/loss": 0.2}), (6, {"train/loss": 0.1}))  # after the checkpoint of step 4
AGAIN = (*LOST, (8, {"train/loss": 0.05}))
POINTS = {(step, name): value for step, values in (*RUN, *AGAIN) for name, value in values.items()}


def write(workdir, name, resumed_at, records, config=None):
    with Writer(workdir, 10, resumed_at, active=True, writers=(name,), config=config) as writer:
        for step, values in records:
            writer.record(step, values)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(name): the workdir of a run that was killed at step 6 and resumed from 4; nothing was complained about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(background, "CLOSING", 300)  # a busy machine takes long to import these libraries

    def made(name):
        pytest.importorskip(name)
        write(tmp_path / "first", name, 0, (*RUN, *LOST), {"seed": 3, "data.source": "embedded"})
        time.sleep(1 - time.time() % 1)  # W&B names the folder of a start by the second
        write(tmp_path / "first", name, 4, AGAIN, {"seed": 3, "data.source": "embedded"})
        assert "metrics.jsonl has all values" not in capsys.readouterr().out
        return tmp_path / "first"

    (tmp_path / "first").mkdir()
    return made


def test_mlflow_has_each_point_of_a_resumed_run_once_in_one_run(run, tmp_path, monkeypatch):
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'tracked.db'}")
    run("mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("morphism").experiment_id])
    assert found.info.run_name == "first" and found.info.status == "FINISHED"
    assert found.data.params == {"seed": "3", "data.source": "embedded"}
    points = [
        ((point.step, name), point.value)
        for name in found.data.metrics
        for point in client.get_metric_history(found.info.run_id, name)
    ]
    assert len(points) == len(POINTS) and dict(points) == POINTS


def log_records(content):
    """The records of a log as LevelDB writes it (doc/log_format.md), short enough for one block, after W&B's header."""
    start = 7
    while start < len(content):
        _, length, kind = struct.unpack_from("<IHB", content, start)
        assert kind == 1, "a record in several parts"
        yield content[start + 7 : start + 7 + length]
        start += 7 + length


def test_wandb_has_each_point_of_a_resumed_run_once_in_one_run(run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    workdir = run("wandb")
    from wandb.proto import wandb_internal_pb2

    points, runs = [], set()
    for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb")):
        for content in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            if record.HasField("run"):
                runs.add((record.run.run_id, record.run.display_name))
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                points.append((record.history.step.num, name, item.value_json))
    assert len(runs) == 1 and runs.pop()[1] == "first"
    points = [((step, name), float(value)) for step, name, value in points if not name.startswith("_")]
    assert len(points) == len(POINTS) and dict(points) == POINTS


def test_aim_has_each_point_of_a_resumed_run_once_in_one_run(run, tmp_path):
    workdir = run("aim")
    aim = pytest.importorskip("aim")
    repository = aim.Repo.from_path(str(tmp_path))
    (found,) = repository.list_all_runs()
    assert Opening(workdir, {}, print).known("aim")["run"] == found
    again = aim.Run(found, repo=repository, system_tracking_interval=None, capture_terminal_logs=False)
    points = [
        (metric.name, pytest.approx(value))  # Aim stores hashes of the steps
        for metric in again.metrics()
        for value in metric.values.sparse_list()[1]
    ]
    assert sorted(points, key=str) == sorted(((name, value) for (_, name), value in POINTS.items()), key=str)
    again.close()


class Gone:
    OVERWRITES = False

    def record(self, step, values):
        raise ConnectionError("no route to host\nat all")

    def images(self, step, images):
        raise AssertionError

    def close(self):
        raise ConnectionError("still none")


def test_a_service_that_fails_is_reported_once(tmp_path):
    said = []
    writer = Background("mlflow", Gone, Opening(tmp_path, {}, said.append))
    for step in range(3):
        writer.record(step + 1, {"train/loss": 1.0})
    writer.close()
    assert said == [
        "mlflow: did not take step 1 (no route to host at all); the training goes on, and metrics.jsonl has all values"
    ]


def test_a_run_that_has_nothing_to_write_opens_no_service(tmp_path):
    def never():
        raise AssertionError

    said = []
    Background("aim", never, Opening(tmp_path, {}, said.append)).close()
    assert said == [] and list(tmp_path.iterdir()) == []


def test_a_service_that_does_not_answer_delays_nothing(tmp_path, monkeypatch):
    said, answered = [], threading.Event()

    def late():
        answered.wait()
        return Gone()

    writer = Background("wandb", late, Opening(tmp_path, {}, said.append))
    writer.record(1, {"train/loss": 1.0})
    monkeypatch.setattr(background, "CLOSING", 0.1)
    writer.close()
    (line,) = said
    assert line.startswith("wandb: did not take everything within 0.1 s; ")
    answered.set()


def test_a_missing_package_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"config.writers: aim is not installed; pip install 'morphism\[aim\]'"):
        writers.check_installed(("tensorboard", "aim"))
    writers.check_installed(("tensorboard",))


def test_each_extra_is_declared():
    text = (Path(__file__).parents[2] / "setup.cfg").read_text()
    assert all(f"\n{name} = {name}>=" in text for name in writers.EXTRA)


def test_event_files_are_those_that_tensorboard_reads(tmp_path):
    """Checksums: the check value of CRC-32C (RFC 3720, B.4); messages: bytes by hand from event.proto."""
    assert events._checksum(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    ((_, event),) = events.records(events.of(3, {"a": 0.0}))
    event.ClearField("wall_time")
    assert event.SerializeToString() == b"\x10\x03\x2a\x0a\x0a\x08\x0a\x01a\x15" + struct.pack("<f", 0)


def test_images_are_shown_with_their_size(tmp_path):
    png = (Path(__file__).parents[2] / "docs/quickstarts.png").read_bytes()
    with Writer(tmp_path, 10, 0, active=True) as writer:
        writer.images(2, {"val/examples": png})
    (file,) = (tmp_path / "tensorboard").iterdir()
    *_, (_, event) = events.records(file.read_bytes())
    (value,) = event.summary.value
    height, width = struct.unpack(">II", png[16:24])[::-1]
    assert (value.tag, value.image.height, value.image.width) == ("val/examples", height, width)
    assert value.image.encoded_image_string == png
    assert os.path.basename(file).startswith("events.out.tfevents.")
