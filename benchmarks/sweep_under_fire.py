"""Kills a sweep, its workers, or both, again and again, and compares its trials with those of an undisturbed sweep.

    python benchmarks/sweep_under_fire.py [--trials 24] [--kills 10] [--steps 200] [--workers 2] [--seed 0]
        [--pruner none] [--stack 1] [--output FILE.json]

The trials are short runs on the embedded garments over optimiser, learning rate and weight decay (the quickstart's own
space). SIGKILL comes at random times, in turn for all processes at once, for a worker, and for the sweep's own process;
where the sweep has died, the same command is started again. At the end every trial must have the state, the values, the
overrides and the parameters (by digest) of the undisturbed sweep, and each must have been sampled once.
With a pruner there is one worker: which trials are promoted depends on the order in which several finish.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import turns

from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import digest
from morphism.sweeps.folder import open_sweep
from morphism.sweeps.trials import Record

ROOT = Path(__file__).parent.parent
TARGETS = ("both", "worker", "sweep")


def command(workdir: Path, options: argparse.Namespace) -> list[str]:
    small = [f"batch_size={options.batch}", f"data.image_size={options.pixels}", f"data.resize_size={options.pixels}"]
    small += ["data.train_crop=random_resized"]
    small += ["log_every=1", "eval_every=0", "checkpoint_every=4", "plots=False", "schedule.warmup=2"]
    small += [f"duration={options.steps}", f"data.val_split=val[:{options.images}]"]
    return [
        *(sys.executable, "sweep.py", "--config=experiments/quickstart.py"),
        *(f"--config.{each}" for each in small),
        *(f"--trials={options.trials}", f"--workers={options.workers}", f"--workdir={workdir}"),
        *("--sampler=random", f"--pruner={options.pruner}", "--tries=99", f"--stack={options.stack}"),
        f"--space={options.space}",
    ]


def start(workdir: Path, options: argparse.Namespace) -> subprocess.Popen:
    return subprocess.Popen(command(workdir, options), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)


def trials(workdir: Path) -> list[Record]:
    if not (workdir / "sweep.json").exists() or not (workdir / "sweep.db").exists():
        return []
    return open_sweep(workdir)[1].records()


def workers_of(process: subprocess.Popen) -> list[int]:
    """The worker processes that `process` has started."""
    found = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for path in found for pid in path.read_text().split()]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def strike(workdir: Path, options: argparse.Namespace, rng: random.Random) -> list[dict]:
    """Runs the sweep and kills parts of it `options.kills` times; returns what was hit, and what was over by then.

    A kill comes a random time after some trial has a step that it had not at the kill before.
    """
    hits: list[dict] = []
    process = start(workdir, options)
    while len(hits) < options.kills:
        before = steps_done(workdir)
        while steps_done(workdir) == before and process.poll() is None:
            time.sleep(0.1)
        time.sleep(rng.uniform(0, options.pause))
        if process.poll() is not None:
            sys.exit(f"sweep_under_fire: error: the sweep ended after {len(hits)} kills; raise --steps or --trials")
        target, workers = TARGETS[len(hits) % len(TARGETS)], workers_of(process)
        if target != "sweep":
            for pid in workers if target == "both" else rng.sample(workers, min(1, len(workers))):
                kill(pid)
        if target != "worker":
            kill(process.pid)
            process.wait()
            process = start(workdir, options)
        over = sum(each.over for each in trials(workdir))
        hits.append({"target": target, "trials_over": over})
        print(f"kill {len(hits):>3}  {target:<7} {over} of {options.trials} trials over", flush=True)
    if process.wait() != 0:
        sys.exit("sweep_under_fire: error: the last start failed")
    return hits


def steps_done(workdir: Path) -> int:
    """The lines that the trials have written so far."""
    return sum(path.read_bytes().count(b"\n") for path in (workdir / "trials").glob("*/metrics.jsonl"))


def outcome(workdir: Path) -> list[tuple]:
    """What must be equal of every trial."""
    found = []
    for each in trials(workdir):
        bits = ""
        if (workdir / each.workdir / "checkpoints").exists():
            with Checkpoints(workdir / each.workdir) as checkpoints:
                bits = digest(checkpoints.read(checkpoints.latest()))
        found.append((each.number, each.id, each.state, dict(each.overrides), dict(each.values), bits))
    return found


def run(folder: Path, options: argparse.Namespace) -> dict:
    """Both sweeps; what was hit, and the differences."""
    began = time.monotonic()
    if start(folder / "alone", options).wait() != 0:
        sys.exit("sweep_under_fire: error: the undisturbed sweep failed")
    alone = time.monotonic() - began
    hits = strike(folder / "shot", options, random.Random(options.seed))
    expected, found = outcome(folder / "alone"), outcome(folder / "shot")
    different = [each[0] for each, other in zip(expected, found, strict=False) if each != other]
    return {
        "trials": len(expected),
        "steps": options.steps,
        "workers": options.workers,
        "pruner": options.pruner,
        "kills": hits,
        "different": different if len(found) == len(expected) else [*different, f"{len(found)} trials"],
        "states": {state: sum(each[2] == state for each in expected) for state in {each[2] for each in expected}},
        "seconds_undisturbed": round(alone, 1),
        "seconds_disturbed": round(time.monotonic() - began - alone, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--images", type=int, default=1000, help="of the evaluation")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pixels", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stack", type=int, default=1)
    parser.add_argument("--pruner", default="none")
    parser.add_argument("--space", default="experiments/quickstart.py:space")
    parser.add_argument("--pause", type=float, default=5.0, help="longest time from a step to a kill, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.pruner != "none":
        options.workers = 1
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), options)
    states = ", ".join(f"{count} {state}" for state, count in sorted(result["states"].items()))
    print(f"{result['trials']} trials ({states}) after {len(result['kills'])} kills: ", end="")
    print(f"DIFFERENT: {result['different']}" if result["different"] else "all equal to the bit")
    if options.output:
        turns.save(options.output, result)
    sys.exit(1 if result["different"] else 0)


if __name__ == "__main__":
    main()
