"""What a report shows of a run: the files of its workdir, as far as they can be read."""

import io
import json
import shlex
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from morphism.errors import UserError
from morphism.runtime.paths import AnyPath, folder, read_json

INDEX = "index.json"  # of the archive of small images
FACTS = ("split", "source", "views")  # what `morphism eval` writes besides a summary


@dataclass(frozen=True)
class Evaluation:
    """What `morphism eval` has written.

    name: of the file, without "eval_". summary: its numbers. images: a dictionary per image, as Task.per_image
    describes it. index: what the small images are. small: their JPEGs by name. plots: the numbers of plots.
    """

    name: str
    summary: dict[str, Any]
    images: list[dict[str, Any]]
    index: dict[str, Any]
    small: dict[str, bytes]
    plots: dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """A run. notes: what could not be read, each with a remedy. starts: the manifest."""

    name: str
    path: str
    config: dict[str, Any]
    classes: Any
    records: dict[str, int]
    starts: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    evaluations: list[Evaluation]
    notes: list[str] = field(default_factory=list)

    def shown(self, split: str | None) -> Evaluation | None:
        """The evaluation to show in detail: of `split`, else of the validation split, else the first."""
        wanted = split or self.config["data"]["val_split"]
        own = [each for each in self.evaluations if wanted in (each.name, each.summary["split"])]
        if split:
            return own[0] if own else None
        return next(iter(own or self.evaluations), None)


def read_run(where: str) -> RunFiles:
    """Reads a workdir. Raises UserError if it has no configuration; everything else may be missing or broken."""
    path, notes = folder(where), []
    config = read_json(path / "config.json", dict)
    if not {"task", "data", "model"} <= config.keys():
        raise UserError(f"{path / 'config.json'}: not the configuration of a run; restore it")

    def optional(name: str, kind: Any, empty: Any) -> Any:
        try:
            return read_json(path / name, kind)
        except UserError as error:
            missing = not (path / name).exists()
            notes.append(f"{path / name}: missing; the run has not started" if missing else str(error))
            return empty

    data = optional("data.json", dict, {})
    return RunFiles(
        name=path.name or str(path),
        path=str(path),
        config=config,
        classes=optional("classes.json", list | dict, []),
        records={split: each["records"] for split, each in data.items() if type(each) is dict and "records" in each},
        starts=[each for each in optional("manifest.json", list, []) if type(each) is dict],
        metrics=read_metrics(path / "metrics.jsonl", notes),
        evaluations=_evaluations(path, notes),
        notes=notes,
    )


def read_metrics(path: AnyPath, notes: list[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, by step; what is missing or broken is added to `notes`."""
    lines, broken = _json_lines(path, lambda line: type(line.get("step")) is int)
    if not lines:
        notes.append(f"{path}: no line yet; a training writes one every config.log_every")
    elif broken:
        notes.append(f"{path}: {broken} broken line(s) left out; the next start of the run mends it")
    return sorted(lines, key=lambda line: line["step"])


def _evaluations(path: AnyPath, notes: list[str]) -> list[Evaluation]:
    found = []
    for file in sorted(path.glob("eval_*.json")):
        try:
            summary = read_json(file, dict | list)
        except UserError as error:
            notes.append(f"{error}".replace("restore it, or start in another --workdir", "run morphism eval again"))
            continue
        if isinstance(summary, dict) and all(name in summary for name in FACTS):
            found.append(_evaluation(path, file, summary, notes))
    if not found:
        notes.append(f"{path}: not evaluated; {_evaluating(path)} adds images, classes and errors")
    return found


def _evaluating(path: AnyPath) -> str:
    return f"morphism eval --workdir {shlex.quote(str(path))}"


def _evaluation(path: AnyPath, file: AnyPath, summary: dict[str, Any], notes: list[str]) -> Evaluation:
    name = file.stem.removeprefix("eval_")
    images, broken = _json_lines(path / f"{file.stem}_images.jsonl", lambda line: "id" in line and "name" in line)
    if not images or broken:
        notes.append(f"{path / f'{file.stem}_images.jsonl'}: missing or broken; run morphism eval again")
    index, small = _small(path / f"{file.stem}_images.zip", notes)
    plots = path / "plots" / name / "plots.json"
    try:
        numbers = read_json(plots, dict)
    except UserError:
        notes.append(
            f"{plots}: missing or broken, so there are no precision-recall curves; run {_evaluating(path)} --draw"
        )
        numbers = {}
    return Evaluation(name, summary, images, index, small, numbers)


def _small(path: AnyPath, notes: list[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The index and the files of the archive of small images."""
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        return json.loads(files.pop(INDEX)), files
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile):
        notes.append(f"{path}: missing or broken, so there are no images; run morphism eval again")
        return {}, {}


def _json_lines(path: AnyPath, holds: Callable[[dict], bool]) -> tuple[list[dict[str, Any]], int]:
    """The lines of JSON that are dictionaries and for which `holds`, and how many others there are."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return [], 0
    lines, broken = [], 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if type(value) is dict and holds(value):
            lines.append(value)
        else:
            broken += 1
    return lines, broken


def by_part(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The numbers of each part of a task; of a task without parts all of them, under ""."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in summary.items():
        part, _, own = name.rpartition("/") if name.count("/") == 1 else ("", "", name)
        found.setdefault(part, {})[own] = value
    return found
