"""Sweeps from end to end: in this process, and as processes that are killed."""

import argparse
import importlib.util
import random
from pathlib import Path

import pytest

from morphism.errors import UserError
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import digest
from morphism.sweeps.folder import Plan, begin_sweep, open_sweep, read_plan
from morphism.sweeps.space import configured
from morphism.sweeps.worker import work
from morphism.training.loop import train

ROOT = Path(__file__).parent.parent.parent
SPACE = """
def space(trial):
    rate = trial.suggest_float("rate", 0.001, 0.5, log=True)
    return {"optimizer.learning_rate": rate, "optimizer.weight_decay": trial.suggest_float("decay", 0.0, 0.01)}
"""


@pytest.fixture
def plan_of(config, tmp_path):
    config.data.val_split = "val[:64]"
    config.eval_every = config.checkpoint_every = "0"
    (tmp_path / "space.py").write_text(SPACE)

    def make(folder, **values):
        storage = f"sqlite:///{folder}/sweep.db"
        given = dict(experiment="", config=config.lock(), space=f"{tmp_path}/space.py:space", grid={}, metric="top1")
        given |= dict(lower=False, sampler="random", sampler_seed=0, pruner="none", rungs=(), eta=3, trials=3)
        return begin_sweep(folder, Plan(**given | {"storage": storage} | values))

    return make


def digest_of(workdir):
    with Checkpoints(workdir) as checkpoints:
        return digest(checkpoints.read(checkpoints.latest()))


def test_paused_trials_are_promoted_to_the_bits_of_runs_that_never_paused(plan_of, config, tmp_path):
    """Six trials, two rungs, a third goes on; and without room for checkpoints they train again to the same bits."""
    with config.unlocked():
        config.checkpoint_every = "8"
    folder = tmp_path / "sweep"
    plan = plan_of(folder, pruner="asha", rungs=("2", "4"), trials=6)
    work(folder)
    trials = open_sweep(folder)[1].records()
    assert [each.number for each in trials] == list(range(6)) and all(each.over for each in trials)
    promoted = [each for each in trials if each.rung > 1]
    complete = [each for each in trials if each.state == "complete"]
    assert len(promoted) >= 2 and len(complete) >= 1
    for each in trials:
        assert list(each.values) == [2, 4, 8][: each.rung] and each.steps == list(each.values)[-1]
        assert (folder / each.workdir / "checkpoints").exists() == (each.state == "complete")
        assert each.error.startswith("rank") == (each.state == "pruned")

    each = complete[0]
    alone = configured(plan.config, {**each.overrides, "seed": each.seed})
    assert train(alone, tmp_path / "alone")["top1"] == each.value
    assert digest_of(tmp_path / "alone") == digest_of(folder / each.workdir)

    small = tmp_path / "small"
    plan_of(small, pruner="asha", rungs=("2", "4"), trials=6, disk=1)
    work(small)
    again = open_sweep(small)[1].records()
    assert [(a.state, a.overrides, a.values) for a in again] == [(a.state, a.overrides, a.values) for a in trials]
    kept = [each for each in again if (small / each.workdir / "checkpoints").exists()]
    assert [each.number for each in kept] == [max(complete, key=lambda each: (each.value, -each.number)).number]


def test_a_trial_that_fails_is_marked_and_the_rest_go_on(plan_of, tmp_path, monkeypatch):
    """One of an impossible field, one that raises; nothing is done again when the sweep is started again."""
    (tmp_path / "space.py").write_text(
        'def space(trial):\n    return {"batch_size": trial.suggest_categorical("batch", (16, -1, 12, 8))}\n'
    )
    folder = tmp_path / "sweep"
    plan_of(folder, sampler="grid", trials=4)
    started, advance = [], worker_advance()

    def broken(config, workdir, **others):
        started.append(config.batch_size)
        if config.batch_size == 12:
            raise RuntimeError("something\nbroke")
        return advance(config, workdir, **others)

    monkeypatch.setattr("morphism.training.loop.advance", broken)
    work(folder)
    trials = open_sweep(folder)[1].records()
    assert [each.state for each in trials] == ["complete", "failed", "failed", "complete"]
    assert "config.batch_size is -1" in trials[1].error and trials[2].error == "RuntimeError: something broke"
    work(folder)
    assert started == [16, 12, 8]


def worker_advance():
    from morphism.training.loop import advance

    return advance


def test_a_sweep_goes_on_only_as_it_began_and_may_get_longer(plan_of, config, tmp_path):
    folder = tmp_path / "sweep"
    first = plan_of(folder)
    assert plan_of(folder, trials=5).name == first.name and read_plan(folder).trials == 5
    for values, words in (
        ({"pruner": "median", "rungs": ("2",)}, "pruner='none', now it is 'median'"),
        ({"metric": "loss", "lower": True}, "metric='top1', now it is 'loss'"),
        ({"grid": {"batch_size": (8, 16)}, "space": ""}, "batch_size from nothing, now it is from Categorical"),
    ):
        with pytest.raises(UserError, match=words):
            plan_of(folder, **values)
    (tmp_path / "space.py").write_text(SPACE.replace("0.5", "0.4"))
    with pytest.raises(UserError, match=r"rate from FloatDistribution\(high=0.5.*now it is .*high=0.4"):
        plan_of(folder)
    (tmp_path / "space.py").write_text(SPACE.replace(": rate", ": rate / 2"))
    with pytest.raises(UserError, match="other overrides of the same values"):
        plan_of(folder)
    (tmp_path / "space.py").write_text(SPACE)
    with config.unlocked():
        config.log_every = "5"
        plan_of(folder)
        config.batch_size = 8
    with pytest.raises(UserError, match="config.batch_size=16, now it is 8"):
        plan_of(folder)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run, not a sweep"):
        plan_of(tmp_path / "run")


def test_killed_again_and_again_it_ends_as_undisturbed(tmp_path, monkeypatch):
    """All processes are killed, then a worker; the same command ends with the values and bits of an undisturbed sweep.

    That one runs in this process, on as many devices.
    """
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("sweep_under_fire", ROOT / "benchmarks" / "sweep_under_fire.py")
    fire = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fire)
    (tmp_path / "space.py").write_text(SPACE)
    options = argparse.Namespace(trials=3, kills=2, steps=8, images=64, workers=1, pruner="none", pause=0.3)
    options.space = f"{tmp_path}/space.py:space"
    hits = fire.strike(tmp_path / "shot", options, random.Random(0))
    assert [each["target"] for each in hits] == ["both", "worker"]
    plan = read_plan(tmp_path / "shot")
    begin_sweep(tmp_path / "alone", Plan(**vars(plan) | {"storage": f"sqlite:///{tmp_path}/alone/sweep.db"}))
    work(tmp_path / "alone")
    expected = fire.outcome(tmp_path / "alone")
    assert [each[2] for each in expected] == ["complete"] * 3 and all(each[-1] for each in expected)
    assert fire.outcome(tmp_path / "shot") == expected
