"""The boxes of pictures: one picture's, a split's in flat arrays, and the rules for odd ones.

Coordinates are continuous: the pixel in row i and column j covers i..i+1 and j..j+1, so that a box around the whole of
a picture of width W and height H is 0, 0, W, H.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from morphism.data import image, orientation
from morphism.data.files import by_name, scan
from morphism.errors import UserError, skippable

LARGEST_AREA = 1e10  # square pixels; COCO's evaluation ignores objects beyond it
ODD_AREA = "without a usable area (it is the outline's, or the box's)"
ALL_IGNORED = "all are crowds or difficult (none is learned from, and evaluation ignores them: its AP is -1)"
UNREAD = (4096, 4096)  # the size of an image that cannot be read: its boxes are within
ROUNDING = 0.1  # pixels beyond the picture that are clipped without a word


@dataclass(frozen=True)
class Annotations:
    """The objects of a picture, or of many pictures one after another.

    boxes: x0, y0, x1, y1 in pixels of the picture as decoded, within it, x0 < x1 and y0 < y1.
    classes: 0..K-1, no background class. crowd: COCO's iscrowd, a box around many. difficult: VOC's.
    area: square pixels, of the object's mask where the data tells (COCO), else of its box; float64, because COCO's
    ranges of areas are compared exactly.
    """

    boxes: Float[np.ndarray, "n 4"]
    classes: Int[np.ndarray, "n"]
    crowd: Bool[np.ndarray, "n"]
    difficult: Bool[np.ndarray, "n"]
    area: Float[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: slice | np.ndarray) -> "Annotations":
        return Annotations(*(getattr(self, field.name)[rows] for field in fields(self)))


NO_OBJECTS = Annotations(
    *(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0, bool), np.zeros(0))
)


@dataclass(frozen=True)
class Store:
    """The annotations of all pictures of a split: those of picture i are rows offsets[i] to offsets[i + 1] of `flat`.

    oddities: one line of what was set right, "" if nothing.
    """

    flat: Annotations
    offsets: Int[np.ndarray, "pictures+1"]
    oddities: str

    def __getitem__(self, index: int) -> Annotations:
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    def take(self, images: Int[np.ndarray, "m"]) -> "Store":
        """The annotations of `images`, in that order."""
        counts = np.diff(self.offsets)[images]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[images] - offsets[:-1], counts)
        return Store(self.flat[rows], offsets, self.oddities)

    @property
    def owner(self) -> Int[np.ndarray, "n"]:
        """The image of each row of `flat`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def box_counts(self) -> Int[np.ndarray, "pictures 3"]:
        """Of each image: its boxes; those that take a slot in training, which leaves out difficult ones; and those that
        count, which leaves out crowds as well: only they are learned, and only they are to be found."""
        kept = ~self.flat.difficult
        which = (np.ones(len(self.flat), bool), kept, kept & ~self.flat.crowd)
        owner, images = self.owner, len(self.offsets) - 1
        return np.stack([np.bincount(owner[rows], minlength=images) for rows in which], axis=1)


