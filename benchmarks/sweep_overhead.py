"""Seconds that a trial of a sweep takes besides its steps and its evaluation, and the programs that it compiles.

    python benchmarks/sweep_overhead.py [--trials 8] [--steps 20] [--output FILE.json]

The trials differ in learning rate and weight decay: one set of compiled programs serves them all. They run in this
process, as in a worker. CPU-seconds are of all threads; elapsed times mean something on an idle machine only.
Compilations are counted by JAX's own events, among them those that its persistent cache answers.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path

import jax
import turns

from morphism.experiments import quickstart
from morphism.runtime.startup import start_jax
from morphism.sweeps.folder import Plan, begin_sweep, open_sweep
from morphism.sweeps.worker import work
from morphism.training.loop import train

COMPILED = "/jax/core/compile/backend_compile_duration"
SPACE = """
def space(trial):
    return {
        "optimizer.learning_rate": trial.suggest_float("learning_rate", 0.01, 0.5, log=True),
        "optimizer.weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True),
    }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    start_jax()
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(seconds) if name == COMPILED else None
    )
    config = quickstart.get_config()
    config.batch_size = 32
    config.duration = str(options.steps)
    config.eval_every = config.checkpoint_every = config.log_every = "0"
    config.plots = False
    config.schedule.warmup = "5"
    config.data.update(image_size=12, resize_size=12, train_crop="random_resized", val_split="val[:200]")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "space.py").write_text(SPACE)
        counts, alone = [], []
        for index in range(3):
            before, began = len(compiled), time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                train(config, root / f"alone{index}")
            alone.append(time.process_time() - began)
            counts.append(len(compiled) - before)
        plan = Plan(
            experiment="",
            config=config.lock(),
            space=f"{root}/space.py:space",
            grid={},
            metric="top1",
            lower=False,
            sampler="random",
            sampler_seed=0,
            pruner="none",
            rungs=(),
            eta=3,
            trials=options.trials,
            storage=f"sqlite:///{root}/sweep/sweep.db",
        )
        begin_sweep(root / "sweep", plan)
        before, began, clock = len(compiled), time.process_time(), time.monotonic()
        work(root / "sweep")
        spent, elapsed = time.process_time() - began, time.monotonic() - clock
        seconds = [each.seconds for each in open_sweep(root / "sweep")[1].records()]
    result = {
        "runs_alone": {"cpu_seconds": alone, "compilations": counts},
        "trials": {"cpu_seconds_each": spent / options.trials, "compilations": len(compiled) - before},
        "elapsed_seconds_per_trial": elapsed / options.trials,
        "elapsed_seconds_per_trial_outside_training": (elapsed - sum(seconds)) / options.trials,
        "options": vars(options) | {"output": ""},
    }
    print(f"runs alone: {', '.join(f'{each:.2f}' for each in alone)} CPU-seconds, {counts} compilations")
    print(
        f"{options.trials} trials: {spent / options.trials:.2f} CPU-seconds each, {len(compiled) - before} compilations"
    )
    print(f"elapsed: {', '.join(f'{each:.2f}' for each in seconds)} s, and ", end="")
    print(f"{result['elapsed_seconds_per_trial_outside_training']:.2f} s per trial for storage, sampling, bookkeeping")
    if options.output:
        turns.save(options.output, result)


if __name__ == "__main__":
    main()
