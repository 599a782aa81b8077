"""Whole runs by train.py: killed and resumed, and by a paper's schedule."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from served import Row

from on_accelerator.call import ROOT, Call, environment

NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
EXACT = "--config.deterministic=True"
BFLOAT16 = "--config.model.dtype=bfloat16"
EXCLUDED = {"XLA_FLAGS": "--xla_gpu_exclude_nondeterministic_ops"}
FIRE = (  # what it is, the network, flags, environment
    ("deterministic", "classification", (EXACT,), NO_CACHE),
    ("default", "classification", (), NO_CACHE),
    ("default, programs from the cache", "classification", (), {}),
    ("deterministic, bfloat16", "classification", (EXACT, BFLOAT16), NO_CACHE),
    ("deterministic", "detection", (EXACT,), NO_CACHE),
    ("default, programs from the cache", "detection", (), {}),
    ("default, bfloat16", "classification", (BFLOAT16,), NO_CACHE),
    ("exclude_nondeterministic_ops, bfloat16", "classification", (BFLOAT16,), NO_CACHE | EXCLUDED),
)


def resumption(call: Call) -> Iterator[Row]:
    """Each by benchmarks/resume_under_fire.py, several at a time."""
    cases = FIRE[:1] if call.dry else FIRE

    def burn(number: int) -> Row:
        who, network, flags, variables = cases[number]
        output = call.folder / f"fire{number}.json"
        command = [sys.executable, "benchmarks/resume_under_fire.py", f"--network={network}", f"--output={output}"]
        command += ["--kills=1", "--steps=20"] if call.dry else ["--kills=3", "--steps=160", "--twice"]
        command += flags
        cache = {"JAX_COMPILATION_CACHE_DIR": str(call.folder / f"cache{number}")}
        log = call.folder / f"fire{number}.log"
        with log.open("w") as file:
            began = time.monotonic()
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=file, env=environment() | cache | variables
            )
            try:
                process.wait(max(call.left - 2, 1))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        row = {"what": f"{network}, killed and resumed", "who": who, "seconds": time.monotonic() - began}
        if not output.exists():
            said = log.read_text(errors="replace").strip().splitlines() or ["no message"]
            return row | {"error": said[-1][:300]}
        found = json.loads(output.read_text())
        equal = {name: "equal" if same else "DIFFERENT" for name, same in found["equal"].items()}
        return row | {"kills": len(found["kills"]), **equal}

    with ThreadPoolExecutor(max(1, call.at_once // 2)) as pool:
        for done in as_completed([pool.submit(burn, number) for number in range(len(cases))]):
            yield done.result()


def cifar(call: Call) -> Iterator[Row]:
    """One seed after the other, each by train.py, until the time is over; a row per evaluation.

    The paper tests on 10,000 images. Those at hand are its 50,000 for training, stored as JPEG: 5,000 are held out.
    """
    from morphism.experiments.base import FIELDS
    from morphism.experiments.fields import flat

    if call.cifar is None and not call.dry:
        yield {"what": "ResNet-20, CIFAR-10", "error": "no images: give --cifar FOLDER"}
        return
    flags = ["--config.plots=False", "--config.writers=()", "--config.checkpoint_every=0", "--config.log_every=500"]
    if "data.on_device" in flat(FIELDS["classification"]):
        flags += ["--config.data.on_device=True"]
    if call.dry:
        flags += ["--config.data.source=embedded", "--config.model.name=cifar_resnet8", "--config.duration=12"]
        flags += ["--config.batch_size=16", "--config.eval_every=0", "--config.data.train_split=train[:1%]"]
    else:
        flags += [f"--config.data.source=folder:{call.cifar}", "--config.eval_every=8k"]
        flags += [f"--config.data.threads={max(2, (os.cpu_count() or 2) - 2)}"]
    for seed in range(1 if call.dry else 5):
        workdir, log = call.folder / f"cifar{seed}", call.folder / f"cifar{seed}.log"
        command = [sys.executable, "train.py", "--config=experiments/cifar10_resnet.py:20", f"--workdir={workdir}"]
        with log.open("w") as file:
            began = time.monotonic()
            process = subprocess.Popen(
                [*command, f"--config.seed={seed}", *flags], cwd=ROOT, stdout=file, stderr=file, env=environment()
            )
            shown = None
            while process.poll() is None and call.left > 0:
                time.sleep(0.5)
                found = _last_evaluation(workdir / "metrics.jsonl")
                if found and found != shown:
                    shown = found
                    yield _cifar_row(seed, found, time.monotonic() - began, over=False)
            process.kill()
            process.wait()
        found = _last_evaluation(workdir / "metrics.jsonl")
        if process.returncode or not found:
            said = log.read_text(errors="replace").strip().splitlines() or ["no message"]
            yield {
                "what": "ResNet-20, CIFAR-10",
                "who": f"seed {seed}",
                "error": said[-1][:300],
                "key": f"error {seed}",
            }
            return
        yield _cifar_row(seed, found, time.monotonic() - began, over=True)


def _cifar_row(seed: int, found: Row, seconds: float, over: bool) -> Row:
    return {
        "key": f"seed {seed}",
        "what": "ResNet-20, CIFAR-10, 5,000 images held out",
        "who": f"seed {seed}",
        "step": found["step"],
        "over": over,
        "top1": found["val/top1"],
        "seconds": seconds,
        "images_per_s": found.get("train/images_per_s"),
    }


def _last_evaluation(path: Path) -> Row | None:
    """The last evaluation in metrics.jsonl, with the speed of the steps before it; None before there is one."""
    if not path.exists():
        return None
    found: Row = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break  # it is being written
        speed = {key: row[key] for key in ("train/images_per_s",) if key in row}
        found |= speed
        if "val/top1" in row:
            found |= {"step": row["step"], "val/top1": row["val/top1"]}
    return found if "step" in found else None
