"""Layouts of datasets: the names of splits, a cheap look at a folder, and how much of a layout it holds.

A kind of source that can be recognised (data/recognise.py) has, in its file,

    LAYOUT = Layout(...)             what it is called
    seen(look: Look) -> Seen         what of it lies in a folder, and what it lacks

and may have `classes`, if that is quick, and `describes(path) -> bool`, if a single file can stand for the dataset. A
look lists at most MOST entries of a folder, and asks for the names that it knows one by one, so that a folder of a
million files is recognised as quickly as one of ten.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from morphism.data.files import CLUTTER, is_image

VALIDATION = ("val", "validation", "valid", "dev")  # names that datasets give to the same split
SPLITS = ("train", *VALIDATION, "test")
SPELLINGS = {"training": "train", "testing": "test"}
YEAR = re.compile(r"[_-]?20\d\d$")  # train2017
MOST = 5_000  # entries of a folder that are looked at
SAMPLE = 5  # folders within one that are looked into
PROBED = 50  # files that are looked for, or into
DEPTH = 3  # folders within folders
PARSED = 16 << 20  # bytes: larger JSON files are not parsed to see what they are


class Layout(NamedTuple):
    """what: the format, for people. needs: all that it takes, for people.

    rank: layouts with a lower rank are tried first: 0 has files that no other format has, 1 pairs of folders, 2 any
    folders of images.
    """

    what: str
    needs: str
    rank: int = 0


class Seen(NamedTuple):
    """What of a layout is there, and what it lacks; it is recognised if something is there and nothing is lacking.

    broken: the error of a file by which it would be recognised.
    """

    found: tuple[str, ...]
    missing: tuple[str, ...]
    broken: str = ""

    @classmethod
    def of(cls, *parts: tuple[str, object]) -> "Seen":
        """Of pairs of a part's name and whether it is there."""
        return cls(tuple(name for name, there in parts if there), tuple(name for name, there in parts if not there))

    @property
    def whole(self) -> bool:
        return bool(self.found) and not self.missing and not self.broken


class Look:
    """A folder, listed no further than MOST entries; what cannot be listed looks empty."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def entries(self) -> list[tuple[str, bool]]:
        """Name, and whether it is a folder, of the first entries that are not hidden; folders and files by name."""
        try:
            with os.scandir(self.path) as found:
                shown = (each for each in found if not each.name.startswith(".") and each.name.lower() not in CLUTTER)
                return sorted((each.name, _is_folder(each)) for each in islice(shown, MOST))
        except OSError:
            return []

    @property
    def folders(self) -> list[str]:
        return [name for name, is_folder in self.entries if is_folder]

    @property
    def files(self) -> list[str]:
        return [name for name, is_folder in self.entries if not is_folder]

    @cached_property
    def images(self) -> list[str]:
        """The first PROBED images in the folder itself."""
        return list(islice(filter(is_image, self.files), PROBED))

    def folder(self, *names: str) -> str:
        """The first of `names` that is a folder here, in this or any other case; "" if none is."""
        return next((name for name in names if (self.path / name).is_dir()), "") or _any_case(names, self.folders)

    def file(self, *names: str) -> str:
        """The first of `names` that is a file here, in this or any other case; "" if none is."""
        return next((name for name in names if (self.path / name).is_file()), "") or _any_case(names, self.files)

    def beside(self, suffix: str) -> list[str]:
        """Files with `suffix` here: those named like the first images, then the first PROBED of all."""
        named = [os.path.splitext(image)[0] + suffix for image in self.images]
        found = [name for name in named if (self.path / name).is_file()]
        others = islice((name for name in self.files if name.lower().endswith(suffix)), PROBED)
        return list(dict.fromkeys([*found, *others]))

    def below(self, name: str) -> "Look":
        return Look(self.path / name)

    def splits(self) -> dict[str, str]:
        """The folders here that are splits: split -> name."""
        return splits_among(self.folders)

    def holds_images(self, depth: int = DEPTH) -> bool:
        """Whether there are images here, or in folders within."""
        return bool(self.images) or (
            depth > 0 and any(self.below(name).holds_images(depth - 1) for name in self.folders[:SAMPLE])
        )

    def with_suffix(self, suffix: str, depth: int = DEPTH) -> Iterator[Path]:
        """The first files with `suffix` here, then in folders within."""
        yield from (self.path / name for name in self.beside(suffix))
        if depth > 0:
            for name in self.folders[:SAMPLE]:
                yield from self.below(name).with_suffix(suffix, depth - 1)


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder, or a link to one; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def split_of(name: str) -> str:
    """The split that a folder or list called `name` is of, such as Training, valid or train2017; "" if of none."""
    plain = YEAR.sub("", name.lower())
    plain = SPELLINGS.get(plain, plain)
    return plain if plain in SPLITS else ""


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """Split -> name, in the order of SPLITS; of two names for one split the plain one, or else the first."""
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name not in SPLITS, name)):
        if split := split_of(name):
            found.setdefault(split, name)
    return {split: found[split] for split in SPLITS if split in found}


def _any_case(names: Iterable[str], held: Iterable[str]) -> str:
    by_case = {name.lower(): name for name in held}
    return next((by_case[name.lower()] for name in names if name.lower() in by_case), "")


def json_keys(path: Path, keys: Iterable[str]) -> set[str]:
    """Those of `keys` that a JSON file has at its top; of a file above PARSED bytes, those with a list in its ends."""
    try:
        if (size := path.stat().st_size) <= PARSED:
            content = json.loads(path.read_bytes())
            return set(keys) & set(content) if isinstance(content, dict) else set()
        with path.open("rb") as file:
            ends = file.read(PARSED // 16)
            file.seek(size - PARSED // 16)
            ends += file.read()
    except (OSError, ValueError, RecursionError):
        return set()
    return {key for key in keys if re.search(rb'"%s"\s*:\s*\[' % key.encode(), ends)}
