"""Trains what a workdir describes again, with all that its manifest records, and compares the two runs."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from morphism import tasks
from morphism.data import sources
from morphism.data.fingerprint import fingerprint
from morphism.errors import UserError
from morphism.evaluation.compare import arrays_parting, flattened, metrics_parting, verdict
from morphism.evaluation.report.reading import read_run
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import by_path
from morphism.runtime.manifest import data_changed, read_classes, read_config, read_starts, with_tuples
from morphism.runtime.paths import AnyPath, read_json, write_json, write_text
from morphism.runtime.surroundings import ROOT, chosen, code_sha256
from morphism.training.build import lengths_of
from morphism.training.meter import TIMED

PROBE = "import json; from morphism.runtime.surroundings import surroundings as s; print(json.dumps(s()))"
KEPT = 10  # checkpoints that a rerun keeps which is stopped where the run ended early
# What a rerun sets itself from what the manifest says of platform and devices.
SET = ("environment.JAX_PLATFORMS", "environment.JAX_NUM_CPU_DEVICES")
UNCOMPARED = ("started", "command", "folder", "seed", "derived", "parameters", "multiply_accumulates", "init_from")
DIRTY = "-dirty"


class Original(NamedTuple):
    """A run to reproduce.

    stored: config.json as it is written. starts: the manifest. last: its last step on record. ended: whether its
    training went on to its end.
    """

    workdir: AnyPath
    config: ConfigDict
    stored: dict[str, Any]
    starts: list[dict[str, Any]]
    last: int
    ended: bool

    @property
    def start(self) -> dict[str, Any]:
        """The entry of the newest start."""
        return self.starts[-1]


def read_original(workdir: AnyPath, source: str | None) -> tuple[Original, list[str]]:
    """The run in `workdir`, and a line for each way in which its data and its files are not what they were.

    `source`, if given, is where its data lies now, as config.data.source has it. Raises UserError if a file is missing
    or broken, if the run cannot be repeated by one process, and if its data is gone or has other classes.
    """
    starts, stored = read_starts(workdir), read_json(workdir / "config.json", dict)
    config = read_config(workdir).copy_and_resolve_references()
    with Checkpoints(workdir) as checkpoints:
        steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{workdir}: no checkpoint to compare with; first run morphism train --workdir {workdir}")
    if starts[-1].get("processes", 1) > 1:
        raise UserError(
            f"{workdir}: trained by {starts[-1]['processes']} processes, which one command cannot start; copy its "
            "config.json into a new folder, run morphism train --distributed --workdir there on all machines, then "
            "morphism compare"
        )
    if source:
        with config.unlocked():
            config.data.source = stored["data"]["source"] = source
    notes = _file_notes(starts, stored)
    lengths, data_notes = _check_data(workdir, config, starts[-1].get("folder", ""))
    last = max(steps[-1], *(line["step"] for line in read_run(str(workdir)).metrics), 0)
    return Original(workdir, config, stored, starts, last, last >= lengths), notes + data_notes


def _file_notes(starts: Sequence[Mapping[str, Any]], stored: Mapping[str, Any]) -> list[str]:
    notes = []
    if starts[-1].get("seed", stored["seed"]) != stored["seed"]:
        notes.append(f"seed: {starts[-1]['seed']} in manifest.json, {stored['seed']} in config.json, which counts")
    if len(starts) > 1:
        changed = [
            name
            for name in _compared(starts[-1])
            if any(
                _compared(each).get(name, value) != value for each in starts for value in [_compared(starts[-1])[name]]
            )
        ]
        differ = f"; the starts differ in {', '.join(changed)}, and the newest counts" if changed else ""
        notes.append(f"started {len(starts)} times, and the rerun goes through without a stop{differ}")
    return notes


def _check_data(workdir: AnyPath, config: ConfigDict, started_in: str) -> tuple[int, list[str]]:
    """The length of the training in steps, and a line for each split whose data has changed."""
    task, data = tasks.of(config), config.data
    try:
        found = {split: sources.load(data, split) for split in (data.train_split, data.val_split)}
    except UserError as error:
        where = f" (the run was started in {started_in})" if started_in not in ("", os.getcwd()) else ""
        raise UserError(f"{error}{where}; restore the data, or say where it is now with --source KIND:PATH") from error
    classes, now = read_classes(workdir), with_tuples(task.class_names(found[data.train_split]))
    if with_tuples(json.loads(json.dumps(now))) != classes:
        raise UserError(
            f"{workdir}: the data now has other classes than classes.json; restore the data, or say where the run's "
            "data is with --source KIND:PATH"
        )
    notes = []
    for split, source in found.items():
        difference = data_changed(workdir, split, fingerprint(source), own=split == data.train_split)
        if difference:
            notes.append(f"data: {split} has changed: {difference}")
    return lengths_of(config, len(found[data.train_split]) / config.batch_size).total, notes


def _compared(start: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name -> value of what the numbers of a run may depend on."""
    facts = {name: value for name, value in start.items() if name not in (*UNCOMPARED, "init_sha256")}
    return {name: value for name, value in flattened(facts).items() if name not in SET and value != {}}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The names in which two starts are the same, and a line for each in which they differ.

    What an earlier version did not record is neither. A revision with the same code is the same.
    """
    before, after = _compared(then), _compared(now)
    if before.get("code_sha256", "") == after.get("code_sha256"):
        before.pop("git_revision", None)
    groups = [group for group in ("packages", "environment") if group in then and group in now]
    optional = [name for name in after if name.partition(".")[0] == "environment" and "environment" in groups]
    same, lines = [], []
    for name in dict.fromkeys([*before, *optional]):
        if before.get(name) == after.get(name):
            same.append(name)
        else:
            lines.append(f"{name}: {_shown(before.get(name))} then, {_shown(after.get(name))} here")
    return same, lines


def _shown(value: Any) -> str:
    if isinstance(value, list) and value:
        return ", ".join(f"{value.count(each)} x {each}" for each in dict.fromkeys(value))
    return "none" if value in (None, "") else str(value)


def lock_text(start: Mapping[str, Any]) -> str:
    """A requirements file with the exact versions of `start`, for pip install -r."""
    python = f"# Python {start.get('python', 'unknown')}; revision {start.get('git_revision') or 'unknown'}\n"
    return python + "".join(f"{name}=={version}\n" for name, version in sorted(start["packages"].items()))


def environment(start: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, str]:
    """The variables with which to start the rerun: `own`, with those of `start` on which its numbers depend."""
    found = {name: value for name, value in own.items() if name not in chosen(own)}
    found |= start.get("environment", chosen(own))
    if start.get("platform") == "cpu":
        found.setdefault("JAX_PLATFORMS", "cpu")
        if "host_platform_device_count" not in found.get("XLA_FLAGS", ""):
            found.setdefault("JAX_NUM_CPU_DEVICES", str(len(start["devices"])))
    return found


@contextmanager
def on_cores(number: int | None) -> Iterator[None]:
    """Lets this process, and those that it starts, run on `number` cores, or on all where there are no more."""
    if number is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def code_of(revision: str) -> Iterator[Path]:
    """A folder from which `import morphism` is the code of `revision`, or this code if that is "".

    Raises UserError if this is no git checkout, or if it lacks the revision.
    """
    with ExitStack() as after:
        above = Path(after.enter_context(tempfile.TemporaryDirectory(prefix="morphism-")))
        if not revision:
            (above / "morphism").symlink_to(ROOT, target_is_directory=True)
        else:
            if _git("rev-parse", "--show-prefix") != "":
                raise UserError(f"{ROOT}: no git checkout; clone the repository, or leave out --worktree")
            if _git("cat-file", "-t", revision) != "commit":
                raise UserError(
                    f"{ROOT}: has no revision {revision}; run git fetch --all there, or leave out --worktree"
                )
            if _git("worktree", "add", "--detach", str(above / "morphism"), revision) is None:
                raise UserError(
                    f"{ROOT}: git worktree add failed; run git worktree prune there, or leave out --worktree"
                )
            after.callback(_git, "worktree", "remove", "--force", str(above / "morphism"))
            if not (above / "morphism" / "__main__.py").exists():
                raise UserError(f"{revision} has no command morphism yet; leave out --worktree")
        yield above


def _git(*arguments: str) -> str | None:
    """What git prints; None if it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()


