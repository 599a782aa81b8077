"""The cost of the training loop around its steps: starting, compiling, waiting for input, logging, saving, devices.

    python benchmarks/loop.py [--steps 120] [--output benchmarks/results/loop.json]

Each row is a run of train.py, in its own process, on the quickstart's network and images. Compare only rows of one run
of this script; images/s is the median over the log lines.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import turns

ROOT = Path(__file__).parent.parent
BASE = ("--config.eval_every=0", "--config.checkpoint_every=0", "--config.log_every=20", "--config.schedule.warmup=1")
VARIANTS = {
    "no compilation cache": (),
    "as it is": (),
    "again": (),
    "a log line every step": ("--config.log_every=1",),
    "a checkpoint every 10 steps": ("--config.checkpoint_every=10",),
    "8 devices": (),
    "1 worker process": ("--config.data.workers=1",),
}


def measure(name: str, more: tuple[str, ...], steps: int, folder: Path) -> dict:
    """Seconds to the first step, images/s, share of time waiting for input, seconds and peak memory of one run."""
    workdir = folder / name.replace(" ", "_")
    command = [sys.executable, "train.py", "--config=experiments/quickstart.py", f"--workdir={workdir}", *BASE, *more]
    command.append(f"--config.duration={steps}")
    cache = folder / ("empty" if name == "no compilation cache" else "cache")
    environment = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "JAX_NUM_CPU_DEVICES": "8" if name == "8 devices" else "1",
    }
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    if status:
        sys.exit(f"benchmarks/loop.py: error: {' '.join(command)} failed")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "train/images_per_s" in line][1:]
    first = next(line for line in output.splitlines() if line.startswith("first step done"))
    return {
        "first_step_s": float(first.split()[3]),
        "images_per_s": statistics.median(line["train/images_per_s"] for line in training),
        "input_wait": statistics.median(line["train/input_wait"] for line in training),
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


def help_seconds() -> float:
    times = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True)
        times.append(time.monotonic() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "loop.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # A first run fills the cache for the rows after "no compilation cache".
        measure("warm", (), 40, Path(folder))
        rows = {name: measure(name, more, options.steps, Path(folder)) for name, more in VARIANTS.items()}
    print(f"{'':<30}{'first step':>11}{'images/s':>10}{'input wait':>12}{'wall':>8}{'CPU':>8}{'peak RAM':>10}")
    for name, row in rows.items():
        print(
            f"{name:<30}{row['first_step_s']:>9.1f} s{row['images_per_s']:>10,.0f}{row['input_wait']:>11.1%} "
            f"{row['wall_s']:>6.1f} s{row['cpu_s']:>6.1f} s{row['peak_mb']:>7,.0f} MB"
        )
    seconds = help_seconds()
    print(f"python train.py --help: {seconds:.2f} s")
    turns.save(options.output, {"steps": options.steps, "rows": rows, "help_s": seconds})


if __name__ == "__main__":
    main()
