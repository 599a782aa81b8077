import math
from pathlib import Path

import numpy as np
import pytest

from morphism.errors import UserError
from morphism.experiments.base import get_base
from morphism.lengths import due, exact_steps, to_steps
from morphism.training.schedule import make_schedule


@pytest.mark.parametrize(
    ("length", "steps"), [("500", 500), ("64k", 64_000), ("1.5k", 1500), ("90ep", 31_641), ("0.5ep", 176), ("0", 0)]
)
def test_lengths_are_steps_or_epochs(length, steps):
    assert to_steps(length, 45_000 / 128, "duration") == steps


@pytest.mark.parametrize("length", ["", "ten", "5 epochs", "-3", "1e3"])
def test_a_length_that_is_none_names_its_field(length):
    with pytest.raises(UserError, match='config.schedule.warmup is .*write steps as "500" or "64k", epochs as "90ep"'):
        to_steps(length, 100, "schedule.warmup")


@pytest.mark.parametrize("length", ["9" * 400, "9" * 400 + "ep", "3000000k", "2147483648"])
def test_a_length_that_cannot_be_counted_names_its_field(length):
    with pytest.raises(UserError, match="config.duration is .*more than the 2,147,483,647 steps that can be counted"):
        to_steps(length, 100, "duration")


def test_a_length_of_no_step_is_an_error_unless_it_says_0():
    assert to_steps("0", 1000, "eval_every") == to_steps("0ep", 1000, "eval_every") == 0
    with pytest.raises(UserError, match="^config.batch_size .* config.checkpoint_every is '0.001ep', less"):
        to_steps("0.001ep", 12 / 128, "checkpoint_every")


@pytest.mark.parametrize("examples", [205, 367, 12_345])
def test_what_is_due_every_two_epochs_is_due_at_the_end_of_the_eighth_and_four_times_in_all(examples):
    epoch, every = examples / 8, exact_steps("2ep", examples / 8, "eval_every")
    last = to_steps("8ep", epoch, "duration")
    steps = [step for step in range(1, last + 1) if due(step, every)]
    assert steps[-1] == last and len(steps) == 4


def test_due_counts_whole_steps_from_the_first_and_0_is_never():
    assert [step for step in range(9) if due(step, 3)] == [3, 6]
    assert not any(due(step, 0) for step in range(9))


GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "optimizers.npz")
SHARES = {  # what goldens/make_optimizers.py gave torch's schedulers; boundaries count from the first step of all
    "multistep": {"name": "step", "boundaries": ("16", "24", "37"), "factor": 0.5},
    "cosine": {"name": "cosine", "final_factor": 0.1},
    "polynomial": {"name": "polynomial", "power": 0.9},
    "constant": {"name": "constant"},
}


@pytest.mark.parametrize("warming", ["plain", "warmup"])
@pytest.mark.parametrize("name", ["step", *SHARES])
def test_every_rate_is_torchs(name, warming):
    start = 8 if warming == "warmup" else 0
    stairs = {"name": "step", "boundaries": tuple(str(start + 10 * i) for i in (1, 2, 3)), "factor": 0.1}
    config = get_base()
    config.duration = "40"
    config.optimizer.learning_rate = 0.5
    config.schedule.update(SHARES.get(name, stairs), warmup=str(start), warmup_factor=0.01)
    schedule = make_schedule(config, steps_per_epoch=10)
    found = [float(schedule(step)) for step in range(40)]
    np.testing.assert_allclose(found, GOLDENS[f"schedule/{name}/{warming}"], rtol=1e-5)


def schedule_of(**changes):
    config = get_base()
    config.duration = "100"
    config.schedule.update(changes)
    schedule = make_schedule(config, steps_per_epoch=10)
    return [float(schedule(step)) for step in range(100)]


def test_step_decay_multiplies_at_each_boundary():
    rates = schedule_of(name="step", boundaries=("3ep", "60"), factor=0.1)
    assert rates[0] == rates[29] == pytest.approx(0.1)
    assert rates[30] == rates[59] == pytest.approx(0.01)
    assert rates[60] == rates[99] == pytest.approx(0.001)


def test_warmup_rises_linearly_and_cosine_falls_over_what_follows():
    rates = schedule_of(name="cosine", warmup="2ep", warmup_factor=0.1, final_factor=0.01)
    assert rates[0] == pytest.approx(0.01)
    assert rates[10] == pytest.approx(0.1 * 0.55)
    assert rates[20] == pytest.approx(0.1)
    assert rates[60] == pytest.approx(0.1 * (0.01 + 0.99 * 0.5))
    assert rates[99] == pytest.approx(0.1 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 79 / 80))), rel=1e-4)


def test_polynomial_decay_is_that_of_deeplab():
    rates = schedule_of(name="polynomial", power=0.9)
    assert rates == pytest.approx([0.1 * (1 - step / 100) ** 0.9 for step in range(100)], rel=1e-5)


def test_a_square_warmup_a_cosine_and_a_hold_are_yoloxs():
    """yolox/utils/lr_scheduler.py, yolox_warm_cos_lr."""
    rates = schedule_of(name="cosine", warmup="2ep", warmup_power=2.0, final_factor=0.05, hold="15")
    for step, rate in enumerate(rates):
        least = 0.1 * 0.05
        if step <= 20:
            expected = 0.1 * (step / 20) ** 2
        elif step >= 85:
            expected = least
        else:
            expected = least + 0.5 * (0.1 - least) * (1 + math.cos(math.pi * (step - 20) / (100 - 20 - 15)))
        assert rate == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_constant_warmup_holds_its_share_until_its_end():
    rates = schedule_of(
        name="step", boundaries=("60",), factor=0.1, warmup="2ep", warmup_factor=0.1, warmup_method="constant"
    )
    assert rates == pytest.approx([0.01] * 20 + [0.1] * 40 + [0.01] * 40)


def test_constant_is_constant():
    assert schedule_of(name="constant") == pytest.approx([0.1] * 100)


def test_the_rate_scales_with_the_batch():
    config = get_base()
    config.batch_size = 1024
    config.optimizer.reference_batch = 256
    config.schedule.name = "constant"
    assert make_schedule(config, 10)(0) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": "11ep"}, "config.schedule.warmup is 110 steps, longer than config.duration's 100"),
        ({"warmup": "5ep", "hold": "6ep"}, "config.schedule.hold is 60 steps, with the warm-up's 50 more than .* 100"),
        ({"boundaries": ("3 ep",), "name": "step"}, "config.schedule.boundaries is '3 ep'"),
    ],
)
def test_what_makes_no_schedule_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        schedule_of(**changes)