def probed(variables: Mapping[str, str], code: Path) -> dict[str, Any]:
    """The surroundings of a process that is started as the rerun will be. Raises UserError if JAX fails there."""
    with code_of("") as own:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={**variables, "PYTHONPATH": str(own)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"JAX cannot start as it did for the run ({reason}); use a machine with such devices")
    facts = json.loads(done.stdout.splitlines()[-1])
    checkout = (code / "morphism").resolve()
    return facts if checkout == ROOT.resolve() else facts | {"code_sha256": code_sha256(checkout)}


def prepare(original: Original, into: AnyPath) -> None:
    """Writes the run's configuration to the fresh workdir `into`. Raises UserError if that holds anything."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise UserError(f"{into}: exists already; name a new folder with --into")
    fields: dict[str, Any] = {"plots": False, "writers": []}  # they change no number
    if not original.ended:
        fields["keep"] = max(original.stored["keep"], KEPT)
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{into}: cannot be made ({error.strerror or error}); name another folder with --into"
        ) from error
    config = original.stored | {name: value for name, value in fields.items() if name in original.stored}
    write_json(into / "config.json", config)


def rerun(original: Original, into: AnyPath, variables: Mapping[str, str], code: Path) -> None:
    """Trains in a process of its own, until the run's last step. Raises UserError if the training fails."""
    path = os.pathsep.join([str(code), *([variables["PYTHONPATH"]] if variables.get("PYTHONPATH") else [])])
    process = subprocess.Popen(
        [sys.executable, "-m", "morphism", "train", "--workdir", str(into)], env={**variables, "PYTHONPATH": path}
    )
    stopping = False
    try:
        while process.poll() is None:
            with_timeout(process)
            if not stopping and last_step(into) > original.last:
                process.send_signal(signal.SIGTERM)  # it finishes the step, and saves
                stopping = True
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    if process.returncode:
        raise UserError(f"the training of {into} ended with status {process.returncode}; its own error is above")


