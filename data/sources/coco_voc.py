"""`coco_voc:<path>`: masks of VOC's twenty classes and background for COCO's images, as torchvision makes them.

Folders and files are those of `coco:`. A pixel has the class of the object whose outline it lies in; where outlines of
several objects overlap, crowds included, it is 255. In train, images are left out whose objects of these classes cover
1,000 pixels or less. Source: torchvision's references/segmentation/coco_utils.py.

Categories are recognised by name, COCO's or VOC's, whatever their ids. The box of an object without an outline is 255:
the object is there, but its shape is unknown.
"""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from morphism.data import coco_json, outlines
from morphism.data.annotations import ODD_AREA, packed_ids, packed_names, usable_area
from morphism.data.file_source import FileSource
from morphism.data.outlines import Outlines
from morphism.data.sources import coco
from morphism.data.sources.coco import FEW_POINTS
from morphism.data.sources.coco import splits as splits
from morphism.data.sources.folder import root_folder
from morphism.data.sources.voc import CLASSES as VOC_CLASSES
from morphism.errors import UserError
from morphism.labels import IGNORE

CLASSES = ("background", *VOC_CLASSES)
COCO_NAMES = {  # COCO's names of VOC's classes where they differ
    "airplane": "aeroplane",
    "couch": "sofa",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "tv": "tvmonitor",
}
LEAST_AREA = 1000
NO_OUTLINE = "objects without an outline (their boxes are ignored)"


@dataclass(frozen=True)
class CocoVoc(FileSource):
    """The objects of image i are rows offsets[i] to offsets[i + 1] of `kinds` and `outlines`."""

    target = "segmentation"

    image_ids: np.ndarray
    sizes: Int[np.ndarray, "images 2"]
    offsets: Int[np.ndarray, "offsets"]
    kinds: UInt8[np.ndarray, "objects"]
    outlines: Outlines
    oddities: str

    @property
    def mask_stamps(self) -> Int[np.ndarray, "records"]:
        """A checksum of each image's classes and outlines."""
        spans = itertools.pairwise(self.offsets.tolist())
        parts = ((self.kinds[a:b].tobytes(), self.outlines.part(a, b).counts) for a, b in spans)
        return np.array([zlib.crc32(outlines, zlib.crc32(kinds)) for kinds, outlines in parts], np.int64)

    def truth(self, index: int) -> dict[str, Any]:
        size = self.sizes[index].tolist()
        classes, covered = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        for row in range(*self.offsets[index : index + 2]):
            shape = outlines.mask(self.outlines[row], size)
            classes = np.maximum(classes, shape * self.kinds[row])
            covered = np.minimum(covered + shape, 2)
        return {"segmentation": np.where(covered > 1, IGNORE, classes).astype(np.uint8)}


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return CLASSES


def load(argument: str, split: str, data_dir: str) -> CocoVoc:
    content = coco_json.read(root_folder(argument, "coco_voc", ".json"), split)
    path = content.path
    kinds = [_class(name) for name in content.names]
    if not any(kinds):
        raise UserError(
            f"{path}: none of its categories is one of {', '.join((*VOC_CLASSES, *COCO_NAMES))}; "
            "rename them, or read it as coco:"
        )

    found, area, odd = _drawn(content, kinds)
    kept = [row for row in range(len(found)) if split != "train" or area[row] > LEAST_AREA]
    flat = [each for row in kept for each in found[row]]
    if all(kind == IGNORE for kind, _ in flat):
        raise UserError(
            f"{path}: no outline of an object of VOC's classes"
            + (f" in an image where they cover more than {LEAST_AREA:,} pixels" if split == "train" else "")
            + "; look at its segmentation fields, or read it as coco:"
        )
    lines = [f"{len(ids):,} {rule}, first annotation {ids[0]}" for rule, ids in odd.items() if ids]
    return CocoVoc(
        root=content.folder,
        files=packed_names([content.file_names[row] for row in kept]),
        classes=CLASSES,
        image_ids=packed_ids([content.image_ids[row] for row in kept]),
        sizes=content.sizes[kept],
        offsets=np.cumsum([0, *(len(found[row]) for row in kept)]),
        kinds=np.array([kind for kind, _ in flat], np.uint8),
        outlines=Outlines.of(counts for _, counts in flat),
        oddities="; ".join(
            filter(None, (content.oddities, f"odd outlines in {path}: {'; '.join(lines)}" if lines else ""))
        ),
    )


def _drawn(
    content: coco_json.Content, kinds: Sequence[int]
) -> tuple[list[list[tuple[int, bytes]]], Float[np.ndarray, "images"], dict[str, list[Any]]]:
    """For each image the class and outline of its objects, and their total area; for each rule the ids of odd ones."""
    found: list[list[tuple[int, bytes]]] = [[] for _ in content.file_names]
    area = np.zeros(len(found))
    odd: dict[str, list[Any]] = {rule: [] for rule in (FEW_POINTS, NO_OUTLINE, ODD_AREA)}  # ids of annotations
    for annotation, owner, row in zip(content.objects, content.owner.tolist(), content.classes.tolist(), strict=True):
        if not kinds[row]:
            continue
        size = content.sizes[owner].tolist()
        outline = coco.outline(annotation, size, content.path)
        odd[FEW_POINTS] += [annotation["id"]] * (outline.dropped > 0)
        kind, counts = kinds[row], outline.counts
        if counts is None:
            odd[NO_OUTLINE].append(annotation["id"])
            kind, counts = IGNORE, _box(annotation, size)
        found[owner] += [(kind, counts)] if counts else []
        stated = coco_json.area(annotation)
        if not usable_area(stated):
            odd[ODD_AREA].append(annotation["id"])
            stated = outlines.area(counts, size) if counts else 0
        area[owner] += stated
    return found, area, odd


def _box(annotation: dict[str, Any], size: Sequence[int]) -> bytes | None:
    """The outline of an object's box, if it has one."""
    box = coco_json.numbers(annotation.get("bbox"))
    if box is None or box.shape != (4,) or not np.isfinite(box).all():
        return None
    x0, y0, x1, y1 = (*box[:2], *(box[:2] + box[2:]))
    return outlines.read([[x0, y0, x1, y0, x1, y1, x0, y1]], size).counts


def _class(name: str) -> int:
    """The class of a category by its name, COCO's or VOC's; 0 if it is not one of VOC's."""
    name = name.strip().lower()
    name = COCO_NAMES.get(name, name)
    return CLASSES.index(name) if name in VOC_CLASSES else 0
