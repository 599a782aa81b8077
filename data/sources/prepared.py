"""`prepared:<folder>`: what `morphism prepare SOURCE --to <folder>` has written, with all truths of the source.

    <folder>/morphism.json                          what was prepared, with checksums
    <folder>/<name>-<split>.array_record-*          the records: images, and the classes of pixels
    <folder>/tables/<split>/<column>.npy            all other truths (data/preparing/tables.py)

Records keep their order and names. Opening reads nothing but the manifest, and tables are mapped into memory. A process
has OPEN files open at most, each with its index, about 45 bytes per record. So neither the time to open a dataset nor
the memory of a process grows with the number of records, beyond 100 MB for the indices. Reading a record takes 13
microseconds of CPU time if its file is open, else 150.
"""

import io
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from morphism.data import targets
from morphism.data.annotations import Annotations, Store
from morphism.data.layouts import Layout, Look, Seen
from morphism.data.outlines import Outlines
from morphism.data.preparing import shards, tables
from morphism.data.preparing.features import shard_name
from morphism.data.preparing.preparation import FORMAT, MANIFEST, TABLES, identity, lacking, read_json
from morphism.data.records import Record
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError

OPEN = 512  # files; systems allow a process 1,024 or more
LAYOUT = Layout("prepared by morphism", "morphism.json, as `morphism prepare SOURCE --to DIR` writes it")


def _of(target: str, make: Callable[["Prepared"], Any]) -> property:
    """An attribute that only a source with `target` has."""

    def read(source: "Prepared") -> Any:
        if target not in source.targets:
            raise AttributeError(f"no {target} in {source.root}")
        return make(source)

    return property(read)


@dataclass(frozen=True)
class Prepared:
    """A split. What is read from files is opened on first use, in each process."""

    root: Path
    split: str

    labels = _of("label", lambda source: source._column("label"))
    box_counts = _of("boxes", lambda source: source._store.box_counts)
    category_ids = _of("boxes", lambda source: source._manifest["category_ids"])
    store = _of("boxes", lambda source: source._store)
    annotations = _of("boxes", lambda source: source._store.__getitem__)
    masks = _of("masks", lambda source: source._store.masks)
    pixel_category_ids = _of("segmentation", lambda source: source._given("pixel_category_ids"))

    @property
    def classes(self) -> Sequence[str]:
        return self.targets[self._manifest["target"]]

    @cached_property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {name: tuple(own) for name, own in self._manifest["targets"].items()}

    @property
    def identity(self) -> str:
        return identity(self._manifest, self.split)

    version = identity

    @property
    def by_id(self) -> bool:
        return self._manifest["by_id"]

    @property
    def oddities(self) -> str:
        """None: they were handled when the data was prepared."""
        return ""

    @property
    def files(self) -> np.ndarray:
        """The names that the records had in their source."""
        return self._column("names")

    @property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        return self._column("sizes")

    @cached_property
    def image_ids(self) -> np.ndarray:
        """The dataset's own ids; without any, names."""
        found = self._columns("image_ids")
        found = self._column("names") if found is None else found
        return found if found.dtype.kind == "i" else np.char.decode(found, "utf-8", "surrogateescape")

    def carries(self, target: str) -> Bool[np.ndarray, "records"]:
        return self._column(f"has_{target}")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._record(index)
        except IndexError as error:
            raise self._broken(f"a table of {self.split} has fewer rows than there are records") from error

    def _record(self, index: int) -> Record:
        name = f"{self.root}: {os.fsdecode(self.files[index])}"
        features = self._read(index, name)
        record: dict[str, Any] = {"image": features["image"].bytes_list.value[0], "name": name}
        for target in self.targets:
            if self._column(f"has_{target}")[index]:
                record[targets.get(target).KEY] = _TRUTHS[target](self, index, features, name)
        return record

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "split": self.split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        return manifest(self.root)

    def _given(self, name: str) -> Any:
        """What the manifest says. Raises AttributeError where it says nothing."""
        found = self._manifest[name]
        if found is None:
            raise AttributeError(name)
        return found

    @cached_property
    def _ends(self) -> list[int]:
        """The number of records up to and with each shard."""
        return list(accumulate(records for records, _, _ in self._manifest["splits"][self.split]["shards"]))

    @cached_property
    def _reader(self) -> Callable[[int], ArrayRecordReader]:
        """shard -> its open file."""
        return lru_cache(OPEN)(lambda shard: ArrayRecordReader(str(self._path(shard)), shards.READING))

    @cached_property
    def _held(self) -> dict[str, np.ndarray | None]:
        return {}

    def _columns(self, name: str) -> np.ndarray | None:
        """A column of the tables, if there is one."""
        if name not in self._held:
            try:
                self._held[name] = tables.opened(self.root / TABLES / self.split, name)
            except (OSError, ValueError) as error:
                raise self._broken(f"tables/{self.split}/{name}.npy cannot be read") from error
        return self._held[name]

    def _column(self, name: str) -> np.ndarray:
        found = self._columns(name)
        if found is None:
            raise self._broken(f"tables/{self.split}/{name}.npy is missing")
        return found

    @cached_property
    def _store(self) -> Store:
        flat = Annotations(*(self._column(name) for name in ("boxes", "classes", "crowd", "difficult", "area")))
        outlines = None
        if "masks" in self.targets:
            outlines = Outlines(self._column("outline_ends"), self._column("outlines"))
        return Store(flat, self._column("object_ends"), "", outlines)

    def _read(self, index: int, name: str) -> Mapping[str, Any]:
        """The features of a record. Raises UserError if the file is damaged."""
        shard = bisect_right(self._ends, index)
        start = self._ends[shard - 1] if shard else 0
        try:
            (raw,) = self._reader(shard).read([index - start])
            found = tf_example_pb2.Example.FromString(raw).features.feature
            if "image" not in found:  # of a record that it cannot read, ArrayRecord returns no bytes
                raise EOFError("cut off")
            if found["name"].bytes_list.value[0] != self.files[index]:
                raise ValueError("the record of another file")
            return found
        except Exception as error:  # ArrayRecord's readers raise whatever lost or cut files lead them to
            raise self._broken(f"{self._path(shard).name} cannot be read at {name!r}") from error

    def _path(self, shard: int) -> Path:
        return self.root / shard_name(self._manifest["dataset"], self.split, shard, len(self._ends))

    def _broken(self, reason: str) -> UserError:
        return UserError(
            f"{self.root}: {reason}; restore what `morphism prepare {self.root} --verify` names, or prepare the data "
            "again"
        )


