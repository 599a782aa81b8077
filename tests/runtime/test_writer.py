import json

import pytest

from morphism.errors import NonFinite
from morphism.runtime import events
from morphism.runtime.writer import Writer


def lines(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_run_takes_back_what_it_will_write_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 4}\n{"step": 4, "val/top1": 1}\n{"step": 5}\n{"step": 6, "train/lo')
    with Writer(tmp_path, 10, resumed_at=4, active=True) as writer:
        writer.record(5, {"train/loss": 1.0})
    assert lines(path) == [1, 4, 4, 5]


@pytest.mark.parametrize("end", [b"\0" * 9, b"\xff\xfe\n", b"3\n", b"{}\n", b'{"step": "4"}\n'])
def test_what_a_crash_left_at_the_end_is_taken_back(tmp_path, end):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 4}\n' + end)
    with Writer(tmp_path, 10, resumed_at=4, active=True) as writer:
        writer.record(5, {"train/loss": 1.0})
    assert lines(path) == [1, 4, 5]


def test_only_the_active_process_writes(tmp_path):
    with Writer(tmp_path, 10, resumed_at=0, active=False) as writer:
        writer.record(1, {"train/loss": 1.0})
        writer.say("nothing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("evaluates_again", [False, True])
def test_tensorboard_has_what_metrics_jsonl_has_after_a_kill_at_any_byte(tmp_path, evaluates_again):
    killed = Writer(tmp_path, 10, resumed_at=0, active=True)  # never closed
    for step in (1, 4, 6):
        killed.record(step, {"train/loss": 1.0 / step})
        killed.record(step, {"val/top1": 0.5})
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes() + b"\x20\0\0")  # of a record that was under way
    with Writer(tmp_path, 10, resumed_at=4, active=True, evaluates_again=evaluates_again) as writer:
        if evaluates_again:
            writer.record(4, {"val/top1": 0.5})
        writer.record(6, {"train/loss": 0.25})
    found = [
        (line["step"], name)
        for line in map(json.loads, (tmp_path / "metrics.jsonl").open())
        for name in line
        if "/" in name
    ]
    drawn = [
        (event.step, value.tag)
        for path in sorted((tmp_path / "tensorboard").iterdir())
        for _, event in events.records(path.read_bytes())
        for value in event.summary.value
    ]
    assert sorted(drawn) == sorted(found)
    assert found == [(1, "train/loss"), (1, "val/top1"), (4, "train/loss"), (4, "val/top1"), (6, "train/loss")]


def test_a_number_that_json_cannot_hold_is_an_error(tmp_path):
    with Writer(tmp_path, 10, resumed_at=0, active=True) as writer, pytest.raises(NonFinite, match="step 3: x is nan"):
        writer.record(3, {"x": float("nan")})


def test_no_speed_is_reported_for_an_interval_that_was_not_measured(tmp_path, capsys):
    with Writer(tmp_path, 10, resumed_at=0, active=True) as writer:
        writer.training_line(1, {"train/loss": 2.0}, 100)
        writer.training_line(2, {"train/loss": 2.0, "train/images_per_s": 20.0, "train/input_wait": 0.5}, 100)
    assert capsys.readouterr().out.splitlines() == [
        "step 1/10  loss 2.000",
        "step 2/10  loss 2.000  20 images/s  input wait 50 %  eta 5 s",
    ]
