"""What examples are learned from, beside their images: a target is one file in this folder, named as configs name it.

config.data.targets lists those that batches hold. A record may lack a truth: its target is then empty, or ignored.

A truth that belongs to single objects (boxes; later a mask each) has a row per object of the record. The window's rule
decides once which objects an example keeps, and in which order (`Placement.objects`), so that all such targets of an
example have the same objects in the same slots.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict
from PIL import Image

from morphism.data.records import Record, Source
from morphism.data.windows import Size, Window
from morphism.errors import check_choice


@dataclass(frozen=True)
class Placement:
    """How an example sees its record: through `window`, with those of the record's objects that are left in it."""

    name: str  # what an error calls the record
    window: Window
    objects: Int[np.ndarray, "n"]  # rows of the record's objects


@runtime_checkable
class Target(Protocol):
    """A file of this folder. What `read` returns is the truth that the other functions take."""

    FIELDS: Sequence[str]  # of a configuration, that it needs
    IS_PLACED: bool  # has a place in the image: examples then say how large that is
    OF_IMAGE_SIZE: bool  # in evaluation as large as the image as decoded, whatever its canvas
    COUNTED: str  # what a report calls the counts of its classes
    ODD: str  # and the oddities of a source that is for it

    def empty(self, rows: int, shape: tuple[int, ...], data: ConfigDict) -> dict[str, np.ndarray]:
        """The keys of a batch that it fills, as they are without a record. `shape` is canvases.Shape."""

    def read(self, record: Record, size: Size, source: Source, index: int) -> Any:
        """The record's truth for its image of `size`, or an empty one. Raises UserError where they do not match."""

    def train(self, truth: Any, placement: Placement, data: ConfigDict) -> dict[str, Any]:
        """What a training example has of it."""

    def evaluate(self, truth: Any, shape: tuple[int, ...], data: ConfigDict) -> dict[str, Any]:
        """What an example of evaluation has of it."""

    def check(self, source: Source, data: ConfigDict, where: str, training: bool) -> None:
        """Raises UserError for what is known before any image is read: that there is nothing to learn, or to find."""

    def classes(self, truth: Any) -> list[int]:
        """What a record counts for: its class, or that of each object, or those that it has pixels of."""

    def draw(self, sample: Image.Image, truth: Any, scale: float, names: Sequence[str]) -> Image.Image:
        """`sample`, an image resized by `scale`, with its truth."""


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@cache
def get(name: str) -> Target:
    check_choice("config.data.targets", name, names())
    return importlib.import_module(f"morphism.data.targets.{name}")
