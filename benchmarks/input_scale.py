"""How the input scales with the number of records: start-up, memory per worker and resume of 1e4, 1e6 and 1e8.

    python benchmarks/input_scale.py [--records 10000 1000000 100000000] [--workers 2] [--output FILE]

Records are simulated: the source makes an image of 8 x 8 for any index, and knows the sizes and labels of all of them
where a recipe needs them. Each row is a process of its own:

    plain       shuffled, one canvas: no table at all
    balanced    each class equally often: labels of all records, int32
    canvases    images of two shapes on two canvases: sizes of all records, int32

"first batch" is from the call of `train_batches` to its first batch, worker processes included; "resume" the same at a
step in the fourth epoch. Memory is what belongs to a process alone (Private_* of /proc/<pid>/smaps_rollup): pages of a
table that is mapped from one file by all of them are shared, and the system can drop them.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import turns

from morphism.data import pipeline
from morphism.data.annotations import NO_OBJECTS
from morphism.data.records import Record
from morphism.experiments.base import get_base

CLASSES = tuple(f"class {number}" for number in range(1000))
KINDS = ("plain", "balanced", "canvases")


@dataclass(frozen=True)
class Simulated:
    """`count` records with the truths of `kind`, and the table that a source of that kind has."""

    count: int
    kind: str
    labels: np.ndarray
    sizes: np.ndarray
    classes = CLASSES

    @classmethod
    def of(cls, count: int, kind: str) -> "Simulated":
        labels = np.arange(count if kind == "balanced" else 0, dtype=np.int32) * 7 % len(CLASSES)
        sizes = np.full((count if kind == "canvases" else 0, 2), 8, np.int32)
        sizes[::3] = 8, 16
        return cls(count, kind, labels, sizes)

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"boxes" if self.kind == "canvases" else "label": CLASSES}

    @property
    def image_ids(self) -> range:
        return range(self.count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if self.kind != "canvases":
            return {"image": np.zeros((8, 8), np.uint8), "label": 0, "name": str(index)}
        size = (8, 16) if index % 3 == 0 else (8, 8)
        return {"image": np.zeros(size, np.uint8), "annotations": NO_OBJECTS, "name": str(index)}


def main() -> None:
    arguments = parse()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.workers), allow_nan=False))
        return
    rows = []
    for kind in arguments.kinds:
        for records in arguments.records:
            command = [sys.executable, __file__, "--one", kind, str(records), "--workers", str(arguments.workers)]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode:
                print(f"{kind}, {records:,}: {found.stderr.strip().splitlines()[-1]}")
                continue
            rows.append(json.loads(found.stdout.splitlines()[-1]))
            print_row(rows[-1], first=len(rows) == 1)
    if rows:
        turns.save(arguments.output, {"workers": arguments.workers, "rows": rows})
        print(f"written: {arguments.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="*", default=[10**4, 10**6, 10**8])
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "input_scale.json")
    return parser.parse_args()


def measure(kind: str, records: str, workers: int) -> dict:
    source, config = Simulated.of(int(records), kind), get_base("detection" if kind == "canvases" else "classification")
    config.unlock()
    config.batch_size = 64
    own = {"max_size": 16, "canvases": ((8, 8), (8, 16))} if kind == "canvases" else {"resize_size": 8}
    config.data.update({"image_size": 8, "workers": workers, "prefetch": 1, "balanced": kind == "balanced"} | own)
    first, memory = start(source, config, 0)
    resume, _ = start(source, config, int(3.7 * len(source) / config.batch_size))
    return {"kind": kind, "records": len(source), "first_s": first, "resume_s": resume, **memory}


def start(source: Simulated, config, step: int) -> tuple[float, dict[str, float]]:
    """Seconds to the first batch from `step` on, and megabytes that belong to each process once it runs."""
    since = time.perf_counter()
    batches = pipeline.train_batches(source, config, start_step=step, stop_step=step + 10_000)
    next(batches)
    seconds = time.perf_counter() - since
    for _ in range(4 * config.data.workers):
        next(batches)
    workers = [private(child.pid) for child in multiprocessing.active_children()]
    memory = {"worker_mb": max(workers, default=0.0), "main_mb": private("self")}
    batches.close()
    while multiprocessing.active_children():
        time.sleep(0.1)
    return seconds, memory


def private(process: int | str) -> float:
    """Megabytes of memory that belong to a process alone."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def print_row(row: dict, first: bool) -> None:
    if first:
        titles = ("first batch s", "resume s", "MB per worker", "MB of main")
        print(f"{'':10s}{'records':>13s}" + "".join(f"{title:>15s}" for title in titles))
    _, _, *values = row.values()
    print(f"{row['kind']:10s}{row['records']:13,d}" + "".join(f"{value:15.1f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
