"""`coco_voc:<path>`: COCO's pictures with a class a pixel, of VOC's twenty and background, as torchvision reads them.

Folders and files as `coco:` has them. A pixel has the class of the object whose outline it is in, 255 where outlines of
several objects lie over one another, crowds included. Of train only those pictures are there whose objects of these
classes have together an area of more than 1,000 pixels. Source: torchvision's references/segmentation/coco_utils.py.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle
from jaxtyping import Int, UInt8

from data.sources import Record, coco
from data.sources.coco import splits as splits
from data.sources.folder import root_folder
from data.sources.voc import CLASSES as VOC_CLASSES
from errors import UserError

CLASSES = ("background", *VOC_CLASSES)
CATEGORY_IDS = (5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)  # COCO's, of VOC's classes
IGNORE = 255
LEAST_AREA = 1000


@dataclass(frozen=True)
class CocoVoc:
    """The objects of picture i are offsets[i] to offsets[i + 1] of `kinds`, and of `ends` in `outlines`.

    Outlines are COCO's compressed run lengths, one after another.
    """

    root: Path
    files: np.ndarray
    image_ids: np.ndarray
    sizes: Int[np.ndarray, "pictures 2"]
    offsets: Int[np.ndarray, "pictures+1"]
    kinds: UInt8[np.ndarray, "objects"]
    ends: Int[np.ndarray, "objects+1"]
    outlines: bytes
    classes: Sequence[str] = CLASSES
    oddities: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path = self.root / os.fsdecode(self.files[index])
        try:
            return {"image": path.read_bytes(), "name": str(path), "segmentation": self._mask(index)}
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from error

    def _mask(self, index: int) -> UInt8[np.ndarray, "h w"]:
        size = self.sizes[index].tolist()
        classes, covered = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        for row in range(*self.offsets[index : index + 2]):
            counts = self.outlines[self.ends[row] : self.ends[row + 1]]
            shape = rle.decode({"size": size, "counts": counts})
            classes = np.maximum(classes, shape * self.kinds[row])
            covered = np.minimum(covered + shape, 2)
        return np.where(covered > 1, IGNORE, classes).astype(np.uint8)


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return CLASSES


def load(argument: str, split: str, data_dir: str) -> CocoVoc:
    boxes = coco.load(argument, split, data_dir)
    path = coco.annotation_file(root_folder(argument, "coco_voc"), split)
    size_of = dict(zip(boxes.image_ids.tolist(), boxes.sizes.tolist(), strict=True))
    found: dict[Any, list[tuple[int, bytes]]] = {each: [] for each in size_of}
    area = dict.fromkeys(size_of, 0.0)
    for each in coco.read_json(path)["annotations"]:
        if each["category_id"] in CATEGORY_IDS:
            picture = each["image_id"]
            counts = _outline(each, size_of[picture], path)
            found[picture].append((CATEGORY_IDS.index(each["category_id"]) + 1, counts))
            area[picture] += each.get("area", 0)
    kept = [row for row, each in enumerate(found) if split != "train" or area[each] > LEAST_AREA]
    if not kept:
        raise UserError(f"{path}: no picture with objects of VOC's classes (COCO's ids {CATEGORY_IDS}); see coco:")
    objects = [found[each] for each in np.array(list(found), object)[kept]]
    flat = [each for held in objects for each in held]
    return CocoVoc(
        root=boxes.root,
        files=boxes.files[kept],
        image_ids=boxes.image_ids[kept],
        sizes=boxes.sizes[kept],
        offsets=np.cumsum([0, *map(len, objects)]),
        kinds=np.array([kind for kind, _ in flat], np.uint8),
        ends=np.cumsum([0, *(len(counts) for _, counts in flat)]),
        outlines=b"".join(counts for _, counts in flat),
    )


def _outline(annotation: dict, size: Sequence[int], path: Path) -> bytes:
    """The run lengths of an object's polygons, or of its own run lengths; b"" is never among them."""
    outline = annotation.get("segmentation")
    try:
        made = rle.frPyObjects(outline, *size)
        return (rle.merge(made) if isinstance(made, list) else made)["counts"]
    except Exception as error:  # the C code behind raises whatever broken outlines lead it to
        raise UserError(
            f"{path}: annotation {annotation['id']} has no outline that can be read ({error}); mend it"
        ) from error