_TRUTHS: dict[str, Callable[..., Any]] = {
    "label": lambda source, index, features, name: int(source.labels[index]),
    "boxes": lambda source, index, features, name: source._store[index],
    "masks": lambda source, index, features, name: source._store.masks(index),
    "segmentation": lambda source, index, features, name: _segmentation(features, name),
}


def _segmentation(features: Mapping[str, Any], name: str) -> UInt8[np.ndarray, "h w"]:
    try:
        with Image.open(io.BytesIO(features["segmentation"].bytes_list.value[0])) as mask:
            return np.asarray(mask)
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        raise UserError(f"{name}: its mask cannot be decoded ({error}); prepare the data again") from error


def manifest(root: Path) -> dict[str, Any]:
    """Raises UserError for a folder that was not prepared, or by another version."""
    if not (root / MANIFEST).is_file():
        raise UserError(f"{root}: was not prepared; run: morphism prepare SOURCE --to {root}")
    found = read_json(root / MANIFEST)
    if found.get("format") != FORMAT:
        raise UserError(f"{root}: of format {found.get('format')!r}, not {FORMAT}; prepare the data again")
    if missing := lacking(found):
        raise UserError(f"{root / MANIFEST}: lacks {missing}; restore it, or prepare the data again")
    return found


def seen(look: Look) -> Seen:
    return Seen.of((MANIFEST, look.file(MANIFEST)), (f"the folder {TABLES}", (look.path / TABLES).is_dir()))


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    return tuple(manifest(root_folder(argument, "prepared"))["splits"])


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    found = manifest(root_folder(argument, "prepared"))
    return tuple(found["targets"][found["target"]])


def load(argument: str, split: str, data_dir: str) -> Prepared:
    return Prepared(root_folder(argument, "prepared"), split)
