"""Sources and their records: random access to images and their truth.

The `targets` of a source say which truths its records have, and with which classes; what else it offers follows from
them: `Labelled`, `Boxed`, `Outlined` and `Masked`. The following are optional, and looked for where they are used:

    files         paths below the root as bytes: what records are called (`names`)
    sizes         height and width of each image; needed by targets with positions in the image
    store         annotations.Store: the boxes of all records, and their outlines
    segmentation  index -> the segmentation of a record, without reading its image
    masks         index -> the outlines of a record's objects, also where records come without them
    version       a text that identifies the data where reading all its truths would take long
    identity      a text that identifies all names and truths, where even reading the names would take long
    mask_stamps   a number per mask that changes with it; legend: what the numbers in masks mean
    carries       target -> which records have its truth, bool, where not all of them have (derived.carried)
    weights       of the parts that it consists of: how often each is drawn from; part_of: the part of each record
    oddities      a line on what was odd when the source was opened
    apart         images to predict: each has the canvas and batch that it would have alone, whatever the others are
    by_id         classes are identified by their ids
    pixel_category_ids    the dataset's own id of each class of pixels; None for one without

A source that has none of these is identified by its length, its classes and what its targets add (data/fingerprint.py).
"""

from collections.abc import Mapping, Sequence
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from morphism.data.annotations import Annotations
from morphism.data.outlines import Outlines
from morphism.errors import UserError


class Record(TypedDict):
    """An image and its truths; a key is absent where the record was not annotated."""

    image: bytes | np.ndarray  # encoded, or pixels [h,w] or [h,w,3]
    name: str  # of the record, for errors
    label: NotRequired[int]
    annotations: NotRequired[Annotations]
    masks: NotRequired[Outlines]  # of the objects in `annotations`, row by row
    segmentation: NotRequired[UInt8[np.ndarray, "h w"]]  # the class of each pixel, or IGNORE


@runtime_checkable
class Source(Protocol):
    """Random access to records. Sources are pickled to worker processes: hold paths, not open files or large arrays.

    targets: the names of the truths that records have (data/targets), each with the names of its classes. The first
      is the main target of the source.
    classes: the names of the classes of the main target.
    """

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def targets(self) -> Mapping[str, Sequence[str]]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class Labelled(Source, Protocol):
    """Records have a `label`."""

    @property
    def labels(self) -> Int[np.ndarray, "records"]:
        """The class of every record, int32, without decoding images; TFDS reads all its files for it."""


@runtime_checkable
class Sized(Source, Protocol):
    """The sizes of images are known, as targets with positions in the image need."""

    @property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        """Height and width of each decoded image."""


@runtime_checkable
class Boxed(Sized, Protocol):
    """Records have `annotations`."""

    @property
    def image_ids(self) -> Sequence[int | str] | np.ndarray:
        """What the dataset calls each record."""

    @property
    def category_ids(self) -> Sequence[int | str | None]:
        """The dataset's own id of each class; None for a class that it lacks."""

    @property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        """Three counts per image, as in annotations.Store.box_counts."""

    def annotations(self, index: int) -> Annotations:
        """The annotations of a record, without reading its image."""


@runtime_checkable
class Outlined(Boxed, Protocol):
    """Records have `masks` as well as `annotations`."""

    def masks(self, index: int) -> Outlines:
        """The outlines of a record's objects, in the order of its annotations, without reading its image."""


@runtime_checkable
class Masked(Sized, Protocol):
    """Records have a `segmentation`."""

    @property
    def image_ids(self) -> Sequence[int | str] | np.ndarray:
        """What the dataset calls each record."""


def first_target(source: Source) -> str:
    """The main target of the source, whose classes are its `classes`."""
    return next(iter(source.targets))


def names(source: Source, rows: slice = slice(None)) -> list[bytes]:
    """For each record, or those of `rows`, a name that stays the same when other records are added or removed.

    The file's path below the root; without files the dataset's own id; without ids the position.
    """
    files = getattr(source, "files", None)
    if files is not None:
        return files[rows].tolist()
    ids = getattr(source, "image_ids", None)
    found = range(len(source))[rows] if ids is None else np.asarray(ids)[rows].tolist()
    return [str(each).encode(errors="surrogatepass") for each in found]


def name_of(source: Source, index: int) -> str:
    """The name of a record for errors, even if it cannot be read."""
    try:
        return source[index]["name"]
    except UserError:
        return f"record {index}"
