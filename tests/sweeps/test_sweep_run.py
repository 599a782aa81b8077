"""Sweeps from end to end: in this process, and as processes that are killed."""

import argparse
import importlib.util
import random
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from morphism.errors import UserError
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import digest
from morphism.runtime.stopping import StopRequest
from morphism.sweeps.folder import Plan, begin_sweep, open_sweep, read_plan, read_sweep
from morphism.sweeps.space import configured
from morphism.sweeps.tables import of_sweep
from morphism.sweeps.trials import ranked
from morphism.sweeps.worker import Worker, work
from morphism.training import loop
from morphism.training import together as stacked
from morphism.training.loop import train

pytestmark = pytest.mark.usefixtures("blockless")

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


@pytest.fixture
def untrained(monkeypatch):
    """Replaces trainings: a list of (workdir's name, until, stacked); the metric is that of the learning rate alone.

    A checkpoint is an empty folder, and a batch of 12 images breaks.
    """
    started, stacks = [], []

    def training(config, workdir, *, until=None, stop, command, feed):
        started.append((workdir.name, until))
        if config.batch_size == 12:
            raise RuntimeError("something\nbroke")
        step = int(until or config.duration)
        folder = workdir / "checkpoints" / str(step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "arrays").write_text("x" * 100)
        metrics = {"top1": 1 - config.optimizer.learning_rate - 0.5**step + config.seed / 1000}
        return loop.Progress(step, metrics, over=until is None, paused=until is not None)
        yield

    def together(begins):
        stacks.append(len(begins))
        return real(begins)

    real = stacked.together
    monkeypatch.setattr("morphism.training.loop.training", training)
    monkeypatch.setattr("morphism.training.together.together", together)
    return SimpleNamespace(started=started, stacks=stacks)


def records(folder):
    return open_sweep(folder)[1].records()


def test_paused_trials_are_promoted_to_the_bits_of_runs_that_never_paused(plan_of, config, tmp_path):
    """Four trials, one rung, of which the better go on, two at a time in one program."""
    with config.unlocked():
        config.checkpoint_every = "8"
    folder = tmp_path / "sweep"
    plan = plan_of(folder, pruner="median", rungs=("3",), trials=4, stack=2)
    work(folder)
    trials = records(folder)
    assert {each.state for each in trials} == {"complete", "pruned"}
    for each in trials:
        assert list(each.values) == [3, 8][: each.rung] and each.steps == list(each.values)[-1]
        assert (folder / each.workdir / "checkpoints").exists() == (each.state == "complete")
        assert "paused after step 3" in (folder / each.workdir / "log.txt").read_text()

    each = next(each for each in trials if each.state == "complete")
    alone = configured(plan.config, {**each.overrides, "seed": each.seed})
    assert train(alone, tmp_path / "alone")["top1"] == each.value
    assert digest_of(tmp_path / "alone") == digest_of(folder / each.workdir)


def test_a_sweep_without_room_for_checkpoints_ends_with_the_same_trials(plan_of, untrained, tmp_path):
    found = {}
    for name, disk in (("whole", 0), ("small", 1)):
        plan_of(tmp_path / name, pruner="asha", rungs=("2", "4"), trials=6, disk=disk)
        work(tmp_path / name)
        found[name] = [(each.state, each.overrides, each.values) for each in records(tmp_path / name)]
    assert found["small"] == found["whole"] and {state for state, *_ in found["whole"]} == {"complete", "pruned"}
    trials = records(tmp_path / "small")
    assert [list(each.values) for each in trials] == [[2, 4, 8][: each.rung] for each in trials]
    assert all(each.error.startswith("rank") == (each.state == "pruned") for each in trials)
    best = max((each for each in trials if each.state == "complete"), key=lambda each: each.value)
    assert [each for each in trials if (tmp_path / "small" / each.workdir / "checkpoints").exists()] == [best]


def test_a_trial_that_fails_is_marked_and_the_rest_go_on(plan_of, untrained, tmp_path):
    """One of an impossible field, one that raises; nothing is done again when the sweep is started again."""
    (tmp_path / "space.py").write_text(
        'def space(trial):\n    return {"batch_size": trial.suggest_categorical("batch", (16, -1, 12, 8))}\n'
    )
    plan_of(tmp_path / "sweep", sampler="grid", trials=4)
    work(tmp_path / "sweep")
    trials = records(tmp_path / "sweep")
    assert [each.state for each in trials] == ["complete", "failed", "failed", "complete"]
    assert "config.batch_size is -1" in trials[1].error and trials[2].error == "RuntimeError: something broke"
    before = len(untrained.started)
    work(tmp_path / "sweep")
    assert len(untrained.started) == before


