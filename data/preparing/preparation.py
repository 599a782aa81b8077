"""Prepares a dataset: PATH.partial is filled shard by shard, and becomes PATH when it is complete.

    <name>-<split>.array_record-*       the records
    dataset_info.json, features.json    what TFDS reads of them
    tables/<split>/<column>.npy         the truths
    morphism.json                       what was prepared, and checksums

After an interruption, kill -9 included, the same command goes on: a shard that is there is read, not written again.
"""

import hashlib
import importlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from morphism.data import sources
from morphism.data.fingerprint import fingerprint
from morphism.data.odd import RULES
from morphism.data.preparing import features, shards, tables
from morphism.data.preparing.scaling import Storage
from morphism.data.preparing.shards import Facts, Shard, Writer
from morphism.data.records import Source, first_target
from morphism.data.writing.partial import partial_folder, partial_of
from morphism.errors import UserError, check_choice

MANIFEST, PLAN = "morphism.json", "plan.json"
TABLES = "tables"
FORMAT = 1
# What every manifest has. Those of earlier versions lack "files", which only `verify` reads.
WRITTEN = {"dataset", "target", "targets", "category_ids", "pixel_category_ids", "by_id", "splits"}
LONGEST_NAME = 255  # bytes of a file's name, on most file systems
ENGINES = ("local", "beam")

Say = Callable[[str], None]


class Plan(NamedTuple):
    """What decides the bytes of a prepared dataset."""

    source: str
    storage: Storage
    data: Mapping[str, Any]  # the fingerprint of each split

    def described(self) -> dict[str, Any]:
        return {"format": FORMAT, "source": self.source, **self.storage._asdict(), "data": self.data}


@dataclass(frozen=True)
class Work:
    """What an engine needs in every process: the sources, or how to open them."""

    folder: Path
    dataset: str
    storage: Storage
    source: str
    data_dir: str
    splits: Sequence[str]
    opened: Mapping[str, Source] = field(default_factory=dict)

    def writer(self) -> Writer:
        held = self.opened or {split: open_split(self.source, split, self.data_dir) for split in self.splits}
        return Writer(self.folder, self.dataset, self.storage, held)

    def opened_again(self) -> "Work":
        """The same without sources, for processes that should open them instead of receiving them."""
        return replace(self, opened={})


def prepare(
    source: str,
    to: str,
    storage: Storage,
    *,
    splits: Sequence[str] = (),
    data_dir: str = "",
    engine: str = "local",
    workers: int = 0,
    options: Sequence[str] = (),
    say: Say = print,
    progress: Callable[[int], Any] | None = None,
) -> Path:
    """Prepares `splits` of a source, all if none are named, in the folder `to`.

    Args:
      source: as for config.data.source.
      to: a new folder, or one in which the same was prepared: then nothing is done.
      storage: how images are stored.
      data_dir: config.data.data_dir.
      engine: one of ENGINES. workers, options: for the engine.
      say: gets lines for people.
      progress: total records -> a context manager whose `update(n)` is called when n more are there.

    Raises UserError for bad input, and for a record that cannot be read.
    """
    check_choice("--engine", engine, ENGINES)
    folder = Path(os.path.realpath(Path(to).expanduser()))
    _check_name(folder)
    source = sources.full_spec(source)
    _check_apart(source, folder)
    for split in splits:
        name, bracket, _ = split.partition("[")
        if bracket:  # a prepared split has a name of its own, of which any part can be read
            raise UserError(
                f"--split {split}: only whole splits are prepared; give --split {name}, and cut it where it is read: "
                f"--config.data.train_split='{split}'"
            )
    splits = tuple(splits) or tuple(sources.splits(sources.within(source, data_dir)))
    opened = {split: open_split(source, split, data_dir) for split in splits}
    _check(source, opened)
    for line in dict.fromkeys(getattr(each, "oddities", "") for each in opened.values()):
        if line:
            say(f"data: {line}")
    plan = Plan(source, storage, {split: fingerprint(each) for split, each in opened.items()})
    if _is_there(folder, plan):
        say(f"{folder}: is prepared already")
        return folder
    run = importlib.import_module(f"morphism.data.preparing.engines.{engine}").run
    todo = [shard for split, each in opened.items() for shard in shards.shards_of(split, len(each))]
    with partial_folder(folder) as partial:
        _claim(partial, plan)
        work = Work(partial, _dataset(folder), storage, source, data_dir, splits, opened)
        if not (partial / MANIFEST).exists():
            shards.remove_unfinished(partial)
            with (progress or _Silent)(sum(map(len, opened.values()))) as bar:
                run(work, todo, workers, options, lambda shard: bar.update(shard.stop - shard.start))
            _complete(work, plan, todo, say)
        shutil.rmtree(partial / shards.PARTS, ignore_errors=True)
        (partial / PLAN).unlink(missing_ok=True)
    say(f"prepared: {folder}; read it with --data {shlex.quote(str(folder))}, or config.data.source=prepared:{folder}")
    return folder


