"""What this project does on an accelerator: one run of a few minutes, for correctness first, then for speed.

    python benchmarks/accelerator.py [--minutes 9] [--parts a,b,d] [--skip e] [--cifar FOLDER] [--output FILE.json]
    python benchmarks/accelerator.py --dry        tiny sizes on CPU: shows that every part runs, and measures nothing

a. Every architecture: a training step and an evaluation in bfloat16 and float32, finite; float32 at config.precision
   "highest" against the values of the CPU form on the CPU of the same machine.
b. ResNet-50, 224, batch 256, bfloat16: images/s and MFU of the training step, as it is, with batch norm in two passes
   and with config.deterministic; next to torch eager and torch.compile; what the compiled program reads and writes.
c. Steps of detectors and segmenters at their recipes' sizes, next to torchvision; RoI Align and its gradient in four
   formulations; NMS.
d. Runs killed by SIGKILL and resumed, and one command twice: equal bits? With and without config.deterministic.
e. ResNet-20 on CIFAR-10 by the paper's schedule, as many seeds as there is time for.
f. ResNet-50's evaluation, next to torch.

The order is that of importance: b, then a and d together (which time nothing), c, f, e. A part has a share of the
minutes, and what the parts before it left over. It runs in processes of its own: one that fails or hangs is ended and
recorded with a line. The results, FILE.json and a table FILE.md, are written after every row, so that nothing is lost
when the whole is cut off. What the processes printed is in --logs.

Parts b, c and f time the steps of processes that share the card, one at a time.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import turns
from on_accelerator import architectures, dense, resnet, runs
from on_accelerator.call import ROOT, Call
from served import Answers, Row, serve

GROUPS = (("b",), ("a", "d"), ("c",), ("f",), ("e",))  # in the order of importance; those of a group run together
RUNS: dict[str, tuple[str, float, Callable[[Call], Iterator[Row]]]] = {  # title, share of the time, rows
    "a": ("Architectures", 150, architectures.rows),
    "b": ("ResNet-50, training", 150, resnet.training),
    "c": ("Detectors, segmenters, operations", 100, dense.rows),
    "d": ("Killed and resumed", 150, runs.resumption),
    "e": ("ResNet-20 on CIFAR-10", 95, runs.cifar),
    "f": ("ResNet-50, evaluation", 45, resnet.evaluation),
}
CONTENDERS: dict[str, Callable[[bool, str], Answers]] = {
    "architectures": architectures.serve,
    "resnet": resnet.serve,
    "step": dense.serve,
    "operations": dense.serve_operations,
}
LOOK = 0.5  # seconds between two looks at the parts that run


@dataclass
class Part:
    """A part that runs, or has ended."""

    name: str
    seconds: float
    folder: Path
    process: subprocess.Popen
    began: float
    log: Path

    @property
    def rows(self) -> list[Row]:
        """What it has found so far; a row replaces an earlier one with the same key."""
        path = self.folder / f"{self.name}.jsonl"
        found: dict[Any, Row] = {}
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else ()):
            try:
                row = json.loads(line)
            except ValueError:
                break  # it is being written
            found[row.pop("key", number)] = row
        return list(found.values())

    def end(self) -> None:
        """Ends the processes of the part, which are a group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def error(self) -> str:
        """A line on why it ended early; "" if it did not."""
        if not self.process.returncode:
            return ""
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"status {self.process.returncode}: {said[-1] if said else 'no message'}"[:300]


class Record:
    """The results, which are written whenever something is new."""

    def __init__(self, path: Path, facts: Row):
        self._path, self._facts, self._parts, self._written = path, facts, {}, ""

    def put(self, name: str, status: str, seconds: float, rows: Sequence[Row], error: str = "") -> None:
        self._parts[name] = {
            "title": RUNS[name][0],
            "status": status,
            "seconds": round(seconds, 1),
            **({"error": error} if error else {}),
            "rows": list(rows),
        }
        self._write()

    def _write(self) -> None:
        facts = self._facts | {"parts": dict(sorted(self._parts.items()))}
        text = json.dumps(facts, indent=1, allow_nan=False)
        if text != self._written:
            turns.save(self._path, facts)
            self._path.with_suffix(".md").write_text(page(facts))
            self._written = text

    @property
    def parts(self) -> Mapping[str, Row]:
        return self._parts


