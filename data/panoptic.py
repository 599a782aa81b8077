"""Panoptic truth: an image's map of segment ids, and what is known of each segment, as boxes, masks and classes.

A segment is an object (a thing), a crowd of them, or all of a class without objects (stuff).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from morphism.data.annotations import Store, pack
from morphism.data.id_maps import IdMap
from morphism.data.outlines import Outlines
from morphism.errors import UserError
from morphism.labels import IGNORE

THINGS = "things"  # the class of pixels that stands for all things
VOID = 0  # the id of pixels without a segment


class Categories(NamedTuple):
    """How categories become classes.

    boxes, pixels: names of the classes of boxes and of segmentation.
    box_class: of each category, -1 for stuff. pixel_class: of each category.
    """

    boxes: tuple[str, ...]
    pixels: tuple[str, ...]
    box_class: Int[np.ndarray, "categories"]
    pixel_class: Int[np.ndarray, "categories"]


@dataclass(frozen=True)
class Segments:
    """The segments of all images of a split: image i has rows offsets[i] to offsets[i + 1]."""

    offsets: Int[np.ndarray, "offsets"]
    ids: Int[np.ndarray, "segments"]
    categories: Int[np.ndarray, "segments"]

    @classmethod
    def of(
        cls, owner: Int[np.ndarray, "n"], ids: Int[np.ndarray, "n"], categories: Int[np.ndarray, "n"], images: int
    ) -> "Segments":
        """owner: the image of each segment, in rising order."""
        offsets = np.searchsorted(owner, np.arange(images + 1))
        return cls(offsets, ids, categories)

    def __getitem__(self, index: int) -> "Segments":
        """The segments of one image."""
        part = slice(*self.offsets[index : index + 2].tolist())
        return Segments(np.array([0, part.stop - part.start]), self.ids[part], self.categories[part])


@dataclass(frozen=True)
class Truth:
    """A map of segment ids with its segments, checked against each other."""

    found: IdMap
    segments: Segments

    @classmethod
    def of(cls, ids: Int[np.ndarray, "h w"], segments: Segments, name: str, listed: str) -> "Truth":
        """Raises UserError for an id that only the map, called `name`, or only the list, called `listed`, has."""
        found = IdMap.of(ids)
        absent = np.setdiff1d(segments.ids, found.ids)
        if len(absent):
            raise UserError(f"{name}: has no pixel of the segment {absent[0]} of {listed}; export both again")
        unknown = np.setdiff1d(found.ids, np.append(segments.ids, VOID))
        if len(unknown):
            raise UserError(f"{name}: holds the segment {unknown[0]}, which {listed} does not list; export both again")
        return cls(found, segments)

    def outlines(self, ids: Int[np.ndarray, "n"]) -> Outlines:
        """The outlines of these segments."""
        return self.found.outlines(self.found.rows(ids))

    def classes(self, kinds: Categories) -> UInt8[np.ndarray, "h w"]:
        """The class of each pixel, IGNORE where there is no segment."""
        table = np.full(len(self.found.ids), IGNORE, np.uint8)
        table[self.found.rows(self.segments.ids)] = kinds.pixel_class[self.segments.categories]
        return self.found.repaint(table)


def separated(names: Sequence[str], is_thing: Bool[np.ndarray, "categories"]) -> Categories:
    """Pixels of all things are one class, the first; each stuff category is a class. detectron2's "separated" form."""
    stuff = np.cumsum(~is_thing)
    boxes, others = _split(names, is_thing)
    return Categories(boxes, (THINGS, *others), _box_class(is_thing), np.where(is_thing, 0, stuff))


def all_categories(names: Sequence[str], is_thing: Bool[np.ndarray, "categories"]) -> Categories:
    """Each category, thing or stuff, is a class of pixels."""
    return Categories(_split(names, is_thing)[0], tuple(names), _box_class(is_thing), np.arange(len(names)))


def pack_things(
    segments: Segments,
    kinds: Categories,
    boxes: Float[np.ndarray, "segments 4"],
    sizes: Int[np.ndarray, "images 2"],
    name: Callable[[int], str],
    where: str,
    crowd: Bool[np.ndarray, "segments"],
    area: Float[np.ndarray, "segments"],
) -> tuple[Store, Int[np.ndarray, "n"]]:
    """The boxes of all things, by the rules of annotations.pack, and the segment of each."""
    owner = np.repeat(np.arange(len(sizes)), np.diff(segments.offsets))
    things = np.flatnonzero(kinds.box_class[segments.categories] >= 0)
    store = pack(
        owner=owner[things],
        boxes=boxes[things],
        classes=things,  # for now, to see which of them remain
        sizes=sizes,
        name=name,
        where=where,
        crowd=crowd[things],
        area=area[things],
    )
    kept = store.flat.classes
    classes = kinds.box_class[segments.categories[kept]].astype(np.int32)
    return replace(store, flat=replace(store.flat, classes=classes)), kept


def _split(names: Sequence[str], is_thing: Bool[np.ndarray, "categories"]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the things, and of the others."""
    return tuple(tuple(np.array(names, object)[which]) for which in (is_thing, ~is_thing))


def _box_class(is_thing: Bool[np.ndarray, "categories"]) -> Int[np.ndarray, "categories"]:
    return np.where(is_thing, np.cumsum(is_thing) - 1, -1)