def with_timeout(process: subprocess.Popen) -> None:
    """Waits for the end of a process, a second at most."""
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        return


def last_step(workdir: AnyPath) -> int:
    """The last step in metrics.jsonl; 0 before there is one."""
    return max((line["step"] for line in read_run(str(workdir)).metrics), default=0)


def compared(first: AnyPath, other: AnyPath, until: int | None = None, lenient: bool = False) -> tuple[bool, list[str]]:
    """Whether two runs are equal to the bit, up to the step `until`; and lines for a person.

    `lenient`: whether one of them may have log lines that the other lacks. So it is where a run was continued.
    """
    runs = [read_run(str(each)) for each in (first, other)]
    lines = [[line for line in run.metrics if until is None or line["step"] <= until] for run in runs]
    metrics = metrics_parting(*lines, TIMED)
    lenient = lenient or any(len(run.starts) > 1 for run in runs)
    with Checkpoints(first) as a, Checkpoints(other) as b:
        common = sorted(set(a.steps()) & set(b.steps()))
        arrays = {step: arrays_parting(by_path(a.read(step)), by_path(b.read(step))) for step in common}
    return verdict(metrics, arrays, lenient)


def write_lock(path: AnyPath, start: Mapping[str, Any]) -> None:
    write_text(path, lock_text(start), "name a file that can be written as --lock")
