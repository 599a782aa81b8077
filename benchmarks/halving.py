"""Successive halving against random search at equal steps: which finds the better trial.

    python benchmarks/halving.py [--sweeps 5] [--first 0] [--trials 27] [--steps 270] [--eta 3] [--output FILE.json]

Both draw the quickstart's space with the same seeds, so that random search tries the first trials of the same sequence.
ASHA starts --trials of them, with rungs at 1/9 and 1/3 of --steps; random search then trains as many to their end as
need the steps that ASHA took, rounded up in favour of random search. The metric is top-1 on the validation split at the
last step. All trials of a sweep share one process, and with it the compiled programs of their optimiser.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

import turns
from ml_collections import ConfigDict

from morphism.experiments import quickstart
from morphism.runtime.startup import start_jax
from morphism.sweeps.folder import Plan, begin_sweep, open_sweep
from morphism.sweeps.rungs import default_rungs
from morphism.sweeps.trials import Record
from morphism.sweeps.worker import work


def configuration(options: argparse.Namespace) -> ConfigDict:
    config = quickstart.get_config()
    config.batch_size = 32
    config.duration = str(options.steps)
    config.eval_every = config.checkpoint_every = config.log_every = "0"
    config.plots = False
    config.data.update(image_size=12, resize_size=12, train_crop="random_resized", val_split=f"val[:{options.images}]")
    config.schedule.warmup = "5"
    return config.lock()


def sweep(folder: Path, seed: int, trials: int, pruner: str, options: argparse.Namespace) -> list[Record]:
    """The trials of one sweep, trained in this process."""
    config = configuration(options)
    plan = Plan(
        experiment="",
        config=config,
        space="experiments/quickstart.py:space",
        grid={},
        metric="top1",
        lower=False,
        sampler="random",
        sampler_seed=seed,
        pruner=pruner,
        rungs=default_rungs(config.duration, options.eta) if pruner == "asha" else (),
        eta=options.eta,
        trials=trials,
        storage=f"sqlite:///{folder}/sweep.db",
    )
    begin_sweep(folder, plan)
    with contextlib.redirect_stdout(io.StringIO()):
        work(folder)
    return open_sweep(folder)[1].records()


def best(trials: list[Record]) -> Record:
    return max((each for each in trials if each.state == "complete"), key=lambda each: each.value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="seed of the first sweep")
    parser.add_argument("--trials", type=int, default=27)
    parser.add_argument("--steps", type=int, default=270)
    parser.add_argument("--images", type=int, default=2000, help="of the evaluation")
    parser.add_argument("--eta", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    start_jax()
    rows = []
    for seed in range(options.first, options.first + options.sweeps):
        with tempfile.TemporaryDirectory() as folder:
            halved = sweep(Path(folder) / "asha", seed, options.trials, "asha", options)
            steps = sum(each.steps for each in halved)
            whole = min(-(-steps // options.steps), options.trials)
            chance = sweep(Path(folder) / "random", seed, whole, "none", options)
        first, second = best(halved), best(chance)
        rows.append(
            {
                "seed": seed,
                "steps_asha": steps,
                "steps_random": sum(each.steps for each in chance),
                "trials_asha": len(halved),
                "trials_random": len(chance),
                "complete_asha": sum(each.state == "complete" for each in halved),
                "best_asha": first.value,
                "best_random": second.value,
            }
        )
        row = rows[-1]
        print(
            f"sweep {seed}: asha {row['best_asha']:.4f} of {row['trials_asha']} trials in {row['steps_asha']:,} steps, "
            f"random {row['best_random']:.4f} of {row['trials_random']} in {row['steps_random']:,}",
            flush=True,
        )
    wins = sum(row["best_asha"] > row["best_random"] for row in rows)
    ties = sum(row["best_asha"] == row["best_random"] for row in rows)
    print(f"asha found the better trial in {wins} of {len(rows)} sweeps, as good a one in {ties}")
    if options.output:
        turns.save(
            options.output, {"sweeps": rows, "wins": wins, "ties": ties, "options": vars(options) | {"output": ""}}
        )


if __name__ == "__main__":
    main()
