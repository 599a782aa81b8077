"""Sources whose images are files: what they share, and the source of all box formats."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from morphism.data.annotations import Annotations, Store
from morphism.data.files import read_bytes
from morphism.data.outlines import Outlines
from morphism.data.records import Record


@dataclass(frozen=True)
class FileSource(ABC):
    """Image files with one target. `files` holds paths below `root` as bytes: one compact array, even for millions."""

    target: ClassVar[str]

    root: Path
    files: np.ndarray
    classes: Sequence[str]

    @abstractmethod
    def truth(self, index: int) -> dict[str, Any]:
        """The keys of a record that hold its truth."""

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {self.target: self.classes}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path, truth = self.root / os.fsdecode(self.files[index]), self.truth(index)
        return {"image": read_bytes(path), "name": str(path), **truth}


@dataclass(frozen=True)
class BoxedFiles(FileSource):
    """Image files with boxes, and with masks if the store has outlines."""

    target = "boxes"

    category_ids: Sequence[int | str]  # the dataset's own ids of the classes
    image_ids: np.ndarray
    sizes: Int[np.ndarray, "images 2"]  # height, width
    store: Store
    by_id: bool = False  # whether classes are identified by id instead of name

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return dict.fromkeys(("boxes",) if self.store.outlines is None else ("boxes", "masks"), self.classes)

    @property
    def oddities(self) -> str:
        return self.store.oddities

    @property
    def box_counts(self) -> Int[np.ndarray, "images 3"]:
        return self.store.box_counts

    def annotations(self, index: int) -> Annotations:
        return self.store[index]

    def masks(self, index: int) -> Outlines:
        return self.store.masks(index)

    def truth(self, index: int) -> dict[str, Any]:
        found = {"annotations": self.store[index]}
        return found if self.store.outlines is None else found | {"masks": self.store.masks(index)}