def open_split(source: str, split: str, data_dir: str) -> Source:
    """The split with all its truths, masks of objects included."""
    return sources.load(sources.within(source, data_dir, masks=True), split)


class _Silent:
    """A bar that shows nothing."""

    def __init__(self, total: int):
        self.total = total

    def __enter__(self) -> "_Silent":
        return self

    def __exit__(self, *error: object) -> None: ...

    def update(self, count: int) -> None: ...


def _check_name(folder: Path) -> None:
    """Raises UserError for a folder after which no files can be named."""
    longest = features.shard_name(_dataset(folder), "validation", 99_999, 99_999)
    if not _is_text(str(folder)):
        raise UserError(f"--to {folder}: no UTF-8, as its files' paths must be; choose another folder")
    if len(f".{longest}..part{os.getpid()}") > LONGEST_NAME:
        raise UserError(f"--to {folder}: too long a name for the files that are named after it; choose another")


def _check_apart(source: str, folder: Path) -> None:
    """Raises UserError for a folder among the data, which would then be other data, and for one around it."""
    read = Path(os.path.realpath(Path(source.partition(":")[2]).expanduser()))
    if not read.is_dir():
        return
    if folder.is_relative_to(read):
        raise UserError(f"--to {folder}: lies in {read}, and would become part of the data; name a folder outside it")
    if read.is_relative_to(partial_of(folder)):
        raise UserError(f"--to {folder}: is first written as {partial_of(folder)}, where the data are; name another")


def _is_text(name: str) -> bool:
    """Whether a name of a file or a folder is UTF-8, which Python otherwise decodes to what cannot be encoded."""
    return not re.search("[\ud800-\udfff]", name)


def _check(source: str, opened: Mapping[str, Source]) -> None:
    """Raises UserError for sources that are more than their records, and for splits with different classes."""
    first = next(iter(opened.values()))
    if hasattr(first, "weights"):
        raise UserError(f"{source}: is drawn from in proportions of its own; prepare its sources one by one")
    for name in (name for own in first.targets.values() for name in own if not _is_text(name)):
        raise UserError(f"{source}: the name of its class {name!r} is not UTF-8; rename it")
    for split, each in opened.items():
        if {name: tuple(own) for name, own in each.targets.items()} != _classes(first):
            raise UserError(f"{source}: its splits {next(iter(opened))} and {split} have other classes; choose --split")


def _classes(source: Source) -> dict[str, tuple[str, ...]]:
    return {name: tuple(own) for name, own in source.targets.items()}


def _dataset(folder: Path) -> str:
    """What TFDS calls the dataset: the folder's name, as far as TFDS accepts it."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.name.lower()).strip("_")
    return name if name[:1].isalpha() else f"prepared_{name}".rstrip("_")


def _is_there(folder: Path, plan: Plan) -> bool:
    """Whether `folder` holds what is to be prepared. Raises UserError if it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / MANIFEST).is_file():
        raise UserError(f"--to {folder}: is there already, with other content; name a new folder, or remove it")
    if differing := _differing(read_json(folder / MANIFEST), _as_json(plan.described())):
        raise UserError(f"--to {folder}: is prepared already with {differing}; name a new folder, or remove it")
    return True


