"""Single images and videos, as files or arrays, to predict on."""

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from morphism.data import files
from morphism.data.annotations import image_size
from morphism.data.image import size
from morphism.data.records import Record
from morphism.errors import UserError

# Suffixes of videos. A GIF of one frame is an image.
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".gif")


class Encoded(NamedTuple):
    """The bytes of an image that lies in no file."""

    name: str
    content: bytes


class Pixels(NamedTuple):
    """An image that is decoded already."""

    name: str
    pixels: UInt8[np.ndarray, "..."]  # [H,W,3] or [H,W]


Loose = Path | Encoded | Pixels


@dataclass(frozen=True)
class LooseImages:
    """Images as records without truth; `classes` are those of the network that predicts."""

    files: Sequence[Loose]
    classes: Sequence[str] | Mapping[str, Sequence[str]]  # for a network of several parts by part
    targets: ClassVar = {}
    apart: ClassVar = True

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        """Height and width of every image."""
        return np.array([_size(file) for file in self.files], np.int32).reshape(-1, 2)

    def name(self, index: int) -> str:
        file = self.files[index]
        return str(file) if isinstance(file, Path) else file.name

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        file, name = self.files[index], self.name(index)
        if isinstance(file, Path):
            return {"image": files.read_bytes(file, "mend the path or leave it out"), "name": name}
        return {"image": file.content if isinstance(file, Encoded) else file.pixels, "name": name}


def readable(images: Sequence[Loose]) -> dict[int, str]:
    """The error of each image whose header cannot be read, by its position."""

    def problem(file: Loose) -> str:
        if isinstance(file, Path) and not os.path.lexists(file):
            return f"{file}: no such file; correct the path, or leave it out"
        try:
            _size(file)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = list(pool.map(problem, images))
    return {index: reason for index, reason in enumerate(problems) if reason}


def find_images(paths: Sequence[str]) -> list[tuple[Path, Path]]:
    """The files that `paths` name, each once, with the folder below which it was found; images and videos.

    A folder stands for the images and videos below it, sorted; a pattern (*, ?, [...], **) that is no file itself for
    the files and folders that it matches, sorted. Images of formats that cannot be read are included: each is an error
    of its own when it is decoded. Raises UserError for a folder without images, and a pattern without a match.
    """
    found: dict[Path, Path] = {}
    for path in _expanded(paths):
        if os.path.isdir(path):
            listing = files.scan(path, unreadable=True)
            below = sorted([*listing.images, *filter(is_video, listing.others)], key=lambda each: each.split("/"))
            if not below:
                raise UserError(f"{path}: no images below this folder")
            found |= {path / each: path for each in below if path / each not in found}
        else:
            found.setdefault(path, path.parent)
    return list(found.items())


def _expanded(paths: Iterable[str]) -> Iterable[Path]:
    for path in paths:
        if os.path.lexists(path) or not glob.has_magic(path):
            yield Path(path)
            continue
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise UserError(f"{path}: no file matches; mend the pattern or leave it out")
        yield from map(Path, matches)


def is_video(path: str | Path) -> bool:
    """Whether a file has the suffix of a video, or is a GIF, which may be one."""
    return os.path.splitext(path)[1].lower() in VIDEOS


def _size(file: Loose) -> tuple[int, int]:
    if isinstance(file, Path):
        return image_size(file)
    return size(file.content, file.name) if isinstance(file, Encoded) else file.pixels.shape[:2]
