"""Boxes: those of one image, those of a split in flat arrays, and the rules for odd ones.

Coordinates are continuous: the pixel in row i and column j covers i..i+1 and j..j+1, so the box around a whole image of
width W and height H is 0, 0, W, H.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from morphism.data import image, orientation
from morphism.data.files import by_name, scan
from morphism.data.outlines import Outlines
from morphism.data.runs import entries_of
from morphism.errors import UserError, skippable

LARGEST_AREA = 1e10  # square pixels; COCO's evaluation ignores objects beyond it
ODD_AREA = "without a usable area (it is the outline's, or the box's)"
ALL_IGNORED = "all are crowds or difficult (none is learned from, and evaluation ignores them: its AP is -1)"
UNREAD = (4096, 4096)  # stands for the size of an unreadable image, so that its boxes lie within
ROUNDING = 0.1  # pixels: a box that reaches less far beyond the image is clipped without a report


@dataclass(frozen=True)
class Annotations:
    """The objects of an image, or of many images one after another.

    boxes: x0, y0, x1, y1 in pixels of the decoded image, within it, x0 < x1 and y0 < y1.
    classes: 0..K-1, without a background class.
    crowd: COCO's iscrowd, a box around many objects. difficult: VOC's flag.
    area: square pixels, of the object's mask where the data states it (COCO), else of its box. float64, because
      evaluation compares areas exactly with the limits of COCO's size ranges.
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
    """The annotations of all images of a split: image i has rows offsets[i] to offsets[i + 1] of `flat`.

    oddities: one line on what was corrected, "" if nothing was.
    outlines: of the rows of `flat`; None of a split that was read without them.
    """

    flat: Annotations
    offsets: Int[np.ndarray, "offsets"]
    oddities: str
    outlines: Outlines | None = None

    def __getitem__(self, index: int) -> Annotations:
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    def masks(self, index: int) -> Outlines:
        """The outlines of an image's objects; unknown ones if the split was read without them."""
        if self.outlines is None:
            return Outlines.of([None] * len(self[index]))
        return self.outlines.part(int(self.offsets[index]), int(self.offsets[index + 1]))

    def take(self, images: Int[np.ndarray, "m"]) -> "Store":
        """The annotations of these images, in this order."""
        rows, offsets = entries_of(self.offsets, images)
        outlines = None if self.outlines is None else self.outlines.take(rows)
        return replace(self, flat=self.flat[rows], offsets=offsets, outlines=outlines)

    @property
    def owner(self) -> Int[np.ndarray, "n"]:
        """The image of each row of `flat`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def box_counts(self) -> Int[np.ndarray, "images 3"]:
        """Three counts per image: all boxes; boxes that take a slot in training, all but difficult ones; boxes that
        are learned and must be found, neither difficult nor crowds.
        """
        kept = ~self.flat.difficult
        which = (np.ones(len(self.flat), bool), kept, kept & ~self.flat.crowd)
        owner, images = self.owner, len(self.offsets) - 1
        return np.stack([np.bincount(owner[rows], minlength=images) for rows in which], axis=1)


def pack(
    owner: Int[np.ndarray, "n"],
    boxes: Float[np.ndarray, "n 4"],
    classes: Int[np.ndarray, "n"],
    sizes: Int[np.ndarray, "images 2"],
    name: Callable[[int], str],
    *,
    where: str = "",
    crowd: Bool[np.ndarray, "n"] | None = None,
    difficult: Bool[np.ndarray, "n"] | None = None,
    area: Float[np.ndarray, "n"] | None = None,
    outline_area: Callable[[int], float] = lambda row: np.nan,
    outlines: Outlines | None = None,
    notes: Sequence[str] = (),
) -> Store:
    """Checks and corrects boxes, and stores them by image; the boxes of an image keep their order.

    A box without width or height is dropped, and so is a box wholly outside its image. A box partly outside is clipped.
    An area that is not `usable_area` is replaced by the outline's, or where there is none by the clipped box's. All of
    this is counted in Store.oddities.

    Args:
      owner: the image of each box.
      boxes: x0, y0, x1, y1 in pixels.
      classes: 0..K-1.
      sizes: height and width of each image.
      name: image -> the name of its annotations, for errors.
      where: the name of the split, for errors; "" for a part of a split.
      crowd, difficult: none where not given.
      area: square pixels; where not given, all are those of the boxes.
      outline_area: box -> the area within its outline, NaN for a box without one.
      outlines: of the boxes; that of a dropped box is dropped.
      notes: further oddities, reported last.

    Raises:
      UserError: a coordinate is not finite, or a whole split has no box; inside errors.noting such boxes are noted, and
        left out.
    """
    boxes, lost = _finite(boxes, owner, name)
    exact, boxes = boxes, boxes.astype(np.float32)
    high = np.tile(sizes[owner][:, ::-1], 2).astype(np.float32) if len(boxes) else boxes
    clipped = np.clip(boxes, 0, high)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1) & ~lost
    outside = ~empty & ~lost & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    cut = ~empty & ~outside & (np.abs(clipped - boxes) > ROUNDING).any(axis=1)
    keep = np.flatnonzero(~empty & ~outside & ~lost)
    with skippable(raised_again=True):  # by data.checks
        if where and not len(keep):
            raise UserError(
                f"{where}: not one box in its {len(sizes)} images; look at the annotations, or at the split"
            )
    keep = keep[np.argsort(owner[keep], kind="stable")]

    none = np.zeros(len(boxes), bool)
    crowd, difficult = (none if each is None else each for each in (crowd, difficult))
    areas, odd_area = _areas(np.clip(exact, 0, high), area, keep, outline_area)
    rules = {
        "without width or height (dropped)": empty,
        "outside the image (dropped)": outside,
        "partly outside the image (clipped)": cut,
        ODD_AREA: odd_area,
    }
    found = [f"{b.sum():,} {rule}, first in {name(int(owner[b][0]))}" for rule, b in rules.items() if b.any()]
    found += notes
    if where and len(keep) and (crowd | difficult)[keep].all():
        found.append(ALL_IGNORED)
    flat = Annotations(clipped[keep], np.asarray(classes, np.int32)[keep], crowd[keep], difficult[keep], areas[keep])
    offsets = np.searchsorted(owner[keep], np.arange(len(sizes) + 1))
    oddities = f"odd boxes: {'; '.join(found)}" if found else ""
    return Store(flat, offsets, oddities, None if outlines is None else outlines.take(keep))


def _finite(
    boxes: Float[np.ndarray, "n 4"], owner: Int[np.ndarray, "n"], name: Callable[[int], str]
) -> tuple[Float[np.ndarray, "n 4"], Bool[np.ndarray, "n"]]:
    """The boxes as float64, and which of them are not finite as float32: their coordinates become 0.

    Raises UserError for such a box, except inside errors.noting.
    """
    with np.errstate(over="ignore"):
        small = boxes.astype(np.float32)
    broken = ~np.isfinite(small).all(axis=1)
    for row in np.flatnonzero(broken).tolist():
        with skippable():
            values = ", ".join(f"{value:g}" for value in small[row])
            where = name(int(owner[row]))
            raise UserError(f"{where}: box {values} (x0, y0, x1, y1) is not finite; mend or remove it")
    return np.where(broken[:, None], 0, boxes.astype(np.float64)), broken


def _areas(
    boxes: Float[np.ndarray, "n 4"],
    stated: Float[np.ndarray, "n"] | None,
    kept: Int[np.ndarray, "k"],
    outline_area: Callable[[int], float],
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """The area of each box, and which of those kept state an odd one, replaced by its outline's or its box's."""
    areas, odd = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), np.zeros(len(boxes), bool)
    if stated is None:
        return areas, odd
    odd[kept] = ~usable_area(stated[kept])
    rows = np.flatnonzero(odd)
    outlined = np.array([outline_area(row) for row in rows.tolist()], np.float64)
    found = np.array(stated, np.float64)
    found[rows] = np.where(np.isnan(outlined), areas[rows], outlined)
    return found, odd


def usable_area(area: float | Float[np.ndarray, "n"]) -> bool | Bool[np.ndarray, "n"]:
    """Whether COCO's evaluation can use each area: positive and at most LARGEST_AREA, not NaN."""
    return (area > 0) & (area <= LARGEST_AREA)


