"""The trials of a sweep, as its storage holds them: what workers, tables and reports read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

# Names of user attributes. PLAN is written once, when the trial is sampled, and is whole or absent.
PLAN, OWNER, BEAT, GOAL, STEPS, SECONDS, ERROR, DEATHS = (
    *("plan", "owner", "beat", "goal"),
    *("steps", "seconds", "error", "deaths"),
)

STATES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Record:
    """One trial.

    number: from 0, in the order of sampling.
    id: 12 hexadecimal digits over overrides and seed; "" before the trial is sampled.
    state: waiting (to be run, or interrupted), paused (at a rung), running, complete, pruned (it cannot be promoted any
      more) or failed.
    overrides: dotted field of the configuration -> value.
    params: name -> value, as the space function asked for them.
    seed: config.seed of the trial.
    rung: how many rungs it has reached; goal: the rung it was last started for, from 0.
    steps: of training done, as of the last time it was left.
    value: the metric at its end, or at the last rung that it reached; None before the first.
    values: step -> the metric, at rungs and at the end.
    seconds: of training, over all starts.
    error: why it failed or was pruned, in one line.
    workdir: relative to the folder of the sweep.
    owner: the worker that runs it; beat: counts up while that worker lives.
    deaths: how often a process ended while running it at the same rung and checkpoint, which `deaths_at` names.
    key: its id in the storage.
    """

    number: int
    id: str
    state: str
    overrides: Mapping[str, Any]
    params: Mapping[str, Any]
    seed: int
    rung: int
    goal: int
    steps: int
    value: float | None
    values: Mapping[int, float]
    seconds: float
    error: str
    workdir: str
    owner: str
    beat: int
    deaths: int
    deaths_at: tuple[int, int]
    key: int

    @property
    def over(self) -> bool:
        return self.state in ("complete", "pruned", "failed")


def ranked(trials: Sequence[Record], lower: bool) -> list[Record]:
    """The complete ones of `trials`, the best first; of equal ones the lower number. `lower`: low values are good."""
    complete = [each for each in trials if each.state == "complete"]
    return sorted(complete, key=lambda each: (each.value if lower else -each.value, each.number))


def records(storage: BaseStorage, study: int) -> list[Record]:
    """The trials of a study that have been sampled, by number. `study` is its id in the storage."""
    return [each for each in slots(storage, study) if each.id]


def slots(storage: BaseStorage, study: int) -> list[Record]:
    """All trials of a study by number, those that have not been sampled among them."""
    return sorted(map(record, storage.get_all_trials(study, deepcopy=False)), key=lambda each: each.number)


def record(trial: FrozenTrial) -> Record:
    """What a trial of the storage says."""
    attributes = trial.user_attrs
    plan = attributes.get(PLAN, {})
    values = dict(sorted(trial.intermediate_values.items()))
    deaths = attributes.get(DEATHS, {"count": 0, "rung": 0, "step": 0})
    goal = attributes.get(GOAL, 0)
    state = STATES[trial.state]
    if state == "waiting" and plan and len(values) > goal:
        state = "paused"
    return Record(
        number=trial.number,
        id=plan.get("id", ""),
        state=state,
        overrides=plan.get("overrides", {}),
        params=plan.get("params", {}),
        seed=plan.get("seed", 0),
        rung=len(values),
        goal=goal,
        steps=attributes.get(STEPS, 0),
        value=trial.value if trial.state == TrialState.COMPLETE else next(reversed(values.values()), None),
        values=values,
        seconds=attributes.get(SECONDS, 0.0),
        error=attributes.get(ERROR, ""),
        workdir=plan.get("workdir", ""),
        owner=attributes.get(OWNER, ""),
        beat=attributes.get(BEAT, 0),
        deaths=deaths["count"],
        deaths_at=(deaths["rung"], deaths["step"]),
        key=trial._trial_id,
    )
