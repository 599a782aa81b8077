"""The source of every format of boxes whose images are files."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from morphism.data.annotations import Annotations, Store
from morphism.data.files import read_bytes
from morphism.data.records import Record


@dataclass(frozen=True)
class BoxedFiles:
    """Images in files, with boxes. `files` holds paths below `root` as bytes, in one compact array."""

    root: Path
    files: np.ndarray
    classes: Sequence[str]
    category_ids: Sequence[int | str]  # what the dataset itself calls the classes
    image_ids: Sequence[int | str]
    sizes: Int[np.ndarray, "pictures 2"]  # height, width
    store: Store
    by_id: bool = False  # classes are what their ids are, not what their names are

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"boxes": self.classes}

    def __len__(self) -> int:
        return len(self.files)

    @property
    def oddities(self) -> str:
        return self.store.oddities

    @property
    def box_counts(self) -> Int[np.ndarray, "pictures 3"]:
        return self.store.box_counts

    def annotations(self, index: int) -> Annotations:
        return self.store[index]

    def __getitem__(self, index: int) -> Record:
        path = self.root / os.fsdecode(self.files[index])
        return {"image": read_bytes(path), "name": str(path), "annotations": self.store[index]}
