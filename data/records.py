"""What a data source gives: records, each an image and what is known of it, with random access.

A source says in `targets` which truths its records have, and by which classes; what it offers beside its records
follows from that: `Labelled`, `Boxed` and `Masked`. Whatever else a source may have is asked for where it is used:
`files` (paths below its root as bytes), `store` (annotations.Store: the boxes of all records), `oddities` (a line of
what was odd when it was opened), `by_id` (a class is what its id is), `version`, `mask_stamps` and `legend`
(data/fingerprint.py).
"""

from collections.abc import Mapping, Sequence
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from morphism.data.annotations import Annotations
from morphism.errors import UserError


class Record(TypedDict):
    """An image and its truths; one that is missing was not annotated."""

    image: bytes | np.ndarray  # encoded, or its pixels [h,w] or [h,w,3]
    name: str  # what an error calls the record
    label: NotRequired[int]
    annotations: NotRequired[Annotations]
    segmentation: NotRequired[UInt8[np.ndarray, "h w"]]  # the class of each pixel, or IGNORE


@runtime_checkable
class Source(Protocol):
    """Random access to records. It is pickled to worker processes: hold paths, not open files or arrays of data.

    targets: the truths that records have, as data/targets names them, each with the names of its classes. The first
    is what the source is for; `classes` are the names of its classes.
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
        """The class of every record, int32, without decoding an image; TFDS reads all its files for it."""


@runtime_checkable
class Sized(Source, Protocol):
    """The sizes of images are known, which what has a place in them needs."""

    @property
    def sizes(self) -> Int[np.ndarray, "records 2"]:
        """Height and width of each image as decoded."""


@runtime_checkable
class Boxed(Sized, Protocol):
    """Records have `annotations`."""

    @property
    def image_ids(self) -> Sequence[int | str] | np.ndarray:
        """What the dataset calls each record."""

    @property
    def category_ids(self) -> Sequence[int | str | None]:
        """What the dataset calls each class; None for one that it does not have."""

    @property
    def box_counts(self) -> Int[np.ndarray, "records 3"]:
        """annotations.Store.box_counts."""

    def annotations(self, index: int) -> Annotations:
        """A record's, without reading its image."""


@runtime_checkable
class Masked(Sized, Protocol):
    """Records have a `segmentation`."""

    @property
    def image_ids(self) -> Sequence[int | str] | np.ndarray:
        """What the dataset calls each record."""


def first_target(source: Source) -> str:
    """What the source is for: the target whose classes are its `classes`."""
    return next(iter(source.targets))


def names(source: Source) -> list[bytes]:
    """Of each record a name that does not change when others are added or removed.

    A file's path below the source's root; else the dataset's own id; else, where it has none, the position.
    """
    files = getattr(source, "files", None)
    if files is not None:
        return files.tolist()
    return [
        str(each).encode(errors="surrogatepass")
        for each in np.asarray(getattr(source, "image_ids", range(len(source)))).tolist()
    ]


def name_of(source: Source, index: int) -> str:
    """What an error calls the record, also where it cannot be read."""
    try:
        return source[index]["name"]
    except UserError:
        return f"record {index}"
