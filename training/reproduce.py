"""Trains what a workdir describes again, with all that its manifest records, and compares the two runs."""

import os
from collections.abc import Mapping, Sequence
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
from morphism.runtime.manifest import data_changed, has_steps, read_classes, read_config, read_starts, with_tuples
from morphism.runtime.paths import AnyPath, read_json, write_json, write_text
from morphism.runtime.surroundings import repeatable
from morphism.training.build import lengths_of
from morphism.training.meter import TIMED

KEPT = 10  # checkpoints that a rerun keeps which is stopped where the run ended early
# What a rerun sets itself from what the manifest says of platform and devices.
SET = ("environment.JAX_PLATFORMS", "environment.JAX_NUM_CPU_DEVICES")
UNCOMPARED = (
    "started",
    "command",
    "folder",
    "seed",
    "precision",
    "deterministic",
    "derived",
    "parameters",
    "multiply_accumulates",
    "init_from",
)
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
    if not has_steps(workdir):
        raise UserError(f"{workdir}: no checkpoint to compare with; first run morphism train --workdir {workdir}")
    with Checkpoints(workdir) as checkpoints:
        newest = checkpoints.latest() or 0
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
    last = max(newest, *(line["step"] for line in read_run(str(workdir)).metrics), 0)
    return Original(workdir, config, stored, starts, last, last >= lengths), notes + data_notes


def _file_notes(starts: Sequence[Mapping[str, Any]], stored: Mapping[str, Any]) -> list[str]:
    notes = []
    if not repeatable(starts[-1]):
        notes.append("deterministic: False, on a GPU: last bits may differ even where nothing else does")
    if starts[-1].get("seed", stored["seed"]) != stored["seed"]:
        notes.append(f"seed: {starts[-1]['seed']} in manifest.json, {stored['seed']} in config.json, which counts")
    if len(starts) > 1:
        newest, earlier = _compared(starts[-1]), [_compared(each) for each in starts[:-1]]
        changed = [name for name, value in newest.items() if any(each.get(name, value) != value for each in earlier)]
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
    if with_tuples(task.class_names(found[data.train_split])) != read_classes(workdir):
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

    What an earlier version did not record is named in a line. Another revision with the same code is the same.
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
    unknown = [name for name in now if name not in then]
    if unknown:
        lines.append(f"not in the manifest, so not compared: {', '.join(unknown)}")
    return same, lines


def _shown(value: Any) -> str:
    if isinstance(value, list) and value:
        return ", ".join(f"{value.count(each)} x {each}" for each in dict.fromkeys(value))
    return "none" if value in (None, "") else str(value)


def lock_text(start: Mapping[str, Any]) -> str:
    """A requirements file with the exact versions of `start`, for pip install -r."""
    python = f"# Python {start.get('python', 'unknown')}; revision {start.get('git_revision') or 'unknown'}\n"
    return python + "".join(f"{name}=={version}\n" for name, version in sorted(start["packages"].items()))


def compared(first: AnyPath, other: AnyPath, until: int | None = None, lenient: bool = False) -> tuple[bool, list[str]]:
    """Whether two runs are equal to the bit, up to the step `until`; and lines for a person.

    `lenient`: whether one of them may have log lines that the other lacks. So it is where a run was continued.
    """
    runs = [read_run(str(each)) for each in (first, other)]
    lines = [[line for line in run.metrics if until is None or line["step"] <= until] for run in runs]
    metrics = metrics_parting(*lines, TIMED)
    lenient = lenient or any(len(run.starts) > 1 for run in runs)
    arrays = {}
    if has_steps(first) and has_steps(other):
        with Checkpoints(first) as a, Checkpoints(other) as b:
            common = sorted(set(a.steps()) & set(b.steps()))
            arrays = {step: arrays_parting(by_path(a.read(step)), by_path(b.read(step))) for step in common}
    equal, found = verdict(metrics, arrays, lenient)
    weights = [run.starts[0].get("init_sha256") if run.starts else None for run in runs]
    return equal, found + ["init_from: they started from other weights"] * (weights[0] != weights[1])


def check_fresh(into: AnyPath) -> None:
    """Raises UserError if `into` holds anything."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise UserError(f"{into}: exists already; name a new folder with --into")


def prepare(original: Original, into: AnyPath) -> None:
    """Writes the run's configuration to the fresh workdir `into`. Raises UserError if it cannot be written."""
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


def write_lock(path: AnyPath, start: Mapping[str, Any]) -> None:
    write_text(path, lock_text(start), "name a file that can be written as --lock")
