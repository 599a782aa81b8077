import json

from training.writer import Writer


def lines(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_run_takes_back_what_it_will_write_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 4}\n{"step": 4, "val/top1": 1}\n{"step": 5}\n{"step": 6, "train/lo')
    with Writer(tmp_path, 10, resumed_at=4, active=True) as writer:
        writer.record(5, {"train/loss": 1.0})
    assert lines(path) == [1, 4, 4, 5]


def test_only_the_active_process_writes(tmp_path):
    with Writer(tmp_path, 10, resumed_at=0, active=False) as writer:
        writer.record(1, {"train/loss": 1.0})
        writer.say("nothing")
    assert list(tmp_path.iterdir()) == []
