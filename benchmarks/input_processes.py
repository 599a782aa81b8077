"""The input of a training that several processes share: images per CPU-second, and whether they load the same batches.

    python benchmarks/input_processes.py folder:/data/cifar10 [--layouts 1x8 2x4 4x2] [--batch 256] [--output FILE]

Each layout, processes x CPU devices, is started on this machine and joined over loopback. A process reads its rows of
the training batches of experiments/cifar10_resnet.py, from files to its devices, by the pipeline that trains. After
some steps CPU-seconds are counted; they are those of all processes in sum. "same": the rows of all processes, one after
the other, have the records and the pixels of the first layout's, in the same order, in every step.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import turns

Row = dict[str, Any]


def main() -> None:
    arguments = parse()
    if arguments.serve:
        print(json.dumps(read(arguments), allow_nan=False), flush=True)
        return
    rows, first = [], None
    for layout in arguments.layouts:
        found = started(layout, arguments)
        # By step: what each process has of it, joined in their order.
        steps = zip(*(each["rows"] for each in found), strict=True)
        batches = [[row for rows in each for row in rows] for each in steps]
        first = first or batches
        images = arguments.batch * arguments.steps
        rows.append(
            {
                "layout": layout,
                "images_per_cpu_s": images / sum(each["cpu_s"] for each in found),
                "images_per_s": images / max(each["wall_s"] for each in found),
                "same": batches == first,
            }
        )
        print(json.dumps(rows[-1], allow_nan=False), flush=True)
    turns.save(arguments.output, {"source": arguments.source, "batch": arguments.batch, "rows": rows})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="config.data.source of the images")
    parser.add_argument("--layouts", nargs="+", default=["1x8", "2x4", "4x2"], help="processes x devices of each")
    parser.add_argument("--batch", type=int, default=256, help="images per global batch")
    parser.add_argument("--warm", type=int, default=20, help="steps before the measured ones")
    parser.add_argument("--steps", type=int, default=100, help="steps that are measured")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "input_processes.json")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)  # address, number of processes, own number
    return parser.parse_args()


def started(layout: str, arguments: argparse.Namespace) -> list[Row]:
    """What each process of a layout has read."""
    processes, devices = map(int, layout.split("x"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    flags = [f"--{name}={getattr(arguments, name)}" for name in ("batch", "warm", "steps")]
    command = [sys.executable, __file__, arguments.source, *flags, "--serve", address, str(processes)]
    every = [
        subprocess.Popen([*command, str(index)], env=environment, stdout=subprocess.PIPE, text=True)
        for index in range(processes)
    ]
    # All at once: at its end each waits for the others, which may wait for a reader of what they print.
    with ThreadPoolExecutor(processes) as pool:
        outputs = [output for output, _ in pool.map(subprocess.Popen.communicate, every)]
    if any(each.returncode for each in every):
        sys.exit(f"{layout}: a process failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def read(arguments: argparse.Namespace) -> Row:
    """Reads as one of the processes: seconds, and [record, checksum of the pixels] of its rows in each step."""
    from morphism.data import sources
    from morphism.data.intensity import settle
    from morphism.experiments.cifar10_resnet import get_config
    from morphism.runtime.mesh import make_mesh, own_rows
    from morphism.runtime.startup import start_jax
    from morphism.training.feed import training_pairs

    address, processes, index = arguments.serve
    start_jax(True, address, int(processes), int(index))
    config = get_config("20")
    with config.unlocked():
        config.data.source, config.batch_size = arguments.source, arguments.batch
    source = sources.load(config.data, config.data.train_split)
    pairs = training_pairs(source, settle(config, source), make_mesh(), 0, arguments.warm + arguments.steps + 10)
    rows, wall, cpu = [], 0.0, 0.0
    for step, (on_host, batch) in zip(range(arguments.warm + arguments.steps), pairs, strict=False):
        if step == arguments.warm:
            wall, cpu = time.perf_counter(), time.process_time()
        images = own_rows({"image": batch["image"]})["image"]
        rows.append([[record, zlib.crc32(image)] for record, image in zip(on_host["id"].tolist(), images, strict=True)])
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "rows": rows}


if __name__ == "__main__":
    main()
