"""Loose picture files, to predict on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from data import files
from data.annotations import picture_size
from data.sources import Record
from errors import UserError


@dataclass(frozen=True)
class Pictures:
    """Files as records of a Source; the label is a placeholder."""

    files: Sequence[Path]
    classes: Sequence[str]

    @cached_property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        """Height and width of every picture."""
        return np.array([picture_size(file) for file in self.files], np.int32)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path = self.files[index]
        try:
            return {"image": path.read_bytes(), "label": 0, "name": str(path)}
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); mend the path or leave it out") from error


def find_pictures(paths: Sequence[str]) -> list[Path]:
    """Files as they are named, and the images below folders, sorted. Raises UserError where there is none.

    Images of formats that cannot be read are among them: each is an error of its own when it is decoded.
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