def page(record: Row) -> str:
    """The results as Markdown: a table per part."""
    facts = ", ".join(f"{key} {value}" for key, value in record.items() if key != "parts")
    lines = ["# On an accelerator", "", facts, ""]
    for name, part in record["parts"].items():
        lines += [f"## {name}. {part['title']}", "", f"{part['status']}, {part['seconds']:.0f} s", ""]
        lines += [part["error"], ""] if "error" in part else []
        lines += table(part["rows"])
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Row]) -> list[str]:
    """A column for every key of a single value, in the order in which keys come first."""
    keys = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, (dict, list))))
    if not keys:
        return []
    lines = [keys, ["---"] * len(keys), *([shown(row.get(key)) for key in keys] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value).replace("|", "/")


def share(group: Sequence[str], later: Sequence[str], left: float) -> float:
    """The seconds for the parts of `group`, which run together, of the `left` ones, which the `later` parts share."""
    own = max(RUNS[name][1] for name in group)
    return left * own / (own + sum(RUNS[name][1] for name in later))


def start(name: str, seconds: float, args: argparse.Namespace, folder: Path, logs: Path) -> Part:
    command = [sys.executable, str(Path(__file__)), f"--part={name}", f"--seconds={seconds}", f"--folder={folder}"]
    command += ["--dry"] if args.dry else []
    command += [f"--cifar={args.cifar}"] if args.cifar else []
    log = logs / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
    return Part(name, seconds, folder, process, time.monotonic(), log)


def run(
    group: Sequence[str], seconds: float, args: argparse.Namespace, folder: Path, logs: Path, record: Record
) -> None:
    """Runs the parts of a group together, and ends those that take longer than `seconds`."""
    running = [start(name, seconds, args, folder, logs) for name in group]
    try:
        while running:
            time.sleep(LOOK)
            for part in list(running):
                spent = time.monotonic() - part.began
                ended, late = part.process.poll() is not None, spent > part.seconds
                if ended or late:
                    part.end()
                    running.remove(part)
                status = "done" if ended else "cut off" if late else "running"
                error = part.error() if ended else f"cut off after {spent:.0f} s" if late else ""
                record.put(part.name, "failed" if ended and error else status, spent, part.rows, error)
    finally:
        for part in running:
            part.end()


def one_part(args: argparse.Namespace) -> None:
    """Runs one part in this process, whose rows go to a file."""
    call = Call(args.dry, args.seconds, args.folder, args.cifar, time.monotonic())
    with (args.folder / f"{args.part}.jsonl").open("w") as file:
        for row in RUNS[args.part][2](call):
            print(json.dumps(row, allow_nan=False), file=file, flush=True)


def contend(name: str, dry: bool) -> None:
    """Serves the contender that `Call.contender` names. The dry run takes the accelerators' form on CPU."""
    from morphism.ops.platform import as_accelerator

    kind, _, given = name.partition(":")
    with as_accelerator() if dry else contextlib.nullcontext():
        serve(lambda: CONTENDERS[kind](dry, given))


def facts(args: argparse.Namespace) -> Row:
    """What the figures depend on, from a process of its own, which leaves the card when it ends."""
    code = (
        "import json, jax\n"
        "from morphism.runtime.surroundings import surroundings\n"
        "found = surroundings()\n"
        "print(json.dumps({'device': found['devices'][0], 'platform': found['platform'], 'jax': jax.__version__,"
        " 'platform_version': found['platform_version'], 'revision': found['git_revision']}, allow_nan=False))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"accelerator: error: JAX does not start: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"cores": os.cpu_count(), "dry": args.dry}


def letters(text: str) -> list[str]:
    found = text.replace(",", " ").split()
    if unknown := [each for each in found if each not in RUNS]:
        raise argparse.ArgumentTypeError(f"there is no part {unknown[0]!r}; there are {', '.join(RUNS)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="9 unless given; a dry run may take an hour")
    parser.add_argument("--parts", type=letters, default=list(RUNS))
    parser.add_argument("--skip", type=letters, default=[])
    parser.add_argument("--dry", action="store_true", help="tiny sizes on CPU")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10's images, a folder per class")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "accelerator.json")
    parser.add_argument("--logs", type=Path, help="folder of what the processes print; next to the output unless given")
    parser.add_argument("--part", choices=sorted(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return contend(args.serve, args.dry)
    if args.part:
        return one_part(args)

    if args.dry:
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif os.environ.get("JAX_PLATFORMS"):
        os.environ["JAX_PLATFORMS"] += ",cpu"  # part a compares with it
    began, seconds = time.monotonic(), 60 * (args.minutes or (60 if args.dry else 9))
    found = facts(args)
    if found["platform"] == "cpu" and not args.dry:
        print("accelerator: there is none here; --dry shows that every part runs")
        return None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `run` ends the processes of its parts
    chosen = [name for name in args.parts if name not in args.skip]
    groups = [tuple(name for name in group if name in chosen) for group in GROUPS]
    groups = [(name,) for group in groups for name in group] if args.dry else [group for group in groups if group]
    record, logs = Record(args.output, found), args.logs or args.output.with_name(f"{args.output.stem}-logs")
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="morphism-accelerator-") as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/programs")
        for number, group in enumerate(groups):
            later = [max(each, key=lambda name: RUNS[name][1]) for each in groups[number + 1 :]]
            left = seconds - (time.monotonic() - began)
            run(group, left if args.dry else share(group, later, left), args, Path(folder), logs, record)
            for name in group:
                part = record.parts[name]
                print(
                    f"{name}. {part['title']}: {part['status']}, {len(part['rows'])} rows, {part['seconds']} s",
                    flush=True,
                )
        for log in Path(folder).glob("*.log"):
            (logs / log.name).write_bytes(log.read_bytes()[-100_000:])
    print(args.output.with_suffix(".md").read_text())
    return None


if __name__ == "__main__":
    main()
