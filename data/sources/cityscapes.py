"""`cityscapes:<path>`: Cityscapes (Cordts et al. 2016) with boxes, masks and classes of pixels, as it is unpacked.

    <path>/leftImg8bit/<split>/<city>/<name>_leftImg8bit.png
    <path>/gtFine/<split>/<city>/<name>_gtFine_instanceIds.png

<split> is train, val or test, whose truth is withheld. `segmentation` has the 19 classes that are evaluated; other
pixels are ignored. The eight of them that have instances have boxes and masks too.

In a map of ids, an id below 1000 is a class itself. If that class has instances, the region is a crowd, objects that
could not be told apart. Any other id is 1000 times its class plus the number of the instance. Source:
cityscapesScripts, preparation/createPanopticImgs.py. Boxes are tight around the masks, and areas are those of the
masks.

Opening a split reads all of its maps, in threads, for the boxes: 17 ms of one core for the runs of a map, and the time
to decode it. Outlines are not kept: a map is read again with its record.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from morphism.data.annotations import check_size, image_size, pack, packed_names
from morphism.data.file_source import BoxedFiles
from morphism.data.files import passed_over, read_bytes, scan, stamps
from morphism.data.id_maps import IdMap, read_ids
from morphism.data.layouts import Layout, Look, Seen
from morphism.data.outlines import Outlines
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError, skippable
from morphism.labels import IGNORE

SPLITS = ("train", "val", "test")
LAYOUT = Layout("Cityscapes", "leftImg8bit/<split>/<city>/ next to gtFine/<split>/<city>/")
IMAGE, MAP = "_leftImg8bit.png", "_gtFine_instanceIds.png"
NUMBERS = {  # the dataset's own numbers (labelIds) of the classes that are evaluated
    **{"road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19},
    **{"traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26},
    **{"truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33},
}
THINGS = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
CLASSES = tuple(NUMBERS)
LARGEST = 33  # of all labelIds, evaluated or not
FIRST_INSTANCE = 1000

PIXEL_CLASS = np.full(LARGEST + 1, IGNORE, np.uint8)
PIXEL_CLASS[list(NUMBERS.values())] = np.arange(len(NUMBERS))
BOX_CLASS = np.full(LARGEST + 1, -1, np.int32)
BOX_CLASS[[NUMBERS[name] for name in THINGS]] = np.arange(len(THINGS))


@dataclass(frozen=True, kw_only=True)
class Cityscapes(BoxedFiles):
    """Image files with a map of ids each."""

    map_files: np.ndarray
    passed_over: str

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"boxes": self.classes, "masks": self.classes, "segmentation": CLASSES}

    @property
    def oddities(self) -> str:
        return "; ".join(filter(None, (self.passed_over, self.store.oddities)))

    @property
    def mask_stamps(self) -> Int[np.ndarray, "records"]:
        return stamps(self.root / os.fsdecode(file) for file in self.map_files)

    def masks(self, index: int) -> Outlines:
        found = self._map(index)
        return found.outlines(_things(found))

    def segmentation(self, index: int) -> UInt8[np.ndarray, "h w"]:
        return _classes(self._map(index))

    def truth(self, index: int) -> dict[str, Any]:
        found = self._map(index)
        return {
            "annotations": self.store[index],
            "masks": found.outlines(_things(found)),
            "segmentation": _classes(found),
        }

    def _map(self, index: int) -> IdMap:
        return _read(self.root / os.fsdecode(self.map_files[index]), self.sizes[index])


def seen(look: Look) -> Seen:
    return Seen.of(*((f"{name}/", (look.path / name).is_dir()) for name in ("leftImg8bit", "gtFine")))


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "cityscapes")
    held = tuple(split for split in SPLITS if all((root / name / split).is_dir() for name in ("leftImg8bit", "gtFine")))
    if not held:
        raise UserError(
            f"{root}: no leftImg8bit/train next to gtFine/train; unpack leftImg8bit_trainvaltest.zip and "
            "gtFine_trainvaltest.zip there"
        )
    return held


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return THINGS


def load(argument: str, split: str, data_dir: str) -> Cityscapes:
    root = root_folder(argument, "cityscapes")
    files, maps, others = _pairs(root, split)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = np.array(list(pool.map(image_size, [root / file for file in files])), np.int32).reshape(-1, 2)
        found = list(pool.map(_surveyed, [root / file for file in maps], sizes))
    numbers = np.concatenate([ids for ids, _, _ in found])
    store = pack(
        owner=np.repeat(np.arange(len(found)), [len(ids) for ids, _, _ in found]),
        boxes=np.concatenate([boxes for _, boxes, _ in found]),
        classes=BOX_CLASS[_labels(numbers)],
        sizes=sizes,
        name=lambda index: str(root / maps[index]),
        where=str(root / "gtFine" / split),
        crowd=numbers < FIRST_INSTANCE,
        area=np.concatenate([areas for _, _, areas in found]).astype(np.float64),
    )
    return Cityscapes(
        root=root,
        files=packed_names(files),
        classes=THINGS,
        category_ids=tuple(NUMBERS[name] for name in THINGS),
        image_ids=np.array([file.rpartition("/")[2].removesuffix(IMAGE) for file in files]),
        sizes=sizes,
        store=store,
        map_files=packed_names(maps),
        passed_over=others,
    )


def _pairs(root: Path, split: str) -> tuple[list[str], list[str], str]:
    """The images and the maps of a split, as paths below `root`, and a line on files that are no images."""
    folder = root / "leftImg8bit" / split
    listing = scan(folder)
    files, maps = [], []
    for file in listing.images:
        path = f"gtFine/{split}/{file.removesuffix(IMAGE)}{MAP}"
        with skippable():
            if not file.endswith(IMAGE):
                raise UserError(f"{folder / file}: its name does not end in {IMAGE}; rename or remove it")
            if not (root / path).is_file():
                raise UserError(f"{folder / file}: no map of ids {root / path}; add it, or remove the image")
            files.append(f"leftImg8bit/{split}/{file}")
            maps.append(path)
    if not files:
        raise UserError(f"{folder}: no images; expected {folder}/<city>/<name>{IMAGE}")
    return files, maps, passed_over((folder, listing.others))


def _read(path: Path, size: np.ndarray) -> IdMap:
    """Raises UserError for a map of another size than its image, and for an id of no class."""
    ids = read_ids(read_bytes(path), str(path))
    check_size(str(path), ids.shape, size)
    found = IdMap.of(ids)
    unknown = found.ids[_labels(found.ids) > LARGEST]
    if len(unknown):
        raise UserError(f"{path}: holds the id {unknown[0]}, which is of no class of Cityscapes; fetch it again")
    return found


def _surveyed(path: Path, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, boxes and areas of the things in a map; inside errors.noting, none of a map that cannot be read."""
    none = np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, np.int64)
    with skippable(raised_again=True):
        found = _read(path, size)
        things = _things(found)
        none = found.ids[things], found.boxes[things], found.areas[things]
    return none


def _labels(ids: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The labelId of each id."""
    return np.where(ids < FIRST_INSTANCE, ids, ids // FIRST_INSTANCE)


def _things(found: IdMap) -> Int[np.ndarray, "things"]:
    """The rows of things in a map."""
    return np.flatnonzero(BOX_CLASS[_labels(found.ids)] >= 0)


def _classes(found: IdMap) -> UInt8[np.ndarray, "h w"]:
    return found.repaint(PIXEL_CLASS[_labels(found.ids)])
