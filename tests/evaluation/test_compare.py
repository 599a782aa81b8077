"""Comparing runs: made-up metrics and arrays, whose first difference is known."""

import numpy as np
import pytest

from morphism.evaluation.compare import aligned, arrays_parting, differing, finals, flattened, metrics_parting, verdict

LINES = [
    {"step": 2, "train/loss": 2.0, "train/images_per_s": 7.0},
    {"step": 4, "train/loss": 1.5, "train/images_per_s": 8.0},
    {"step": 4, "val/top1": 0.5, "val/loss": 1.4},
    {"step": 6, "train/loss": 1.25},
    {"step": 6, "val/top1": 0.5, "val/loss": 1.6},
]
TIMES = ("train/images_per_s",)


def test_times_do_not_count_and_the_first_other_value_is_named():
    faster = [line | ({"train/images_per_s": 99.0} if "train/loss" in line else {}) for line in LINES]
    assert metrics_parting(LINES, faster, TIMES) == (5, 0, "", None, None, [])
    other = [*LINES[:2], LINES[2] | {"val/loss": np.nextafter(1.4, 2)}, LINES[3] | {"train/loss": 9.0}, LINES[4]]
    assert metrics_parting(LINES, other, TIMES)[1:4] == (4, "val/loss", 1.4)


def test_a_line_of_means_is_compared_only_where_it_covers_the_same_steps():
    """A run that was stopped at step 5 and continued: its means of step 5 and of step 6 are over one step each."""
    stopped = [*LINES[:3], {"step": 5, "train/loss": 1.3}, {"step": 6, "train/loss": 1.2}, LINES[4]]
    found = metrics_parting(LINES, stopped, TIMES)
    assert not found.name and found.compared == 4
    assert verdict(found, {}, resumed=True)[0] and not verdict(found, {}, resumed=False)[0]
    assert verdict(found, {}, resumed=False)[1][0] == "different: only in what they report"


def test_the_first_array_that_differs_is_named_with_how_much():
    first = {"step": np.int32(3), "params.b": np.array([1.0, -4.0], np.float32), "opt_state.a": np.zeros(2)}
    assert arrays_parting(first, {name: np.copy(each) for name, each in first.items()}) == (3, 0, "", "", 0.0)
    other = first | {"params.b": np.array([1.0, -3.0], np.float32), "opt_state.a": np.array([0.0, 1e-9])}
    found = arrays_parting(first, other)
    assert found[:3] == (3, 2, "params.b")  # parameters before others, which come before them in the alphabet
    assert found.how == "by at most 0.25 of its largest value" and found.largest == 1.0
    assert arrays_parting(first, first | {"params.b": np.zeros(3, np.float32)}).how.startswith(
        "float32 (2,) in the first"
    )
    assert arrays_parting(first, {"step": first["step"]})[1:4] == (2, "params.b", "only the first has it")
    negative = {"x": np.array([-0.0])}
    assert arrays_parting(negative, {"x": np.array([0.0])}).differing == 1  # equal numbers, other bits


@pytest.mark.parametrize(
    ("metrics", "state", "equal", "said"),
    [
        (
            LINES,
            1.0,
            True,
            "equal to the bit: 5 report(s) of metrics.jsonl and all 1 arrays of",
        ),
        (LINES, 2.0, False, "different: step 6 is the first on record at which they differ"),
        ([{"step": 2, "train/loss": 2.5}, *LINES[1:]], 2.0, False, "different: step 2 is the first"),
    ],
)
def test_the_verdict_names_the_first_step_in_metrics_or_checkpoints(metrics, state, equal, said):
    arrays = {6: arrays_parting({"params.w": np.array(1.0)}, {"params.w": np.array(state)})}
    found, lines = verdict(metrics_parting(LINES, metrics, TIMES), arrays, resumed=False)
    assert found == equal and lines[0].startswith(said)


def test_last_and_best_numbers_with_the_step_of_the_best():
    assert finals(LINES, ("top1",)) == {
        "train/loss": (1.25, 1.25, 6),
        "val/top1": (0.5, 0.5, 6),  # the latest of equals
        "val/loss": (1.6, 1.4, 4),
    }


def test_only_what_differs_is_listed_with_what_is_absent():
    sides = [flattened({"a": {"b": 1, "c": [2]}, "d": {}}), flattened({"a": {"b": 1, "c": [3]}, "e": 0})]
    assert differing(sides) == {"a.c": [[2], [3]], "d": [{}, None], "e": [None, 0]}
    assert aligned([["", "x"], ["long", "1"]]) == ["      x", "long  1"]
