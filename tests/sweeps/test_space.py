"""Spaces, and what samplers draw from them."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from morphism.errors import UserError
from morphism.experiments import quickstart
from morphism.sweeps.sampling import Sampler, from_unit, points, random_chooser
from morphism.sweeps.space import Draw, Space, configured, described, grid, identity, load


def conditional(trial):
    name = trial.suggest_categorical("optimizer", ("sgd", "adam"))
    if name == "sgd":
        return {"optimizer.name": name, "optimizer.momentum": trial.suggest_float("momentum", 0.0, 0.8, step=0.4)}
    return {"optimizer.name": name, "batch_size": trial.suggest_int("batch", 8, 32, log=False, step=24)}


def test_a_quantile_maps_to_every_value_alike():
    units = (np.arange(12_000) + 0.5) / 12_000
    whole = [from_unit(IntDistribution(1, 9, step=4), unit) for unit in units]
    assert {value: whole.count(value) for value in set(whole)} == {1: 4000, 5: 4000, 9: 4000}
    stepped = [from_unit(FloatDistribution(0.0, 0.5, step=0.25), unit) for unit in units]
    assert {value: stepped.count(value) for value in set(stepped)} == {0.0: 4000, 0.25: 4000, 0.5: 4000}
    chosen = [from_unit(CategoricalDistribution(("a", "b")), unit) for unit in units]
    assert chosen.count("a") == 6000
    logs = np.log10([from_unit(FloatDistribution(1e-3, 1e1, log=True), unit) for unit in units])
    np.testing.assert_allclose(np.quantile(logs, (0.25, 0.5, 0.75)), (-2, -1, 0), atol=1e-3)
    counted = [from_unit(IntDistribution(1, 4, log=True), unit) for unit in units]
    assert set(counted) == {1, 2, 3, 4} and counted.count(1) > counted.count(2) > counted.count(4)


def test_a_grid_lists_every_branch_once():
    found = [draw.params for draw in points(Space(conditional, "here"))]
    assert found == [
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "sgd", "momentum": 0.4},
        {"optimizer": "sgd", "momentum": 0.8},
        {"optimizer": "adam", "batch": 8},
        {"optimizer": "adam", "batch": 32},
    ]
    with pytest.raises(UserError, match="learning_rate is continuous"):
        points(Space(quickstart.space, "here"))


@pytest.mark.parametrize("name", ["random", "qmc", "tpe"])
def test_a_trial_is_sampled_alike_whenever_it_is(name):
    def history():
        return [
            create_trial(
                state=TrialState.COMPLETE,
                value=float(number),
                params={"learning_rate": 0.01 * (number + 1), "optimizer": "adam", "weight_decay": 1e-4},
                distributions={
                    "learning_rate": FloatDistribution(1e-3, 1.0, log=True),
                    "optimizer": CategoricalDistribution(("sgd", "momentum", "rmsprop", "adagrad", "adam")),
                    "weight_decay": FloatDistribution(1e-5, 1e-2, log=True),
                },
            )
            for number in range(12)
        ]

    space = Space(quickstart.space, "here")
    found = [Sampler(name, 3, space, False).sample(number, history)[1] for number in (12, 13, 12)]
    assert found[0] == found[2] != found[1]


def test_qmc_fills_the_space_more_evenly_than_chance():
    def line(trial):
        return {"optimizer.momentum": trial.suggest_float("momentum", 0.0, 0.9)}

    sampler = Sampler("qmc", 0, Space(line, "here"), False)
    values = [sampler.sample(number, list)[1]["optimizer.momentum"] for number in range(16)]
    assert sorted(int(value / 0.9 * 16) for value in values) == list(range(16))


def test_overrides_are_checked_as_fields_of_the_configuration(config):
    changed = configured(config, {"optimizer.learning_rate": 1, "batch_size": 8, "model.options.width": 2})
    assert changed.optimizer.learning_rate == 1.0 and changed.batch_size == 8 and changed.model.options.width == 2
    assert config.batch_size == 16
    for overrides, words in (
        ({"optimizer.lr": 0.1}, "config.optimizer.lr: no such field; did you mean"),
        ({"learning_rate": 0.1}, "did you mean config.optimizer.learning_rate"),
        ({"optimizer": "adam"}, "a group of fields"),
        ({"optimizer.name": "adamm"}, "did you mean adam"),
        ({"optimizer.learning_rate": -1.0}, "it must be"),
        ({"batch_size": "many"}, "batch_size"),
    ):
        with pytest.raises(UserError, match=words):
            configured(config, overrides)


def test_bad_spaces_are_one_line(tmp_path):
    def fails(trial):
        return {"batch_size": trial.suggest_int("batch", 8, 4)}

    def returns_nothing(trial):
        trial.suggest_int("batch", 4, 8)

    draws = iter(range(100))

    def own_random(trial):
        return {"batch_size": next(draws)}

    def probe(number):
        return random_chooser("probe", number)

    for function, words in ((fails, "line .*ValueError"), (returns_nothing, "returns None"), (own_random, "suggest_")):
        with pytest.raises(UserError, match=words):
            described(Space(function, "here"), probe)
    with pytest.raises(UserError, match="no such file"):
        load(str(tmp_path / "none.py:space"))
    (tmp_path / "x.py").write_text("def spaces(trial): return {}\n")
    with pytest.raises(UserError, match="did you mean spaces"):
        load(f"{tmp_path / 'x.py'}:space")
    for values, words in (({}, "empty"), ({"batch_size": ()}, "no values"), ({"batch_size": (8, 8)}, "there twice")):
        with pytest.raises(UserError, match=words):
            grid(values)


def test_a_trial_is_named_by_its_fields_and_seed():
    one = identity({"a": 1, "b": 0.5}, 0)
    assert len(one) == 12 and one == identity({"b": 0.5, "a": 1}, 0)
    assert len({one, identity({"a": 1, "b": 0.5}, 1), identity({"a": 2, "b": 0.5}, 0)}) == 3


def test_a_grid_may_hold_tuples():
    space = grid({"data.crop": ((40, 40), (80, 80)), "optimizer.name": ("sgd",)})
    assert [space.suggest(Draw(lambda name, d, at=at: d.choices[at % len(d.choices)])) for at in (0, 1)] == [
        {"data.crop": (40, 40), "optimizer.name": "sgd"},
        {"data.crop": (80, 80), "optimizer.name": "sgd"},
    ]
