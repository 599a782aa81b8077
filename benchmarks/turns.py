"""Shared by the benchmarks: contenders take turns, in one process or each in its own; results as a table and JSON.

A benchmark of networks starts itself once per contender, with --serve; its main then calls `serve`, otherwise `table`,
or `measure` if it prints a table of its own. Figures are medians over rounds; `compile`: seconds until the first call
has ended. A contender that fails is reported in one line, and the others go on. Run by itself this file does nothing.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import served

if TYPE_CHECKING:
    from morphism.tasks import Task

Run = Callable[[], None]  # runs what is measured once, and returns when its results are complete
Row = dict[str, Any]

PATIENCE = 3600.0  # seconds that a contender has for its first call, and for each of the others


def make_parser(
    text: str,
    models: Collection[str],
    size: str,
    works: Sequence[str],
    batches: Sequence[int],
    contenders: Collection[str],
) -> argparse.ArgumentParser:
    """The flags that these benchmarks share.

    Args:
      text: the docstring of the benchmark.
      models: the first one is the default.
      size: the default height x width.
      works: all kinds of work; the default is to measure all.
      batches: the default batch sizes.
      contenders: the names that --serve accepts.
    """
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


def images(batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    """A batch of random uint8 images, each as large as its canvas, without a task's targets."""
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
    """Serves one contender: one call first, then one call, and a row with its seconds, per line of input."""

    def ready() -> served.Answers:
        run = make()
        run()

        def answer(_: str) -> list[Row]:
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            row = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            return [row | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}]

        return answer

    served.serve(ready)


def measure(names: Sequence[str], flags: Sequence[str], rounds: int) -> dict[str, Row]:
    """Per contender: wall and CPU seconds per call, seconds to compile and peak_mb; `flags` select the work.

    A contender that fails is left out, and one line on standard error says why.
    """
    # Otherwise torch's waiting threads use CPU seconds, at the expense of the contender whose turn it is.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory() as logs:
        running = {
            name: served.Served(
                [sys.executable, sys.argv[0], *flags, "--serve", name], Path(logs) / f"{name}.log", environment
            )
            for name in names
        }
        answers = {name: [contender.ready(PATIENCE)] for name, contender in running.items()}
        for _ in range(rounds):
            for name, contender in running.items():
                if "error" not in answers[name][-1]:
                    answers[name].append(contender.ask("", PATIENCE))
        for contender in running.values():
            contender.stop()

    found = {}
    for name, (ready, *calls) in answers.items():
        if error := answers[name][-1].get("error"):
            print(f"{' '.join(flags)}: {name}: {error}", file=sys.stderr, flush=True)
            continue
        rows = [row for call in calls for row in call["rows"]]
        medians_of = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        found[name] = {"compile": ready["ready_s"], **medians_of}
    return found


def table(args: argparse.Namespace, works: Sequence[str], contenders: Callable[[str], list[str]]) -> list[Row]:
    """Measures and prints each of `works` at each batch size; `contenders`: work -> names of those that do it."""
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
    save(args.output, {"cores": os.cpu_count(), "model": args.model, "size": args.size, "results": results})


def save(path: Path, record: Row) -> None:
    """Writes the results of a benchmark as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")


def medians(runs: Mapping[Any, Callable[[], Any]], rounds: int, calls: int = 1) -> dict[Any, dict[str, float]]:
    """Median wall and CPU seconds per call of each of `runs`, which take turns of `calls` calls in this process."""
    seconds = {name: {"wall": [], "cpu": []} for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                run()
            seconds[name]["wall"].append((time.perf_counter() - wall) / calls)
            seconds[name]["cpu"].append((time.process_time() - cpu) / calls)
    return {name: {kind: statistics.median(each) for kind, each in kinds.items()} for name, kinds in seconds.items()}


class TrainStep:
    """This project's training step (training/step.py) by `config`, compiled. A call runs it `calls` times, and waits.

    The state and the batch are on the devices from the first call on.

    Attributes:
      program: the compiled step.
      flops: of the convolutions and matrix products of a step, on all devices.
      scalars: of the last step.
    """

    def __init__(
        self, config: Any, task: "Task", model: Any, classes: Any, batch: dict[str, np.ndarray], calls: int = 1
    ):
        import jax
        from jax.sharding import NamedSharding
        from jax.sharding import PartitionSpec as P

        from morphism.models import cost
        from morphism.runtime.arithmetic import compiled
        from morphism.runtime.mesh import AXIS, make_mesh, replicated
        from morphism.training.hyper import hyper_parameters, on_devices
        from morphism.training.state import init_state
        from morphism.training.step import make_train_step, optimizer_of

        mesh, size = make_mesh(), batch["image"].shape[1:3]
        self._hyper = on_devices(hyper_parameters(config, 1000), mesh)
        optimizer = optimizer_of(config, self._hyper)
        self._init = compiled(
            lambda: init_state(model, optimizer, image_size=size, seed=config.seed, ema=False),
            config,
            once=True,
            out_shardings=replicated(mesh),
        )
        self._batch, self._rows = batch, NamedSharding(mesh, P(AXIS))
        shapes = [
            jax.tree.map(lambda x, where=where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)
            for tree, where in ((jax.eval_shape(self._init), replicated(mesh)), (batch, self._rows))
        ]
        step = make_train_step(model=model, task=task, config=config, classes=classes, mesh=mesh)
        traced = step.trace(*shapes, self._hyper)
        self.flops = 2 * mesh.size * cost.of_program(traced.jaxpr.jaxpr)
        self.program = traced.lower().compile()
        self._state, self._calls, self.scalars = None, calls, {}

    def __call__(self) -> None:
        import jax

        if self._state is None:
            self._state, self._batch = self._init(), jax.device_put(self._batch, self._rows)
        for _ in range(self._calls):
            self._state, self.scalars = self.program(self._state, self._batch, self._hyper)
        jax.block_until_ready(self._state)
