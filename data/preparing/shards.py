"""The shards of a prepared dataset: written whole or not at all, and read back before they count.

A shard is two files: its records, <dataset>-<split>.array_record-<i>-of-<n>, and its table, parts/<split>-<i>.npz,
which also holds the SHA-256 of the first. Each is written under another name, which begins with a dot, and renamed; the
table last. So a shard is there if its table is; whatever else there is, is what a killed process has left.
"""

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from morphism.data import targets
from morphism.data.preparing import tables
from morphism.data.preparing.features import Serializer, shard_name
from morphism.data.preparing.scaling import Storage, scaled_truths, stored_image
from morphism.data.records import Source, names
from morphism.errors import UserError

LARGEST = 4096  # records of a shard
FEWEST, LEAST = 16, 64  # a split has this many shards, unless they would have fewer records than that
WRITING = "group_size:1,uncompressed"  # images are compressed already
READING = "readahead_buffer_size:0"
PARTS = "parts"
AT_ONCE = 64  # records that are read back at once


class Shard(NamedTuple):
    """The records start .. stop - 1 of a split, which has `count` shards."""

    split: str
    number: int
    count: int
    start: int
    stop: int


class Facts(NamedTuple):
    """What is known of the records of a shard on disk."""

    records: int
    bytes: int
    sha256: str


def shards_of(split: str, records: int) -> list[Shard]:
    """Divides a split into shards of about the same size."""
    count = max(-(-records // LARGEST), min(FEWEST, records // LEAST), 1)
    bounds = [records * number // count for number in range(count + 1)]
    return [Shard(split, k, count, a, b) for k, (a, b) in enumerate(pairwise(bounds))]


@dataclass(frozen=True)
class Writer:
    """shard -> its facts, after which it is in `folder`. Sources are those of the splits."""

    folder: Path
    dataset: str
    storage: Storage
    sources: Mapping[str, Source]

    def __call__(self, shard: Shard) -> Facts:
        """Raises UserError for a record that cannot be read."""
        return self.finished(shard) or self._written(shard)

    def finished(self, shard: Shard) -> Facts | None:
        """The facts of a shard that is there, None otherwise; reads it, and takes it only with its checksum."""
        data, table = self.paths(shard)
        if not data.exists() or not table.exists():
            return None
        found = read_facts(table)
        whole = found and found.records == shard.stop - shard.start and found.sha256 == sha256(data)
        return found if whole else None

    def paths(self, shard: Shard) -> tuple[Path, Path]:
        name = shard_name(self.dataset, shard.split, shard.number, shard.count)
        return self.folder / name, part(self.folder, shard.split, shard.number)

    def _written(self, shard: Shard) -> Facts:
        data, table = self.paths(shard)
        source = self.sources[shard.split]
        serialize, kept = self._serializers[shard.split], []
        called = names(source, slice(shard.start, shard.stop))
        temporary, digest = _unfinished(data), hashlib.sha256()
        writer = ArrayRecordWriter(str(temporary), WRITING)
        try:
            for row, name in zip(range(shard.start, shard.stop), called, strict=True):
                record = source[row]
                stored = stored_image(record["image"], record["name"], self.storage)
                for target in source.targets:  # raises for a truth that does not fit the image
                    targets.get(target).read(record, stored.original_size, source, row)
                truths = scaled_truths(record, stored)
                example = serialize(name, stored, truths)
                writer.write(example)
                digest.update(example)
                kept.append((stored.size, stored.odd, truths | dict.fromkeys(truths.keys() & {"segmentation"})))
        finally:
            writer.close()
        _read_back(temporary, len(kept), digest.hexdigest())
        found = Facts(len(kept), temporary.stat().st_size, sha256(temporary))
        keys = {name: targets.get(name).KEY for name in source.targets}
        columns = {
            "sizes": np.array([size for size, _, _ in kept], np.int32),
            "odd": np.array([odd for _, odd, _ in kept], np.int32),
            "names": np.array(called),
            **self._ids(shard),
            **tables.columns([truths for _, _, truths in kept], keys),
        }
        _placed(temporary, data)
        _placed(_written_to(_unfinished(table), tables.encoded(columns | _as_column(found))), table)
        return found

    def _ids(self, shard: Shard) -> tables.Columns:
        ids = self._image_ids[shard.split]
        return {} if ids is None else {"image_ids": ids[shard.start : shard.stop]}

    @cached_property
    def _serializers(self) -> dict[str, Serializer]:
        return {split: Serializer(source.targets) for split, source in self.sources.items()}

    @cached_property
    def _image_ids(self) -> dict[str, np.ndarray | None]:
        return {split: tables.packed(getattr(source, "image_ids", None)) for split, source in self.sources.items()}


def part(folder: Path, split: str, number: int) -> Path:
    """The table of a shard."""
    return folder / PARTS / f"{split}-{number:05d}.npz"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_facts(table: Path) -> Facts | None:
    """What a shard's table says of its records; None if it cannot be read."""
    try:
        with np.load(table) as columns:
            records, size, digest = columns[tables.FACTS].tolist()
            return Facts(int(records), int(size), digest)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes have left. Only the process that holds the folder's lock may call it."""
    for path in (*folder.glob(".*.part"), *(folder / PARTS).glob(".*.part")):
        path.unlink(missing_ok=True)


def _as_column(found: Facts) -> tables.Columns:
    return {tables.FACTS: np.array([str(each) for each in found])}


def _read_back(path: Path, records: int, digest: str) -> None:
    """Raises UserError unless the file holds that many records with that SHA-256."""
    reader, found = ArrayRecordReader(str(path), READING), hashlib.sha256()
    count = reader.num_records()
    for start in range(0, count, AT_ONCE):
        for each in reader.read(start, min(count, start + AT_ONCE)):
            found.update(each)
    reader.close()
    if (count, found.hexdigest()) != (records, digest):
        raise UserError(f"{path}: what was written is not what is read back; look at the disk, and try again")


def _unfinished(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.part")


def _written_to(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _placed(temporary: Path, path: Path) -> None:
    """Gives a file that is complete its name, after its content is on the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
