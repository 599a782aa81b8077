"""Several trainings in one program: the same as one by one."""

from functools import partial

import jax
import numpy as np
import pytest

from morphism.data import pipeline
from morphism.ops.platform import as_accelerator
from morphism.runtime import mesh
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import digest
from morphism.training import together
from morphism.training.build import build
from morphism.training.loop import Call, train, training
from morphism.training.meter import NonFiniteLoss


def varied(config, **values):
    other = config.copy_and_resolve_references()
    other.optimizer.update({name: value for name, value in values.items() if name != "seed"})
    other.data.val_split, other.schedule.warmup = "val[:64]", "0"
    other.seed = values.get("seed", other.seed)
    return other.lock()


def digest_of(workdir, step):
    with Checkpoints(workdir) as checkpoints:
        return digest(checkpoints.read(step))


def test_a_stack_ends_with_the_bits_of_single_trainings_and_a_failing_one_fails_alone(tmp_path, config, monkeypatch):
    """Paused half-way, one goes on alone. Data of equal seeds is loaded once; another optimiser has another program."""
    settings = [{"learning_rate": 0.2}, {"learning_rate": 0.1, "seed": 5}, {"name": "adam", "learning_rate": 3e38}]
    configs, loads, sizes = [varied(config, **each) for each in settings], [], []
    load, answer = pipeline.train_batches, together.answers_of
    monkeypatch.setattr(together, "train_batches", lambda *a, **b: loads.append(a[1].seed) or load(*a, **b))
    monkeypatch.setattr(together, "answers_of", lambda calls: sizes.append(len(calls)) or answer(calls))
    begins = [
        lambda feed, index=index, each=each: training(each, tmp_path / f"{index}", until="4", feed=feed)
        for index, each in enumerate(configs)
    ]
    found = together.together(begins)
    assert loads == [0, 5] and sizes == [2, 1, 2, 1, 2, 2]  # adam's loss is not finite at the first report, of step 2
    assert isinstance(found[-1], NonFiniteLoss) and all(each.paused and each.step == 4 for each in found[:-1])

    whole = train(configs[1], tmp_path / "whole")
    assert digest_of(tmp_path / "1", 4) == digest_of(tmp_path / "whole", 4)
    assert train(configs[1], tmp_path / "1") == whole
    assert digest_of(tmp_path / "1", 8) == digest_of(tmp_path / "whole", 8)


def test_a_stack_that_runs_out_of_memory_ends_each_of_its_trainings(tmp_path, config, monkeypatch):
    def fails(calls):
        raise MemoryError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(together, "answers_of", fails)
    begins = [partial(lambda feed, name: training(config, tmp_path / name, feed=feed), name=name) for name in "ab"]
    assert [str(each) for each in together.together(begins)] == ["RESOURCE_EXHAUSTED"] * 2
    monkeypatch.undo()
    assert train(config, tmp_path / "a")["top1"] > 0  # its workdir is free again


@pytest.mark.parametrize("fsdp", [1, 2])
def test_the_stacked_step_of_accelerators_equals_single_steps_to_rounding(config, monkeypatch, fsdp):
    """Within 1e-5 of the largest change of a parameter in the step; measured 2e-6 on CPU."""
    monkeypatch.setattr(mesh, "SMALL", 64)
    config.mesh.fsdp = fsdp
    parts = [build(varied(config, learning_rate=rate)) for rate in (0.2, 0.1)]
    one = parts[0]
    rows = pipeline.train_batches(one.data.train, one.config, start_step=3, stop_step=4)
    batch = {key: value for key, value in next(rows).items() if key != "odd"}
    states = [each.init() for each in parts]
    before = jax.tree.map(np.array, jax.device_get(states[0].params))  # the states are donated
    hypers = [each.hyper for each in parts]
    calls = [Call(one.programs, each.init(), batch, each.hyper) for each in parts]
    with as_accelerator():
        jax.clear_caches()  # jit would reuse the other form
        found = jax.device_get(together.answers_of(calls))
    jax.clear_caches()
    for state, hyper, (after, scalars) in zip(states, hypers, found, strict=True):
        expected, values = jax.device_get(one.programs.train_step(state, batch, hyper))
        change = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (expected.params, before)), strict=True))
        worst = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (expected, after)), strict=True))
        assert worst <= 1e-5 * change
        assert values["loss"] == pytest.approx(scalars["loss"], rel=1e-6)
