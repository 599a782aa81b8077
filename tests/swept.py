"""A sweep as `morphism sweep` leaves it, without training: what its report is tested on."""

import json
import math
from pathlib import Path

import optuna

from morphism.experiments import quickstart
from morphism.sweeps.folder import Plan, begin_sweep, open_sweep
from morphism.sweeps.trials import ERROR, PLAN, SECONDS, STEPS

HOSTILE = "</script><img src=x onerror=alert(1)>"
SPACE = """
def space(trial):
    rate = trial.suggest_float("rate", 0.001, 1.0, log=True)
    decay = trial.suggest_float("decay", 0.0, 0.01)
    name = trial.suggest_categorical("optimizer", ("sgd", "adam", "rmsprop"))
    return {"optimizer.name": name, "optimizer.learning_rate": rate, "optimizer.weight_decay": decay}
"""


def swept(folder: Path, trials=24, seeds=1) -> Path:
    """A sweep whose top1 depends on the learning rate alone, but for noise. Of 8 trials one failed, two are pruned."""
    (folder.parent / "space.py").write_text(SPACE)
    plan = Plan(
        *("quickstart.py", quickstart.get_config().lock(), f"{folder.parent}/space.py:space", {}, "top1", False),
        *("random", 0, "asha", ("10", "30"), 3, trials, f"sqlite:///{folder.absolute()}/sweep.db"),
        seeds=seeds,
    )
    begin_sweep(folder, plan)
    _, store = open_sweep(folder)
    spread = optuna.distributions.FloatDistribution(0.001, 1.0, log=True)
    decays = optuna.distributions.FloatDistribution(0.0, 0.01)
    kinds = optuna.distributions.CategoricalDistribution(("sgd", "adam", "rmsprop"))
    for number in range(trials * seeds):
        point = number // seeds
        rate, name = 10 ** (-3 + 3 * ((point * 7) % trials) / trials), ("sgd", "adam", "rmsprop")[point % 3]
        params = {"rate": rate, "decay": (point * 5 % 11) / 1100, "optimizer": name}
        fields = dict(zip(("learning_rate", "weight_decay", "name"), params.values(), strict=True))
        overrides = {f"optimizer.{field}": value for field, value in fields.items()}
        workdir = f"trials/{number:012x}"
        key = store.add_slot()
        store.claim(key)
        plan_of = {"id": f"{number:012x}", "overrides": overrides, "seed": number % seeds, "params": params}
        store.note(key, **{PLAN: plan_of | {"workdir": workdir}})
        for (param, value), distribution in zip(params.items(), (spread, decays, kinds), strict=True):
            store.storage.set_trial_param(key, param, distribution.to_internal_repr(value), distribution)
        top = 0.9 - 0.1 * abs(math.log10(rate) + 1.2) ** 1.5 + 0.01 * ((number * 13) % 7) / 7
        kind = number % 8
        steps = (10,) if kind in (3, 4) else () if kind == 5 else (10, 30, 90)
        for step in steps:
            store.report(key, step, top * (1 - 0.5 * 0.9**step))
        lines = [
            {"step": step, "val/top1": top * (1 - 0.5 * 0.9**step)} for step in range(5, max(steps, default=0) + 1, 5)
        ]
        (folder / workdir).mkdir(parents=True)
        (folder / workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        store.note(key, **{STEPS: max(steps, default=2), SECONDS: 3.0 + number})
        if kind == 5:
            store.note(key, **{ERROR: f"FloatingPointError: {HOSTILE}"})
            store.fail(key)
        elif kind in (3, 4):
            store.note(key, **{ERROR: "rank 9 of 12 at 10 steps; 4 go on"})
            store.prune(key)
        else:
            store.complete(key, top * (1 - 0.5 * 0.9**90))
    return folder
