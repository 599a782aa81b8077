"""Whole runs, in this process, on the embedded images."""

import json
import os
import shutil
import signal
import weakref
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from morphism.data import sources
from morphism.data.pipeline import train_batches
from morphism.data.records import Source
from morphism.errors import NonFinite, UserError
from morphism.evaluation.run import open_run
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import digest
from morphism.runtime.manifest import read_config
from morphism.runtime.signals import StopSignals
from morphism.training import build, loop, validation
from morphism.training.clock import DeviceClock
from morphism.training.loop import NonFiniteLoss, train
from morphism.training.meter import TIMED, Meter
from morphism.training.state import not_finite

pytestmark = pytest.mark.usefixtures("blockless")


def digest_of(workdir, step):
    with Checkpoints(workdir, best=read_config(workdir).best) as checkpoints:
        return digest(checkpoints.read(step))


def metrics_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(step, how): calls `how` when the training loop starts step `step`."""

    def arrange(at_step, how):
        build = loop.build

        def build_interrupted(*args):
            parts = build(*args)

            def interrupted(state, *others):
                if int(state.step) + 1 == at_step:
                    how()
                return parts.programs.train_step(state, *others)

            return replace(parts, programs=replace(parts.programs, train_step=interrupted))

        monkeypatch.setattr(loop, "build", build_interrupted)

    yield arrange
    monkeypatch.undo()


@pytest.fixture
def interrupt_evaluation(monkeypatch):
    """interrupt_evaluation(count, how): calls `how` at the first batch of the evaluation of this number, from 1."""

    def arrange(number, how):
        seen, predict = [], validation.predict

        def interrupted(*args, **options):
            seen.append(0)
            for batch in predict(*args, **options):
                if len(seen) == number:
                    how()
                    seen.append(0)
                yield batch

        monkeypatch.setattr(validation, "predict", interrupted)

    yield arrange
    monkeypatch.undo()


class Crash(Exception):
    pass


def crash():
    raise Crash


@pytest.mark.parametrize(("optimizer", "evaluating", "newest"), [("nesterov", False, 4), ("adamw", True, 6)])
def test_resumed_run_ends_with_the_same_bits(
    config, tmp_path, interrupt, interrupt_evaluation, monkeypatch, optimizer, evaluating, newest
):
    config.optimizer.name = optimizer
    config.ema.decay = 0.9
    config.eval_every = "3"
    undisturbed = train(config, tmp_path / "a")
    (interrupt_evaluation if evaluating else interrupt)(2 if evaluating else 6, crash)
    with pytest.raises(Crash):
        train(config, tmp_path / "b")
    with Checkpoints(tmp_path / "b", best="top1") as checkpoints:
        assert checkpoints.latest() == newest and checkpoints.metrics(6) is None
    monkeypatch.undo()
    assert train(config, tmp_path / "b") == undisturbed
    assert digest_of(tmp_path / "a", 8) == digest_of(tmp_path / "b", 8)
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    best = []
    for workdir in (tmp_path / "a", tmp_path / "b"):
        with Checkpoints(workdir, best="top1") as checkpoints:
            best.append((checkpoints.best(), checkpoints.steps()))
    assert best[0] == best[1]


def test_sigterm_finishes_the_step_saves_and_the_same_command_goes_on(
    config, tmp_path, interrupt, interrupt_evaluation, monkeypatch, capsys
):
    config.eval_every = "5"
    train(config, tmp_path / "a")
    interrupt(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with StopSignals() as stop:
        train(config, tmp_path / "b", stop=stop)
    assert (
        "stopped by a signal after step 3 of 8, saved; the same command goes on from step 3" in capsys.readouterr().out
    )
    with Checkpoints(tmp_path / "b") as checkpoints:
        assert checkpoints.latest() == 3
    monkeypatch.undo()
    interrupt_evaluation(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with StopSignals() as stop:
        assert train(config, tmp_path / "b", stop=stop) == {}
    assert "step 5 of 8, saved; the same command goes on from step 5, with its evaluation" in capsys.readouterr().out
    monkeypatch.undo()
    train(config, tmp_path / "b")
    evaluated = [[line for line in metrics_of(tmp_path / name) if "val/top1" in line] for name in "ab"]
    assert evaluated[0] == evaluated[1] and [line["step"] for line in evaluated[0]] == [5, 8]
    assert digest_of(tmp_path / "a", 8) == digest_of(tmp_path / "b", 8)


def test_a_finished_run_started_again_changes_nothing(config, tmp_path, capsys):
    results = train(config, tmp_path)
    before = metrics_of(tmp_path)
    assert train(config, tmp_path) == results
    assert "finished at step 8" in capsys.readouterr().out
    assert metrics_of(tmp_path) == before


def test_a_run_that_evaluates_on_the_records_that_it_trains_on_says_so(config, tmp_path, capsys):
    config.update(duration="1", checkpoint_every="0")
    config.schedule.warmup = "0"
    for train_split, says in (("train[:72]", False), (config.data.val_split, True)):
        config.data.train_split = train_split
        train(config, tmp_path / str(says))
        assert ("trains and evaluates on the same records" in capsys.readouterr().out) == says


def test_a_workdir_that_only_etils_reaches_is_used_as_a_store_and_reported_to_have_no_lock(config, tmp_path, capsys):
    config.duration = "4"
    store = epath.Path(tmp_path)
    train(config, store)
    assert f"{store} cannot be locked" in capsys.readouterr().out
    assert not (tmp_path / "lock").exists()
    config.duration = "6"
    train(config, store)
    output = capsys.readouterr().out
    assert "config.duration='4', now it is '6'" in output and "going on from step 4 of 6" in output
    assert [line["step"] for line in metrics_of(tmp_path)] == [2, 4, 4, 6, 6]
    assert open_run(store, "best").facts["step"] in (4, 6)


def test_the_newest_and_the_best_checkpoints_are_kept(config, tmp_path):
    config.duration = "10"
    config.eval_every = "2"
    config.keep = 2
    train(config, tmp_path)
    scores = {line["step"]: line["val/top1"] for line in metrics_of(tmp_path) if "val/top1" in line}
    assert sorted(scores) == [2, 4, 6, 8, 10]
    with Checkpoints(tmp_path, best="top1") as checkpoints:
        assert scores[checkpoints.best()] == max(scores.values())
        assert checkpoints.steps() == sorted({8, 10, checkpoints.best()})


def test_without_checkpoints_the_run_works_and_writes_none(config, tmp_path):
    config.checkpoint_every = "0"
    assert train(config, tmp_path)["top1"] > 0
    assert not any((tmp_path / "checkpoints").glob("[0-9]*"))


def test_a_loss_that_is_not_finite_stops_the_run_names_the_step_and_saves_nothing_broken(config, tmp_path):
    config.optimizer.update(learning_rate=1e30, name="sgd")
    config.schedule.update(name="constant", warmup="0")
    with pytest.raises(
        NonFiniteLoss, match=r"step [2-4]: (loss|grad_norm) is (nan|inf), on examples (\d+, ){15}\d+;.*learning_rate"
    ):
        train(config, tmp_path)
    assert not any((tmp_path / "checkpoints").glob("[0-9]*"))


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(config, tmp_path):
    config.schedule.update(name="step", boundaries=("5",), factor=1e30, warmup="0")
    with pytest.raises(NonFiniteLoss, match=r"step [6-8]: "):
        train(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").glob("[0-9]*")] == ["4"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(open_run(tmp_path, "latest").variables))


def test_an_evaluation_that_is_not_finite_ends_the_run_and_is_never_the_best(config, tmp_path):
    config.schedule.update(name="step", boundaries=("7",), factor=1e25, warmup="0")
    with pytest.raises(NonFiniteLoss, match=r"step 8: .*: the network's outputs are not finite.*learning_rate"):
        train(config, tmp_path)
    with Checkpoints(tmp_path, best="top1") as checkpoints:
        assert checkpoints.steps() == [4, 8] and checkpoints.best() is None
    run, source = open_run(tmp_path, "latest"), sources.load(config.data, "val")
    with pytest.raises(NonFinite, match="outputs are not finite"):
        next(run.predictions(source, print))


def test_an_update_that_is_not_finite_is_not_saved():
    variables = {"params": {"fc": {"kernel": np.ones((2, 2)), "bias": np.array([0, np.inf])}}, "ema": np.ones(3)}
    assert not_finite(variables) == ["params.fc.bias"]


def test_an_evaluation_size_that_the_network_cannot_take_is_refused_before_anything_runs(config):
    config.model.update(name="alexnet")
    config.model.options = ConfigDict()
    config.data.update(image_size=63, resize_size=63, eval_size=8)
    with pytest.raises(UserError, match="config.data.eval_size: the network cannot evaluate images of 8x8"):
        loop.build(config)


def test_a_workdir_of_another_configuration_is_refused(config, tmp_path):
    train(config, tmp_path)
    config.optimizer.learning_rate = 0.5
    with pytest.raises(UserError, match="holds a run with config.optimizer.learning_rate=0.2, now it is 0.5"):
        train(config, tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(config, tmp_path):
    config.duration = "4"
    train(config, tmp_path / "small")
    config.model.options.depth = 8
    with pytest.raises(UserError, match="config.model.options.depth"):
        train(config, tmp_path / "small")
    config.duration = config.checkpoint_every = "1"
    config.schedule.warmup = "0"
    train(config, tmp_path / "large")
    shutil.rmtree(tmp_path / "large" / "checkpoints")
    shutil.copytree(tmp_path / "small" / "checkpoints", tmp_path / "large" / "checkpoints")
    message = r"layer1\.0\.bn1\.mean is absent there and \(16,\) in this model"
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "large")
    with pytest.raises(UserError, match=message):
        open_run(tmp_path / "large", "latest")


@dataclass(frozen=True)
class Turned:
    """The records of `source` with its classes numbered from the last to the first."""

    source: Source

    @property
    def classes(self):
        return self.source.classes[::-1]

    @property
    def targets(self):
        return {"label": self.classes}

    @property
    def labels(self):
        return len(self.classes) - 1 - self.source.labels

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index] | {"label": int(self.labels[index])}


def test_evaluating_a_checkpoint_gives_what_training_reported_by_the_classes_of_train(config, tmp_path, monkeypatch):
    from morphism.evaluation.loop import evaluate

    config.ema.decay = 0.9
    with monkeypatch.context() as patch:
        load = sources.load
        turned = {"train": lambda source: source, "val": Turned}
        patch.setattr(sources, "load", lambda data, split: turned[split.partition("[")[0]](load(data, split)))
        reported = train(config, tmp_path)
    run = open_run(tmp_path, "latest")
    source = sources.load(config.data, config.data.val_split)
    found = evaluate(run.task, source, run.predictions(source, print))
    assert {key: found[key] for key in reported} == pytest.approx(reported, rel=1e-6)
    assert found["examples"] == 72
    assert np.sum(found["confusion"]) == 72


def test_the_manifest_says_what_ran_and_no_batch_is_kept_beyond_its_step(config, tmp_path, monkeypatch):
    config.update(duration="24", log_every="24", checkpoint_every="24")
    kept, most, pairs = weakref.WeakValueDictionary(), [], loop.training_pairs

    def followed(*args, **more):
        for number, batch in enumerate(train_batches(*args, **more)):
            # As from a worker: what is kept of any array keeps the memory of all.
            memory = np.zeros(sum(each.nbytes for each in batch.values()), np.uint8)
            starts = np.cumsum([0, *(each.nbytes for each in batch.values())])
            for start, (name, each) in zip(starts, list(batch.items()), strict=False):
                batch[name] = memory[start : start + each.nbytes].view(each.dtype).reshape(each.shape)
                batch[name][...] = each
            kept[number] = memory
            del memory, each
            most.append(len(kept))
            yield batch

    def add(meter, scalars, ids, add=loop.Meter.add):
        jax.block_until_ready(scalars)  # a step that the host is ahead of keeps its batch, as it must
        add(meter, scalars, ids)

    monkeypatch.setattr(loop, "training_pairs", lambda *args, **more: pairs(*args, **more | {"feed": followed}))
    monkeypatch.setattr(loop.Meter, "add", add)
    train(config, tmp_path)
    assert max(most) < 8
    manifest = json.loads((tmp_path / "manifest.json").read_text())[-1]
    assert manifest["parameters"] == 3 * 9 * 16 + 2 * 16 + 17 * 10
    assert manifest["multiply_accumulates"] > 0
    assert len(manifest["devices"]) == 4
    assert set(manifest["packages"]) >= {"jax", "flax", "optax", "orbax-checkpoint"}
    assert any((tmp_path / "tensorboard").glob("events*"))
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert {"step", "train/loss", "train/images_per_s", "train/learning_rate"} <= set(first)


def test_the_first_state_has_the_same_bits_however_it_is_laid_out(config):
    config.model.options.depth = 8  # whose largest array is split
    states = []
    for config.mesh.fsdp in (1, 4):
        parts = build.build(config)
        states.append(parts.init().params)
        largest = max(jax.tree.leaves(states[-1]), key=lambda x: x.size)
        assert [shard.data.size for shard in largest.addressable_shards] == [largest.size / config.mesh.fsdp] * 4
    assert all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, states), strict=True))


@pytest.mark.parametrize(("devices", "fsdp", "then"), [(1, 1, 4), (4, 2, 1)])
def test_a_checkpoint_of_some_devices_goes_on_with_others(
    config, tmp_path, interrupt, monkeypatch, mesh_of, devices, fsdp, then
):
    """Also where one copy of the state is on several devices before or afterwards."""
    config.model.sync_bn = True
    undisturbed = train(config, tmp_path / "a")  # on four
    interrupt(6, crash)
    monkeypatch.setattr(build, "make_mesh", lambda fsdp: mesh_of(devices, fsdp))
    config.mesh.fsdp = fsdp
    with pytest.raises(Crash):
        train(config, tmp_path / "b")
    monkeypatch.undo()
    config.mesh.fsdp = then
    found = train(config, tmp_path / "b")
    assert found["loss"] == pytest.approx(undisturbed["loss"], rel=1e-3)
    assert found["top1"] == pytest.approx(undisturbed["top1"], abs=0.005)


def test_a_look_between_two_reports_finds_what_is_not_finite_and_keeps_the_rest():
    with DeviceClock() as clock:
        meter = Meter(2, clock)
        for step in range(1, 5):
            meter.add({"loss": jnp.float32(step)}, np.array([2 * step, 2 * step + 1]))
            meter.check(step)
        meter.add({"loss": jnp.float32(5)}, np.array([10, 11]))
        assert meter.close(5)["train/loss"] == 3
        meter.add({"loss": jnp.float32(6)}, np.array([12, 13]))
        meter.check(6)
        meter.add({"loss": jnp.float32(7)}, np.array([14, 15]))
        meter.add({"loss": jnp.float32(np.nan)}, np.array([16, 17]))
        with pytest.raises(NonFiniteLoss, match="^step 8: loss is nan, on examples 16, 17; the last checkpoint is"):
            meter.check(8)


def test_splits_on_the_devices_train_to_the_same_bits_and_either_way_resumes_the_other(config, tmp_path):
    config.data.update(train_split="train[:100]", train_crop="center")
    config.eval_every = "4"
    train(config, tmp_path / "host")
    config.data.on_device = True
    train(config, tmp_path / "device")
    config.data.on_device = False
    train(config, tmp_path / "both", until=4)
    config.data.on_device = True
    train(config, tmp_path / "both")
    assert digest_of(tmp_path / "host", 8) == digest_of(tmp_path / "device", 8) == digest_of(tmp_path / "both", 8)
    assert metrics_of(tmp_path / "host") == metrics_of(tmp_path / "device") == metrics_of(tmp_path / "both")
