"""The targets of examples: the truth that travels with an image. Each target is one file here, named as in configs.

config.data.targets lists the targets that batches hold. A record may lack a truth; its target is then empty or ignored.

A truth about single objects (boxes, masks) has one row per object of the record. The window rule and the targets'
`kept` decide once which objects an example keeps, and in which order (`Placement.objects`), so all such targets of an
example have the same objects in the same slots. An object remains only if all targets keep it.
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

from morphism.data.records import Record, Source
from morphism.data.windows import Size, Window
from morphism.errors import check_choice


@dataclass(frozen=True)
class Placement:
    """How an example sees its record: the window, and which of the record's objects remain in it."""

    name: str  # of the record, for errors
    window: Window
    objects: Int[np.ndarray, "n"]  # rows of the record's objects


@runtime_checkable
class Target(Protocol):
    """The functions and constants of a file in this folder. `read` returns the truth that the other functions take."""

    KEY: str  # the key of a record that holds its truth
    FIELDS: Sequence[str]  # the config fields that the target needs
    IS_PLACED: bool  # whether it has positions in the image; examples then hold the image's size
    OF_IMAGE_SIZE: bool  # whether evaluation keeps it at the size of the decoded image, whatever the canvas
    IN_EVALUATION: bool  # whether batches of evaluation have its keys
    OF_OBJECTS: bool  # whether it is about single objects, with one row for each
    COUNTED: str  # the title of its class counts in a report
    ODD: str  # the title of its oddities in a report

    def empty(self, rows: int, shape: tuple[int, ...], data: ConfigDict) -> dict[str, np.ndarray]:
        """The target's keys of a batch without any record. `shape` is a canvases.Shape."""

    def read(self, record: Record, size: Size, source: Source, index: int) -> Any:
        """The truth of a record whose image has `size`, or an empty one. Raises UserError if the two do not match."""

    def mapped(self, truth: Any, table: Int[np.ndarray, "own"]) -> Any:
        """The truth of a record with class table[k] in place of k; itself if the target has no classes."""

    def fingerprint(self, source: Source) -> bytes | None:
        """What is known of the truths of all records without reading an image, so that changed truth is noticed.

        None if nothing is known, or if something else stands for it in the fingerprint (data/fingerprint.py).
        """

    def kept(self, truth: Any, window: Window, objects: Int[np.ndarray, "n"]) -> Int[np.ndarray, "k"]:
        """Those of these objects that remain in the window, as far as this target can tell. Others are dropped."""

    def train(self, truth: Any, placement: Placement, data: ConfigDict) -> dict[str, Any]:
        """The target's values in a training example."""

    def evaluate(self, truth: Any, shape: tuple[int, ...], data: ConfigDict) -> dict[str, Any]:
        """The target's values in an evaluation example."""

    def check(self, source: Source, data: ConfigDict, where: str, training: bool) -> None:
        """Raises UserError where there is nothing to learn or to find, as far as that is known without an image."""

    def classes(self, truth: Any) -> list[int]:
        """The classes that a record counts for: its own, one per object, or those of its pixels."""

    def text(self, truth: Any, names: Sequence[str]) -> str:
        """What is written on a sample of the truth, whose classes have `names`; "" of one that is drawn in place."""


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@cache
def get(name: str) -> Target:
    check_choice("config.data.targets", name, names())
    return importlib.import_module(f"morphism.data.targets.{name}")