def pack(
    owner: Int[np.ndarray, "n"],
    boxes: Float[np.ndarray, "n 4"],
    classes: Int[np.ndarray, "n"],
    sizes: Int[np.ndarray, "pictures 2"],
    name: Callable[[int], str],
    *,
    where: str = "",
    crowd: Bool[np.ndarray, "n"] | None = None,
    difficult: Bool[np.ndarray, "n"] | None = None,
    area: Float[np.ndarray, "n"] | None = None,
    outline_area: Callable[[int], float] = lambda row: np.nan,
    notes: Sequence[str] = (),
) -> Store:
    """The store of `boxes`, of which box k belongs to picture owner[k]; each picture's boxes keep their order.

    The rules, counted and told in Store.oddities: a box without width or height is dropped, one wholly outside its
    picture too; one partly outside is clipped. Where areas are given, one that is not `usable_area` becomes
    outline_area(k), or the clipped box's where that is NaN; where none are, all are their boxes'.

    Args:
      name: what an error calls an image's annotations.
      where: what an error calls the whole split; "" where these are not the whole.
      outline_area: the area within the outline of box k, NaN if it has none.
      notes: what else was odd, reported after the rest.

    Raises UserError for a coordinate that is no finite number, and for a whole split without any box.
    """
    owner, exact = np.asarray(owner, np.int64).reshape(-1), np.asarray(boxes, np.float64).reshape(-1, 4)
    with np.errstate(over="ignore"):
        boxes = exact.astype(np.float32)
    count = len(boxes)
    broken = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(broken):
        values = ", ".join(f"{value:g}" for value in boxes[broken[0]])
        raise UserError(f"{name(owner[broken[0]])}: box {values} (x0, y0, x1, y1) is not finite; mend or remove it")
    high = np.tile(sizes[owner][:, ::-1], 2).astype(np.float32) if count else boxes
    clipped = np.clip(boxes, 0, high)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    outside = ~empty & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    cut = ~empty & ~outside & (np.abs(clipped - boxes) > ROUNDING).any(axis=1)
    keep = np.flatnonzero(~empty & ~outside)
    with skippable(raised_again=True):  # by data.checks
        if where and not len(keep):
            raise UserError(
                f"{where}: not one box in its {len(sizes)} pictures; look at the annotations, or at the split"
            )
    keep = keep[np.argsort(owner[keep], kind="stable")]

    crowd, difficult = (
        np.zeros(count, bool) if each is None else np.asarray(each, bool) for each in (crowd, difficult)
    )
    corners = np.clip(exact, 0, high)
    areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    odd_area = np.zeros(count, bool)
    if area is not None:
        odd_area[keep] = ~usable_area(np.asarray(area, np.float64)[keep])
        areas = _areas(areas, area, odd_area, outline_area)

    found = [
        f"{rows.sum():,} {rule}, first in {name(owner[np.flatnonzero(rows)[0]])}"
        for rows, rule in (
            (empty, "without width or height (dropped)"),
            (outside, "outside the picture (dropped)"),
            (cut, "partly outside the picture (clipped)"),
            (odd_area, ODD_AREA),
        )
        if rows.any()
    ]
    ignored = bool(where and len(keep)) and bool((crowd | difficult)[keep].all())
    found += [*notes, *([ALL_IGNORED] if ignored else [])]
    flat = Annotations(clipped[keep], np.asarray(classes, np.int32)[keep], crowd[keep], difficult[keep], areas[keep])
    offsets = np.searchsorted(owner[keep], np.arange(len(sizes) + 1))
    return Store(flat, offsets, f"odd boxes: {'; '.join(found)}" if found else "")


def _areas(
    of_boxes: Float[np.ndarray, "n"],
    stated: Float[np.ndarray, "n"],
    odd: Bool[np.ndarray, "n"],
    outline_area: Callable[[int], float],
) -> Float[np.ndarray, "n"]:
    """The stated areas, but of the odd ones the outlines', or where these are NaN the boxes'."""
    rows = np.flatnonzero(odd)
    outlined = np.array([outline_area(row) for row in rows], np.float64)
    areas = np.array(stated, np.float64)
    areas[rows] = np.where(np.isnan(outlined), of_boxes[rows], outlined)
    return areas


def usable_area(area: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Which areas COCO's evaluation can count: positive, and at most LARGEST_AREA. Those that are NaN are none."""
    return (area > 0) & (area <= LARGEST_AREA)


def stated_size(height: float, width: float) -> tuple[int, int] | None:
    """The size (height, width) of an image that its annotations state, None if no image that is decoded has it."""
    most = image.MAX_PIXELS
    sound = 1 <= height <= most and 1 <= width <= most and height * width <= most
    return (int(height), int(width)) if sound else None


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of the picture in `path` as `data.image.decode` will return it, from what of the file tells.

    Inside errors.noting UNREAD for one that cannot be read.
    """
    size = UNREAD
    with skippable(raised_again=True):
        try:
            with path.open("rb") as file:
                size = image.size_in(file, str(path))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from error
    return size


def check_size(name: str, decoded: tuple[int, ...], annotated: Sequence[int]) -> None:
    """Raises UserError where a decoded picture is not of the size that its annotations are for."""
    if tuple(decoded[:2]) != tuple(annotated):
        raise UserError(
            f"{name} is {decoded[1]} x {decoded[0]}, its annotations are for {annotated[1]} x {annotated[0]}; "
            f"mend the size there, with the boxes, or replace the picture{orientation.hint(decoded, annotated)}"
        )


def named_pictures(folder: Path) -> dict[str, str]:
    """Path without its suffix -> path, of the images below `folder`.

    Raises UserError for a folder that cannot be listed, and for two images of one name.
    """
    return by_name(folder, scan(folder).images)


def packed_names(names: Sequence[str]) -> np.ndarray:
    """Names as one array of bytes, which is small to hold and to send to a worker process."""
    return np.array([os.fsencode(name) for name in names])


def packed_ids(ids: Sequence[int | str]) -> np.ndarray:
    """Ids as one array, compact where it can hold them as they are: not if they are large, or of both kinds."""
    if all(isinstance(each, str) for each in ids):
        return np.array(ids)
    small = all(isinstance(each, int) and -(1 << 63) <= each < 1 << 63 for each in ids)
    return np.array(ids, np.int64 if small else object)
