"""Early stopping, and the best checkpoint by any metric."""

import pytest

from morphism.errors import UserError
from morphism.evaluation.run import open_run
from morphism.runtime.checkpoint import Checkpoints
from morphism.tasks.classification import Classification
from morphism.training import loop
from morphism.training.loop import train
from morphism.training.patience import since_best

pytestmark = pytest.mark.usefixtures("blockless")

VALUES = (0.3, 0.5, 0.5, 0.52, 0.4, 0.51, 0.7)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize(("min_delta", "expected"), [(0.0, (0, 0, 1, 0, 1, 2, 0)), (0.05, (0, 0, 1, 2, 3, 4, 0))])
def test_evaluations_are_counted_since_the_last_better_one(lower, min_delta, expected):
    sign = -1 if lower else 1
    found = [since_best([sign * x for x in VALUES[:n]], lower=lower, min_delta=min_delta) for n in range(1, 8)]
    assert tuple(found) == expected
    assert since_best([], lower=lower, min_delta=min_delta) == 0


@pytest.fixture
def judged(config, monkeypatch):
    """A run of eight evaluations whose losses are these."""
    losses = {1: 0.9, 2: 0.5, 3: 0.7, 4: 0.6, 5: 0.4, 6: 0.8, 7: 0.8, 8: 0.8}
    summarise, evaluation, steps = Classification.summarise, loop.Loop._evaluate, []

    def evaluated(self, step, state):
        steps.append(step)
        return evaluation(self, step, state)

    monkeypatch.setattr(loop.Loop, "_evaluate", evaluated)
    monkeypatch.setattr(
        Classification, "summarise", lambda self, metrics: summarise(self, metrics) | {"loss": losses[steps[-1]]}
    )
    config.data.val_split = "val[:32]"
    config.update(eval_every="1", checkpoint_every="1", best="loss")
    return config


def steps_of(workdir):
    with Checkpoints(workdir, best="loss", lowest=True) as checkpoints:
        return checkpoints.latest(), checkpoints.best()


def test_a_run_stops_after_its_patience_and_the_lowest_loss_is_the_best(judged, tmp_path, monkeypatch, capsys):
    judged.stop.patience = 2
    train(judged, tmp_path / "whole")
    assert steps_of(tmp_path / "whole") == (4, 2) and "stopped early after step 4 of 8: loss" in capsys.readouterr().out
    assert open_run(tmp_path / "whole").facts == {"step": 2}

    record = loop.Writer.record

    def crash(self, step, values):
        record(self, step, values)
        if step == 3 and "val/loss" in values:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(loop.Writer, "record", crash)
        with pytest.raises(RuntimeError):
            train(judged, tmp_path / "cut")
    train(judged, tmp_path / "cut")  # the loss of step 3 is recorded already, and is evaluated again
    assert steps_of(tmp_path / "cut") == (4, 2)
    for _ in range(2):
        train(judged, tmp_path / "cut")
        assert "stopped early after step 4" in capsys.readouterr().out
    assert steps_of(tmp_path / "cut") == (4, 2)

    judged.stop.patience = 3
    train(judged, tmp_path / "cut")
    assert steps_of(tmp_path / "cut") == (8, 5)


def test_a_metric_that_does_not_exist_is_named_with_those_that_do(config, tmp_path):
    config.stop.metric = "los"
    with pytest.raises(UserError, match=r"config.stop.metric is 'los', .* loss, top1, top5; did you mean loss\?"):
        train(config, tmp_path)
    config.update(best="")
    config.stop.update(metric="", patience=1)
    with pytest.raises(UserError, match=r"config.stop.patience: .* set config.stop.metric to one of top1, top5, loss"):
        train(config, tmp_path)
