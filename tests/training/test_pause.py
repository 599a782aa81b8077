"""train(until=...): a run that pauses ends with the bits of one that never paused."""

import json

import pytest

from morphism.errors import UserError
from morphism.runtime.checkpoint import Checkpoints, best_by
from morphism.runtime.digest import digest
from morphism.runtime.stopping import StopRequest
from morphism.training.loop import advance, train

pytestmark = pytest.mark.usefixtures("blockless")


def outcome(workdir, config):
    """Digests of the newest checkpoint and the best, and all evaluations."""
    with Checkpoints(workdir, **best_by(config)) as checkpoints:
        digests = [digest(checkpoints.read(step)) for step in (checkpoints.latest(), checkpoints.best())]
        steps = checkpoints.latest(), checkpoints.best()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return digests, steps, [line for line in lines if any(name.startswith("val/") for name in line)]


def test_a_paused_run_ends_with_the_bits_of_one_that_never_paused(config, tmp_path):
    """It pauses at an evaluation, at a step between two, and at one that has neither evaluation nor checkpoint."""
    config.eval_every, config.checkpoint_every = "4", "2"
    config.data.val_split = "val[:100]"
    whole = train(config, tmp_path / "whole")
    found = [advance(config, tmp_path / "paused", until=step) for step in (3, 4, 7, "7", 8)]
    assert [each.step for each in found] == [3, 4, 7, 7, 8]
    assert [each.paused for each in found] == [True, True, True, True, False] and found[-1].over
    assert all(each.metrics.keys() == whole.keys() for each in found) and found[-1].metrics == whole
    assert outcome(tmp_path / "paused", config) == outcome(tmp_path / "whole", config)
    assert advance(config, tmp_path / "paused", until=8) == found[-1]


def test_a_pause_saves_where_a_run_never_does_and_is_no_evaluation_for_early_stopping(config, tmp_path):
    config.eval_every, config.checkpoint_every = "2", "0"
    config.stop.patience, config.stop.min_delta = 2, 1.0  # the third evaluation ends it: none is better by so much
    config.data.val_split = "val[:100]"
    assert advance(config, tmp_path / "whole").step == 6
    for step in (1, 3, 5):
        assert advance(config, tmp_path / "paused", until=step).step == step
    last = advance(config, tmp_path / "paused", until=7)
    assert last.step == 6 and last.over and not last.paused


def test_a_stop_before_the_pause_is_no_pause(config, tmp_path):
    stop = StopRequest()
    stop.request()
    found = advance(config, tmp_path, until=6, stop=stop)
    assert (found.step, found.over, found.paused) == (1, False, False)
    assert advance(config, tmp_path, until=6).paused


def test_a_pause_before_the_first_step_is_refused(config, tmp_path):
    with pytest.raises(UserError, match="until is 0"):
        train(config, tmp_path, until=0)
