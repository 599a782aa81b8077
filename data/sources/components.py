"""`components:<classes>:<least>:<source>`: boxes and masks made from the masks of another source.

    components:car,pedestrian,bicyclist,sign:100:masks:/data/camvid

Each connected component of a class, with at least <least> pixels, is an object of that class: pixels that touch at a
side or a corner belong together. Smaller components are not objects; they are counted. Objects of a class that touch or
cover each other become one, and an object cut in two becomes two. Boxes are tight. `segmentation` stays as it is.

Opening a split reads all of its masks, in threads.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int, UInt8

from morphism.data import sources
from morphism.data.annotations import Annotations, Store, pack
from morphism.data.derived import View, passed_on
from morphism.data.id_maps import IdMap
from morphism.data.outlines import Outlines
from morphism.data.records import Record, Source, name_of
from morphism.errors import UserError, check_choice, skippable

CORNERS = np.ones((3, 3), bool)  # pixels that touch at corners are connected
FORM = "write components:car,sign:100:masks:/data/camvid: the classes, the least pixels of an object, and a source"


class _Found(NamedTuple):
    """The components of a record that are objects, and how many were too small."""

    boxes: Float[np.ndarray, "n 4"]
    areas: Int[np.ndarray, "n"]
    classes: Int[np.ndarray, "n"]
    outlines: Outlines
    small: int


NOTHING = _Found(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.int64), Outlines.of([]), 0)


@dataclass(frozen=True)
class Components(View):
    """The records of `source`, with boxes and masks."""

    classes: Sequence[str]
    store: Store

    sizes = passed_on("sizes")
    image_ids = passed_on("image_ids")
    files = passed_on("files")
    mask_stamps = passed_on("mask_stamps")

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"boxes": self.classes, "masks": self.classes} | {
            name: classes for name, classes in self.source.targets.items() if name not in ("boxes", "masks")
        }

    @property
    def category_ids(self) -> Sequence[int]:
        return range(1, len(self.classes) + 1)

    @property
    def oddities(self) -> str:
        return "; ".join(filter(None, (getattr(self.source, "oddities", ""), self.store.oddities)))

    @property
    def box_counts(self) -> Int[np.ndarray, "images 3"]:
        return self.store.box_counts

    def annotations(self, index: int) -> Annotations:
        return self.store[index]

    def masks(self, index: int) -> Outlines:
        return self.store.masks(index)

    def segmentation(self, index: int) -> UInt8[np.ndarray, "h w"]:
        return _segmentation(self.source, index)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        known = {"annotations": self.store[index], "masks": self.store.masks(index)}
        return record | known if "segmentation" in record else record


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    return tuple(sources.splits(sources.within(_parse(argument)[2], data_dir)))


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return _parse(argument)[0]


def load(argument: str, split: str, data_dir: str) -> Components:
    names, least, spec = _parse(argument)
    source = sources.load(sources.within(spec, data_dir), split)
    own = source.targets.get("segmentation", ())
    if not own:
        raise UserError(
            f"components:{argument}: {spec} has no masks of classes, but {' and '.join(source.targets)}; give a "
            "source of masks, such as masks:/data/camvid"
        )
    for name in names:
        check_choice(f"components:{argument}: the class", name, own)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        find = partial(_components, source, [own.index(name) for name in names], least)
        found = list(pool.map(find, range(len(source))))
    small = sum(each.small for each in found)
    store = pack(
        owner=np.repeat(np.arange(len(found)), [len(each.boxes) for each in found]),
        boxes=np.concatenate([each.boxes for each in found]),
        classes=np.concatenate([each.classes for each in found]),
        sizes=np.asarray(source.sizes),
        name=partial(name_of, source),
        where=f"components:{argument} {split}",
        area=np.concatenate([each.areas for each in found]).astype(np.float64),
        outlines=Outlines.of(outline for each in found for outline in each.outlines),
        notes=[f"{small:,} components of fewer than {least:,} pixels (these are not objects)"] if small else [],
    )
    return Components(source, names, store)


def _parse(argument: str) -> tuple[tuple[str, ...], int, str]:
    """The classes, the least area in pixels, and the other source."""
    listed, _, rest = argument.partition(":")
    least, _, spec = rest.partition(":")
    names = tuple(name.strip() for name in listed.split(","))
    if not all(names) or len(set(names)) < len(names) or not least.isdecimal() or int(least) < 1 or not spec:
        raise UserError(f"config.data.source is 'components:{argument}'; {FORM}")
    return names, int(least), spec


def _components(source: Source, numbers: Sequence[int], least: int, index: int) -> _Found:
    """The objects of a record, class by class; inside errors.noting, none of a record that cannot be read."""
    found = NOTHING
    with skippable(raised_again=True):
        found = _of_classes(_segmentation(source, index), numbers, least)
    return found


def _of_classes(pixels: UInt8[np.ndarray, "h w"], numbers: Sequence[int], least: int) -> _Found:
    ids, offset, last = np.zeros(pixels.shape, np.int32), 0, []
    for number in numbers:
        labelled, count = scipy.ndimage.label(pixels == number, CORNERS)
        np.copyto(ids, labelled + offset, where=labelled > 0)
        offset += count
        last.append(offset)  # the largest id of this class
    found = IdMap.of(ids)
    rows = np.flatnonzero((found.ids > 0) & (found.areas >= least))
    return _Found(
        boxes=found.boxes[rows],
        areas=found.areas[rows],
        classes=np.searchsorted(last, found.ids[rows]),
        outlines=found.outlines(rows),
        small=int((found.ids > 0).sum()) - len(rows),
    )


def _segmentation(source: Source, index: int) -> UInt8[np.ndarray, "h w"]:
    """The classes of a record's pixels, without its image where `source` can."""
    read = getattr(source, "segmentation", None)
    return read(index) if read else source[index]["segmentation"]
