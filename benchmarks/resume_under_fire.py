"""Kills a training run again and again, and compares its result with that of an undisturbed run.

    python benchmarks/resume_under_fire.py [--kills 20] [--steps 160] [--seed 0] [--output FILE.json]
    python benchmarks/resume_under_fire.py --network detection --twice --kills 3 --config.deterministic=True

With --twice an undisturbed run is repeated, too. Other flags are those of train.py.

The run trains with worker processes, EMA, momentum and accumulation; it saves every 4th step and evaluates every 10th.
SIGKILL comes in turn before the first step, between random steps, while a checkpoint is being written, and during
evaluation; each time the same command is started again. At the end the digest of parameters and statistics,
metrics.jsonl (except its times) and the best checkpoint must be those of the undisturbed run.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import turns

from morphism.runtime.checkpoint import Checkpoints, best_by, choose
from morphism.runtime.digest import digest
from morphism.runtime.manifest import read_config
from morphism.training.meter import TIMED

ROOT = Path(__file__).parent.parent
SAVE, EVALUATE = 4, 10
COMMON = (
    "--config.accumulate=2",
    "--config.ema.decay=0.9",
    f"--config.checkpoint_every={SAVE}",
    f"--config.eval_every={EVALUATE}",
    "--config.log_every=1",
    "--config.schedule.warmup=20",
    "--config.data.workers=1",
    "--config.plots=False",
)
NETWORKS = {
    "classification": (
        "--config=experiments/quickstart.py",
        "--config.batch_size=32",
        "--config.data.image_size=12",
        "--config.data.resize_size=12",
        "--config.data.train_crop=random_resized",
    ),
    "detection": (
        "--config=experiments/quickstart.py:detection",
        "--config.batch_size=8",
        "--config.data.source=scenes:60x64",
        "--config.data.image_size=64",
    ),
}


def command_of(network: str, steps: int, more: Sequence[str]) -> list[str]:
    flags = [*NETWORKS[network], *COMMON, f"--config.duration={steps}", *more]
    return [sys.executable, "train.py", *flags]


def start(command: Sequence[str], workdir: Path) -> subprocess.Popen:
    arguments = [*command, f"--workdir={workdir}"]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1)


def wait_for(process: subprocess.Popen, matches: Callable[[str], bool]) -> bool:
    """Reads the run's lines until one `matches`; False if the run ended first."""
    return any(matches(line) for line in process.stdout)


def before_the_first_step(process: subprocess.Popen, workdir: Path, rng: random.Random) -> bool:
    found = wait_for(process, lambda line: "parameters" in line)
    time.sleep(rng.uniform(0, 1))
    return found


def between_steps(process: subprocess.Popen, workdir: Path, rng: random.Random) -> bool:
    left = rng.randint(2, 15)

    def counted(line: str) -> bool:
        nonlocal left
        left -= "loss" in line
        return left == 0

    found = wait_for(process, counted)
    time.sleep(rng.uniform(0, 0.05))
    return found


def while_saving(process: subprocess.Popen, workdir: Path, rng: random.Random) -> bool:
    if not wait_for(process, lambda line: "first step" in line):
        return False
    saves, seen = rng.randint(1, 3), set()
    while process.poll() is None:
        seen |= {path.name for path in (workdir / "checkpoints").glob("*tmp*")}
        if len(seen) == saves:
            time.sleep(rng.uniform(0, 0.05))
            return True
        time.sleep(0.0005)
    return False


def during_evaluation(process: subprocess.Popen, workdir: Path, rng: random.Random) -> bool:
    def evaluating(line: str) -> bool:
        return "loss" in line and "val:" not in line and int(line.split()[1].split("/")[0]) % EVALUATE == 0

    found = wait_for(process, evaluating)
    time.sleep(rng.uniform(0, 0.3))
    return found


MOMENTS = (between_steps, while_saving, before_the_first_step, during_evaluation)


def outcome(workdir: Path) -> dict:
    """The digests that `morphism digest` prints of the newest and the best checkpoint, and all metrics but times."""
    with Checkpoints(workdir, **best_by(read_config(workdir))) as checkpoints:
        steps = {which: choose(checkpoints, which) for which in ("latest", "best")}
        digests = {which: f"{digest(checkpoints.read(step))}  step {step}" for which, step in steps.items()}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in line.items() if key not in TIMED} for line in lines]
    return {**digests, "metrics": metrics}


def finish(command: Sequence[str], runs: dict[str, Path]) -> None:
    """Runs to the end in each of `runs`, a name and a workdir, at the same time."""
    processes = {name: start(command, workdir) for name, workdir in runs.items()}
    for name, process in processes.items():
        process.communicate()
        if process.returncode != 0:
            sys.exit(f"resume_under_fire: error: the {name} failed")


def strike(command: Sequence[str], workdir: Path, count: int, rng: random.Random) -> list[dict]:
    """Starts the run and kills it, `count` times; returns the moment and the newest checkpoint of each kill."""
    kills: list[dict] = []
    while len(kills) < count:
        moment = MOMENTS[len(kills) % len(MOMENTS)]
        process = start(command, workdir)
        struck = moment(process, workdir, rng)
        process.kill()
        process.communicate()
        saved = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
        if not struck:
            remedy = f"it failed with status {process.returncode}" if process.returncode else "raise --steps"
            sys.exit(f"resume_under_fire: error: the run ended after {len(kills)} kills; {remedy}")
        newest = max(saved, default=None)
        kills.append({"moment": moment.__name__, "newest_checkpoint": newest})
        print(f"kill {len(kills):>3}  {moment.__name__:<24} newest checkpoint {newest}", flush=True)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="classification")
    parser.add_argument("--twice", action="store_true", help="repeat an undisturbed run, too")
    parser.add_argument("--output", type=Path)
    options, more = parser.parse_known_args()
    jax.config.update("jax_platforms", "cpu")  # this process only reads files; those that train have the devices
    rng, command = random.Random(options.seed), command_of(options.network, options.steps, more)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        alone, again, shot = (Path(folder) / name for name in ("alone", "again", "shot"))
        finish(command, {"undisturbed run": alone} | ({"second run": again} if options.twice else {}))
        kills = strike(command, shot, options.kills, rng)
        finish(command, {"last start": shot})
        found, expected = outcome(shot), outcome(alone)
        equal = {key: found[key] == expected[key] for key in expected}
        if options.twice:
            equal["twice"] = outcome(again) == expected
    result = {
        "kills": kills,
        "equal": equal,
        "digest": expected["latest"].split()[0],
        "seconds": time.monotonic() - began,
    }
    print(
        f"after {len(kills)} kills: "
        + ", ".join(f"{key} {'equal' if same else 'DIFFERENT'}" for key, same in equal.items())
    )
    if options.output:
        turns.save(options.output, result)
    sys.exit(0 if all(equal.values()) else 1)


if __name__ == "__main__":
    main()