def _claim(partial: Path, plan: Plan) -> None:
    """Writes the plan, or compares it with that of an earlier try. Raises UserError if they differ."""
    path, now = partial / PLAN, _as_json(plan.described())
    others = any(not each.name.startswith(".") for each in partial.iterdir())
    if others and not path.exists() and not (partial / MANIFEST).exists():
        raise UserError(f"{partial}: holds something else; remove it, or name another folder as --to")
    if path.exists() and (differing := _differing(read_json(path, f"remove {partial}"), now)):
        raise UserError(f"{partial}: holds an unfinished preparation with {differing}; give the same, or remove it")
    _write_json(path, now)


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What was prepared otherwise `before`; "" if nothing was."""
    return ", ".join(
        "other data" if key == "data" else f"{key}={before.get(key)!r}, now {now[key]!r}"
        for key in now
        if before.get(key) != now[key]
    )


def _complete(work: Work, plan: Plan, todo: Sequence[Shard], say: Say) -> None:
    """Merges the tables of all shards, and writes what describes the dataset; the manifest last."""
    folder, first = work.folder, next(iter(work.opened.values()))
    found: dict[str, list[Facts]] = {}
    for shard in todo:
        facts = shards.read_facts(shards.part(folder, shard.split, shard.number))
        if facts is None or facts.records != shard.stop - shard.start:
            raise UserError(f"{folder}: shard {shard.number} of {shard.split} was not written; start the same command")
        found.setdefault(shard.split, []).append(facts)
    described = {}
    for split, each in found.items():
        table = folder / TABLES / split
        shutil.rmtree(table, ignore_errors=True)
        tables.merge([shards.part(folder, split, number) for number in range(len(each))], table)
        described[split] = {
            "records": sum(facts.records for facts in each),
            "shards": [list(facts) for facts in each],
            "tables": {path.name: shards.sha256(path) for path in sorted(table.iterdir())},
        }
        say(_account(split, each, np.load(table / "odd.npy")))
    sizes = {split: [(facts.records, facts.bytes) for facts in each] for split, each in found.items()}
    text = f"{plan.source}, prepared by morphism: short_side {plan.storage.short_side}, quality {plan.storage.quality}"
    features.describe(folder, work.dataset, first.targets, sizes, text)
    manifest = {
        **plan.described(),
        "dataset": work.dataset,
        "target": first_target(first),
        "targets": _classes(first),
        "category_ids": _listed(first, "category_ids"),
        "pixel_category_ids": _listed(first, "pixel_category_ids"),
        "by_id": bool(getattr(first, "by_id", False)),
        "splits": described,
        "files": {
            path.name: shards.sha256(path)
            for path in sorted(folder.iterdir())
            if path.suffix in (".json", ".txt") and path.name not in (MANIFEST, PLAN)
        },
    }
    _write_json(folder / MANIFEST, manifest)


def _account(split: str, found: Sequence[Facts], odd: np.ndarray) -> str:
    """A line on a split, with what was odd about the images that were not kept as they are."""
    records, size = sum(each.records for each in found), sum(each.bytes for each in found)
    counts = [f"{count:,} {rule}" for each, rule in RULES.items() if (count := np.count_nonzero(odd & each))]
    line = f"{split}: {records:,} images, {size / 1e6:,.1f} MB in {len(found):,} shards"
    return f"{line}; odd images: {'; '.join(counts)}" if counts else line


def verify(folder: Path) -> list[str]:
    """A line for each file of a prepared dataset that is missing or not as it was written."""
    manifest, wrong = read_json(folder / MANIFEST), []
    if missing := lacking(manifest):
        return [f"{folder / MANIFEST}: lacks {missing}"]
    wanted = {folder / name: digest for name, digest in manifest.get("files", {}).items()}
    for split, each in manifest["splits"].items():
        wanted |= {
            folder / features.shard_name(manifest["dataset"], split, number, len(each["shards"])): digest
            for number, (_, _, digest) in enumerate(each["shards"])
        } | {folder / TABLES / split / name: digest for name, digest in each["tables"].items()}
    for path, digest in wanted.items():
        if not path.is_file():
            wrong.append(f"{path}: missing")
        elif shards.sha256(path) != digest:
            wrong.append(f"{path}: changed since it was written")
    return wrong


def lacking(manifest: Mapping[str, Any]) -> str:
    """The names of what a manifest has to have and has not."""
    return ", ".join(sorted(WRITTEN - manifest.keys()))


def read_json(path: Path, remedy: str = "restore it, or prepare the data again") -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from error
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: not what `morphism prepare` writes; {remedy}")
    return found


def identity(manifest: Mapping[str, Any], split: str) -> str:
    """A checksum of the records and truths of a split."""
    return hashlib.sha256(json.dumps(manifest["splits"][split], allow_nan=False).encode()).hexdigest()


def _listed(source: Source, name: str) -> list[int | str | None] | None:
    found = getattr(source, name, None)
    return None if found is None else [each.item() if isinstance(each, np.generic) else each for each in found]


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False))
    temporary.replace(path)
