"""What the benchmarks of networks share: contenders, each a process of its own, that take turns; their table and JSON.

Such a benchmark starts itself again for every contender with --serve, where its main calls `serve`; else it calls
`table`, or `measure` for a table of its own. Figures are medians over rounds; `compile`: seconds until the first call
has ended. Run by itself this file does nothing.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from morphism.tasks import Task

Run = Callable[[], None]  # a call of what is measured, which has ended when its results are there
Row = dict[str, Any]


def make_parser(
    text: str,
    models: Collection[str],
    size: str,
    works: Sequence[str],
    batches: Sequence[int],
    contenders: Collection[str],
) -> argparse.ArgumentParser:
    """The flags that these benchmarks have alike; `text` is the docstring of one, the first of `models` its default."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=next(iter(models)), choices=sorted(models))
    parser.add_argument("size", nargs="?", type=sides, default=size, help="height x width of the network's input")
    parser.add_argument("--work", nargs="+", default=works)
    parser.add_argument("--batch", nargs="+", type=int, default=batches)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=sorted(contenders), help=argparse.SUPPRESS)
    script = Path(sys.argv[0])
    parser.add_argument("--output", type=Path, default=script.parent / "results" / f"{script.stem}.json")
    return parser


def sides(text: str) -> tuple[int, int]:
    """(300, 400) of "300x400"."""
    height, width = map(int, text.split("x"))
    return height, width


def pictures(batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    """A batch of drawn uint8 pictures, each all of its canvas, without what a task adds."""
    whole = np.tile(np.int32([height, width]), (batch, 1))
    return {
        "image": np.random.default_rng(0).integers(0, 256, (batch, height, width, 3)).astype(np.uint8),
        "size": whole,
        "original_size": whole,
        "id": np.arange(batch, dtype=np.int32),
        "draw": np.zeros(batch, np.int32),
        "valid": np.ones(batch, bool),
    }


def serve(make: Callable[[], Run]) -> None:
    """One contender: after its first call, a call and a line of its seconds for every line that comes in."""
    began = time.perf_counter()
    run = make()
    run()
    print(json.dumps({"compile": time.perf_counter() - began}, allow_nan=False), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        row = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(row, allow_nan=False), flush=True)


def measure(names: Sequence[str], flags: Sequence[str], rounds: int) -> dict[str, Row]:
    """Of every contender wall and cpu seconds a call, seconds to compile and peak_mb; `flags` tell it its work."""
    # Or the waiting of torch's threads counts as CPU seconds, and takes them from whose turn it is.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    processes = {
        name: subprocess.Popen(
            [sys.executable, sys.argv[0], *flags, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in names
    }
    found = {name: json.loads(process.stdout.readline()) for name, process in processes.items()}
    rows: dict[str, list[Row]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            rows[name].append(json.loads(process.stdout.readline()))
    for name, process in processes.items():
        process.stdin.close()
        process.wait()
        found[name] |= {key: statistics.median(row[key] for row in rows[name]) for key in rows[name][0]}
    return found


def table(args: argparse.Namespace, works: Sequence[str], contenders: Callable[[str], list[str]]) -> list[Row]:
    """Measures and prints `works`, at every batch size, of those who do each."""
    print(f"{'work':10}{'batch':>6}  {'who':14}{'images/s':>10}{'CPU s':>8}{'compile s':>11}{'peak MB':>9}")
    results = []
    for work in works:
        for batch in args.batch:
            flags = [args.model, "x".join(map(str, args.size)), "--work", work, "--batch", str(batch)]
            for name, row in measure(contenders(work), flags, args.rounds).items():
                row["images_per_s"] = batch / row["wall"]
                print(
                    f"{work:10}{batch:6}  {name:14}{row['images_per_s']:10.2f}{row['cpu']:8.2f}{row['compile']:11.1f}"
                    f"{row['peak_mb']:9.0f}",
                    flush=True,
                )
                results.append({"work": work, "batch": batch, "who": name, **row})
    return results


def write(args: argparse.Namespace, results: list[Row]) -> None:
    record = {"cores": os.cpu_count(), "model": args.model, "size": args.size, "results": results}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")


def train_step(config: Any, task: "Task", model: Any, classes: int, batch: dict[str, np.ndarray]) -> Run:
    """This project's: training/step.py with everything that `config` says, on a batch that is on the device."""
    import jax

    from morphism.runtime.mesh import compiler_options, make_mesh, replicated
    from morphism.training.hyper import hyper_parameters, on_devices
    from morphism.training.state import init_state
    from morphism.training.step import make_train_step, optimizer_of

    mesh, size = make_mesh(), batch["image"].shape[1:3]
    hyper = on_devices(hyper_parameters(config, 1000), mesh)
    optimizer = optimizer_of(config, hyper)
    state = jax.jit(
        lambda: init_state(model, optimizer, image_size=size, seed=config.seed, ema=False),
        out_shardings=replicated(mesh),
        compiler_options=compiler_options(once=True),
    )()
    step = make_train_step(model=model, task=task, config=config, classes=classes, mesh=mesh)
    batch = jax.device_put(batch)

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, batch, hyper)[0])

    return run