def test_a_stack_takes_trials_of_one_program_and_leaves_those_with_which_a_process_died_alone(
    plan_of, untrained, tmp_path
):
    (tmp_path / "space.py").write_text(
        'def space(trial):\n    name = trial.suggest_categorical("name", ("sgd", "adam"))\n'
        '    return {"optimizer.name": name, "seed": trial.suggest_int("seed", 0, 2)}\n'
    )
    folder = tmp_path / "sweep"
    plan_of(folder, sampler="grid", trials=6, stack=3)
    _, store = open_sweep(folder)
    work(folder)
    assert untrained.stacks == [3, 3] and [each.state for each in store.records()] == ["complete"] * 6
    names = [next(each for each in store.records() if each.id == name) for name, _ in untrained.started]
    assert [each.overrides["optimizer.name"] for each in names] == ["sgd"] * 3 + ["adam"] * 3

    plan_of(tmp_path / "deaths", sampler="grid", trials=3, stack=3)
    _, store = open_sweep(tmp_path / "deaths")
    store.add_slot({"deaths": {"count": 1, "rung": 0, "step": 0}})
    work(tmp_path / "deaths")
    assert untrained.stacks[2:] == [1, 2]


def test_the_best_are_repeated_with_other_seeds_and_the_table_leaves_out_the_choice(plan_of, untrained, tmp_path):
    """Also of a sweep that is over, with rungs. Only the search meets these."""
    folder = tmp_path / "sweep"
    plan_of(folder, trials=4, pruner="median", rungs=("2",))
    work(folder)
    search = records(folder)
    plan = plan_of(folder, trials=4, pruner="median", rungs=("2",), repeat_best=2, seeds=3)
    work(folder)
    trials = records(folder)
    assert trials[:4] == search and len(trials) == plan.total == 10
    best = ranked(search, lower=False)
    assert 2 <= len(best) < 4
    assert [each.overrides for each in trials[4:]] == [best[0].overrides] * 3 + [best[1].overrides] * 3
    assert [each.seed for each in trials[4:]] == [1, 2, 3] * 2 and all(list(each.values) == [8] for each in trials[4:])
    table = of_sweep(trials, plan)
    assert [sorted(row.values) for row in table.rows] == [[1, 2, 3]] * 2
    assert f"Only the best of {len(best)} points" in table.notes[1]
    with pytest.raises(UserError, match="trials=4, now it is 5"):
        plan_of(folder, trials=5, pruner="median", rungs=("2",), repeat_best=2, seeds=3)


def test_further_seeds_cut_other_validation_splits_if_asked(plan_of, config, tmp_path):
    plan = plan_of(tmp_path / "sweep", seeds=2, vary_split=True)
    worker = Worker(tmp_path / "sweep", *open_sweep(tmp_path / "sweep"), StopRequest())
    trial = worker._next()
    found = [worker._config(replace(trial, seed=seed)) for seed in (0, 1)]
    assert [(each.seed, each.data.split_seed) for each in found] == [(0, 0), (1, 1)] and plan.per_point == 2


def test_a_sweep_that_was_moved_with_its_storage_goes_on(plan_of, untrained, tmp_path):
    for storage in ("", f"sqlite:///{tmp_path}/old/sweep.db"):
        plan_of(tmp_path / "old", trials=2, storage=storage)
        work(tmp_path / "old")
        (tmp_path / "old").rename(tmp_path / "new")
        assert [each.state for each in read_sweep(tmp_path / "new")[1].records()] == ["complete"] * 2
        plan_of(tmp_path / "new", trials=3, storage=storage)
        work(tmp_path / "new")
        assert len(records(tmp_path / "new")) == 3 and not (tmp_path / "old").exists()
        (tmp_path / "new" / "sweep.db").unlink()
        with pytest.raises(UserError, match="is missing; restore the file"):
            read_sweep(tmp_path / "new")
        shutil.rmtree(tmp_path / "new")


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
    options = argparse.Namespace(trials=2, kills=2, steps=8, images=64, workers=1, pruner="none", pause=0.3, stack=1)
    options.batch, options.pixels = 16, 8  # the programs of the tests above
    options.space = f"{tmp_path}/space.py:space"
    command = fire.command
    monkeypatch.setattr(fire, "command", lambda *args: [*command(*args), "--config.model.options.depth=2"])
    hits = fire.strike(tmp_path / "shot", options, random.Random(0))
    assert [each["target"] for each in hits] == ["both", "worker"]
    plan = read_plan(tmp_path / "shot")
    begin_sweep(tmp_path / "alone", Plan(**vars(plan) | {"storage": f"sqlite:///{tmp_path}/alone/sweep.db"}))
    work(tmp_path / "alone")
    expected = fire.outcome(tmp_path / "alone")
    assert [each[2] for each in expected] == ["complete"] * 2 and all(each[-1] for each in expected)
    assert fire.outcome(tmp_path / "shot") == expected
