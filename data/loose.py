"""Single images, as files or arrays, to predict on."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int, UInt8

from morphism.data import files
from morphism.data.annotations import image_size
from morphism.data.records import Record
from morphism.errors import UserError


@dataclass(frozen=True)
class LooseImages:
    """Images as records without truth; `classes` are those of the network that predicts."""

    files: Sequence[Path | UInt8[np.ndarray, "..."]]  # or pixels [H,W,3] or [H,W]
    classes: Sequence[str] | Mapping[str, Sequence[str]]  # for a network of several parts by part
    targets: ClassVar = {}

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        """Height and width of every image."""
        shapes = [file.shape[:2] if isinstance(file, np.ndarray) else image_size(file) for file in self.files]
        return np.array(shapes, np.int32)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path = self.files[index]
        if isinstance(path, np.ndarray):
            return {"image": path, "name": f"image {index}"}
        return {"image": files.read_bytes(path, "mend the path or leave it out"), "name": str(path)}


def readable(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The files whose headers can be read, and the error of each other file."""

    def problem(path: Path) -> str:
        try:
            image_size(path)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = list(pool.map(problem, paths))
    broken = {path: reason for path, reason in zip(paths, problems, strict=True) if reason}
    return [path for path in paths if path not in broken], broken


def find_images(paths: Sequence[str]) -> list[Path]:
    """The files among `paths`, and the images below its folders, sorted. Raises UserError for a folder without images.

    Images of formats that cannot be read are included: each is an error of its own when it is decoded.
    """
    found = []
    for path in map(Path, paths):
        if os.path.isdir(path):
            images = files.scan(path, unreadable=True).images
            if not images:
                raise UserError(f"{path}: no images below this folder")
            found += [path / image for image in images]
        else:
            found.append(path)
    return found
