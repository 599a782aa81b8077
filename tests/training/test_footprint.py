"""What a configuration costs, found without data or parameters, is what a real training takes."""

import jax
import numpy as np
import pytest

from morphism.errors import UserError
from morphism.experiments import quickstart
from morphism.tasks.blank import blank
from morphism.training.build import build
from morphism.training.footprint import costs
from morphism.training.loop import train


def held(tree):
    """Bytes of arrays on their first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def test_arguments_take_what_the_real_state_takes_and_flops_are_those_of_the_log(config, tmp_path, monkeypatch):
    config.ema.decay = 0.9
    config.duration = "2"
    seen = {}
    real = build(config)

    def watched(state, batch, hyper):
        seen["batch"] = held(batch)
        seen["flops"] = real.programs.train_flops(state, batch, hyper)
        return seen["flops"]

    monkeypatch.setattr("morphism.training.loop.Loop._step_flops", lambda loop, *args: watched(*args, real.hyper))
    train(config, tmp_path)
    found = costs(config, 10, real.mesh, (8, 8), (8, 8))
    state = real.init()
    assert found.parameters == 75_290
    assert found.training.arguments["parameters"] == held(state.params) == 4 * 75_290
    assert found.training.arguments["statistics"] == held(state.batch_stats)
    assert found.training.arguments["optimizer"] == held(state.opt_state)
    assert found.training.arguments["averages"] == held(state.ema)
    assert found.training.arguments["batch"] == seen["batch"]
    assert found.training.arguments["other"] < 1000
    assert found.training.flops == seen["flops"]
    assert 2.8 < found.training.flops / found.training.images / (found.evaluation.flops / found.evaluation.images) < 3
    assert found.training.outputs < 10_000, "the state is replaced in place"
    assert found.training.temporaries > 100_000 and found.training.compile_s > 0


def test_a_batch_that_does_not_split_over_the_devices_is_an_error(config, mesh_of):
    config.batch_size = 15
    with pytest.raises(UserError, match="config.batch_size=15 does not split over 2 devices"):
        costs(config, 10, mesh_of(2), (8, 8), (8, 8))


def test_the_stand_in_for_data_has_the_classes_of_each_part():
    found = blank(quickstart.get_config("panoptic"), {"objects": 3, "ground": 2}, 7)
    assert {target: len(names) for target, names in found.targets.items()} == {"boxes": 3, "segmentation": 2}
    assert len(found) == 7
    labels = blank(quickstart.get_config(), 3, 7).labels
    assert np.bincount(labels).tolist() == [3, 2, 2]
    with pytest.raises(UserError, match="there is no record 0"):
        found[0]
