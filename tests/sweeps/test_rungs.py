"""Decisions of successive halving, against a brute force and simulated sweeps."""

import random

import pytest

from morphism.errors import UserError
from morphism.sweeps.rungs import Halving, check_rungs, default_rungs, hopeless, promotable, to_evict
from morphism.sweeps.trials import Record


def trial(number, values, state="paused"):
    return Record(
        number=number,
        id=f"{number:012x}",
        state=state,
        overrides={},
        params={},
        seed=0,
        rung=len(values),
        goal=max(len(values) - 1, 0),
        steps=0,
        value=values[-1] if values else None,
        values=dict(enumerate(values, 1)),
        seconds=0.0,
        error="",
        workdir=f"trials/{number}",
        owner="",
        beat=0,
        deaths=0,
        deaths_at=(0, 0),
        key=number,
    )


def simulate(rules, total, workers, rng, values, prune=True, ended=()):
    """A sweep of trials whose values are values[number][rung]; returns what happened, in order, and the last trials."""
    known: dict[int, list[float]] = {}
    state: dict[int, str] = {}
    running: list[int] = []
    events = []

    def now():
        return [trial(n, known[n], state[n]) for n in sorted(known)]

    while True:
        if prune:
            for each, _ in hopeless(now(), total, rules):
                state[each.number] = "pruned"
                events.append(("pruned", each.number))
        while len(running) < workers:
            waiting = promotable(now(), total, rules)
            if waiting:
                number = waiting[0].number
                events.append(("promoted", number, len(known[number])))
            elif len(known) < total:
                number = len(known)
                known[number] = []
            else:
                break
            state[number] = "running"
            running.append(number)
        if not running:
            return events, now()
        number = running.pop(rng.randrange(len(running)))
        if number in ended and len(known[number]) == ended[number]:
            state[number] = "failed"
            continue
        known[number].append(values[number][len(known[number])])
        state[number] = "complete" if len(known[number]) > len(rules.rungs) else "paused"


def test_the_best_third_of_those_that_reached_a_rung_goes_on_from_the_highest_rung_first():
    rules = Halving(("1", "3"), "asha", eta=3)
    at_first = [trial(0, [0.3]), trial(1, [0.9]), trial(2, [0.5]), trial(3, [0.1]), trial(4, [0.2]), trial(5, [0.7])]
    assert [each.number for each in promotable(at_first, 99, rules)] == [1, 5]
    higher = [trial(n, [0.9 - n / 100, 0.5 + n / 100]) for n in range(10, 13)]
    assert [each.number for each in promotable([*at_first, *higher], 99, rules)] == [12, 1]


def test_low_is_better_where_it_is_said():
    trials = [trial(0, [0.3]), trial(1, [0.9]), trial(2, [0.5])]
    assert [each.number for each in promotable(trials, 99, Halving(("1",), "asha", 3, lower=True))] == [0]


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_a_sweep_ends_with_every_trial_over_and_one_complete(pruner):
    for seed in range(60):
        rng = random.Random(seed)
        total, rungs = rng.randint(1, 14), tuple(map(str, range(1, rng.randint(2, 5))))
        values = [[rng.choice((0.1, 0.2, 0.3)) for _ in range(9)] for _ in range(total)]
        _, last = simulate(Halving(rungs, pruner, rng.randint(2, 4)), total, rng.randint(1, 4), rng, values)
        assert all(each.over for each in last) and any(each.state == "complete" for each in last)


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_what_is_pruned_would_never_have_been_promoted(pruner):
    """Brute force: the same sweep without pruning promotes the same trials at the same times."""
    for seed in range(60):
        rng = random.Random(seed)
        total, workers = rng.randint(2, 14), rng.randint(1, 4)
        values = [[rng.random() for _ in range(4)] for _ in range(total)]
        failing = {n: rng.randint(0, 3) for n in range(total) if rng.random() < 0.2}
        rules = Halving(("1", "2", "3"), pruner, rng.randint(2, 4))
        runs = [simulate(rules, total, workers, random.Random(seed), values, prune, failing) for prune in (True, False)]
        promoted = [[each for each in events if each[0] == "promoted"] for events, _ in runs]
        assert promoted[0] == promoted[1]


def test_hopeless_trials_are_known_before_the_sweep_ends():
    """Nine trials, of which a third goes on: the fourth best of those that have come can never do."""
    trials = [trial(n, [n / 10]) for n in range(5)]
    found = hopeless(trials, 9, Halving(("1",), "asha", 3))
    assert [(each.number, reason) for each, reason in found] == [
        (1, "rank 4 at rung 1, which promotes 3 of 9"),
        (0, "rank 5 at rung 1, which promotes 3 of 9"),
    ]


def test_checkpoints_go_from_pruned_then_from_the_worst_paused_and_never_from_the_best():
    trials = [
        trial(0, [0.1, 0.9], "complete"),
        trial(1, [0.1, 0.2], "complete"),
        trial(2, [0.5]),
        trial(3, [0.4]),
        trial(4, [0.6, 0.1]),
        trial(5, [0.0], "pruned"),
        trial(6, [0.0], "running"),
    ]
    sizes = {each.workdir: 10 for each in trials}
    assert [each.number for each in to_evict(trials, sizes, 0, lower=False)] == [5, 3, 2, 4, 1]
    assert [each.number for each in to_evict(trials, sizes, 55, lower=False)] == [5, 3]
    assert to_evict(trials, sizes, 70, lower=False) == []


def test_rungs_lie_in_order_before_the_end():
    assert default_rungs("18ep", 3) == ("2ep", "6ep") and default_rungs("900", 3) == ("100", "300")
    check_rungs(("1ep", "3ep", "9ep"), "20ep", None)
    check_rungs(("10", "1ep"), "200", 100.0)
    for rungs, duration, words in (
        (("1ep", "9ep"), "9ep", "9ep is not before the end"),
        (("3ep", "1ep"), "9ep", "1ep does not come after 3ep"),
        (("0",), "9", "before the first step"),
        (("one",), "9", "--rungs is 'one'"),
        (("2ep",), "150", "2ep is not before the end"),
    ):
        with pytest.raises(UserError, match=words):
            check_rungs(rungs, duration, 100.0)