def stated_size(height: float, width: float) -> tuple[int, int] | None:
    """The image size (height, width) that annotations state; None if no decoded image can have it."""
    most = image.MAX_PIXELS
    sound = 1 <= height <= most and 1 <= width <= most and height * width <= most
    return (int(height), int(width)) if sound else None


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of the image in `path` as `data.image.decode` will return it, from the file's header.

    For an unreadable image: UNREAD inside errors.noting; elsewhere raises UserError.
    """
    size = UNREAD
    with skippable(raised_again=True):
        try:
            with path.open("rb") as file:
                size = image.size_in(file, str(path))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from error
    return size


def check_size(name: str, decoded: tuple[int, ...], annotated: Sequence[int] | Int[np.ndarray, "2"]) -> None:
    """Raises UserError where the size of a decoded image is not the one that its annotations state."""
    if tuple(decoded[:2]) != tuple(annotated):
        raise UserError(
            f"{name} is {decoded[1]} x {decoded[0]}, its annotations are for {annotated[1]} x {annotated[0]}; "
            f"mend the size there, with the boxes, or replace the image{orientation.hint(decoded, annotated)}"
        )


def named_images(folder: Path) -> dict[str, str]:
    """Maps the path without suffix to the path, for all images below `folder`.

    Raises UserError for a folder that cannot be listed, and for two images of one name.
    """
    return by_name(folder, scan(folder).images)


def packed_names(names: Sequence[str]) -> np.ndarray:
    """Names as one array of bytes: small in memory, and quick to send to a worker process."""
    return np.array([os.fsencode(name) for name in names])


def packed_ids(ids: Sequence[int | str]) -> np.ndarray:
    """Ids as one array: of text, of int64, or of objects where the ids are of both kinds or too large."""
    if all(isinstance(each, str) for each in ids):
        return np.array(ids)
    small = all(isinstance(each, int) and -(1 << 63) <= each < 1 << 63 for each in ids)
    return np.array(ids, np.int64 if small else object)
