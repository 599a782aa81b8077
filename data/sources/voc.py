"""`voc:<path>`: boxes in the format of Pascal VOC (Everingham et al. 2010); <path> is a VOCdevkit/VOC2007, for example.

    <path>/ImageSets/Main/{train,val,trainval,test}.txt     one name per line
    <path>/Annotations/<name>.xml
    <path>/JPEGImages/<name>.jpg                            or another image format

Without lists each .xml is a record, and its image has the same name: next to it, or in images/ (or JPEGImages/, ...)
next to the folder of the .xml files, annotations/ (or annots/, ...). Folders train/, valid/, ... around these or within
them are splits; without them all is "train". Images without an .xml are skipped, counted and reported.

The format's coordinates are pixel indices that count from 1 and include the last pixel. They become continuous by
detectron2's rule: xmin - 1, ymin - 1, xmax, ymax. Data that counts from 0 is read by the same rule, and clipped.
The classes are VOC's twenty, in its order, if no other names occur; else the sorted names of all splits. Splits that
are not opened may lack annotations, as VOC's test set does. The size of an image is the one that its annotation states,
or without one that of its header. Parts of objects are left out. <difficult> is 0 where it is missing or empty; any
whole number above 0 means 1. Each <bndbox> of an <object> is an object.

Masks of objects, if they are wanted and the folder is there, are in

    <path>/SegmentationObject/<name>.png                    palette indices: 0 background, 1, 2, ... objects, 255 void

Object k of the file is the k-th of the annotation if their boxes fit, for all objects of the file; else objects are
matched by their boxes. Two boxes fit if their IoU is LEAST_IOU or more: void along the edge of a small object makes its
mask smaller. What finds no match is counted, and so are images without a file: their masks are unknown.
"""

import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy
from jaxtyping import Float, Int

from morphism.data import voc_files
from morphism.data.annotations import check_size, image_size, named_images, pack, packed_names
from morphism.data.file_source import BoxedFiles
from morphism.data.files import read_bytes, read_text
from morphism.data.id_maps import IdMap, read_ids
from morphism.data.layouts import Layout, Look, Seen
from morphism.data.outlines import Outlines
from morphism.data.sources.folder import root_folder
from morphism.data.voc_files import Place
from morphism.data.voc_xml import Parsed, parse
from morphism.errors import UserError, skippable

MASKS = True
LEAST_IOU = 0.25  # of the box of an object's mask and its annotated box
NOT_OBJECTS = (0, 255)  # in SegmentationObject
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
LAYOUT = Layout("Pascal VOC", "an .xml per image, next to it or in Annotations/ next to JPEGImages/ or images/")


def seen(look: Look) -> Seen:
    held = voc_files.places(look.path)
    if held:
        first = next(iter(held.values()))
        place = "images and .xml files" if first.images == first.xmls else f"{first.images} and {first.xmls}"
        return Seen((f"{place} by {voc_files.LISTS}" if first.listed else place,), ())
    if found := next(filter(voc_files.is_voc, look.with_suffix(".xml")), None):
        return Seen((str(found.relative_to(look.path)),), ("images next to it, or in images/ next to its folder",))
    return Seen((), (LAYOUT.needs,))


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "voc")
    held = tuple(voc_files.places(root))
    if not held:
        lists = root / voc_files.LISTS
        raise UserError(
            f"{lists}: no list of images; expected one of {', '.join(f'{s}.txt' for s in voc_files.LISTED)}; or .xml "
            "files next to their images, or in Annotations/ next to images/"
        )
    return held


def load(argument: str, split: str, data_dir: str, masks: bool = False) -> BoxedFiles:
    root = root_folder(argument, "voc")
    places = voc_files.places(root)
    place = places[split]
    images = named_images(root / place.images)
    own = voc_files.xml_files(root, place, images)
    parsed = {}
    for path in dict.fromkeys([*own.values(), *_of_others(root, places, split)]):
        with skippable():
            parsed[path] = parse(path)
    classes, names = _classes(parsed), _with_images(root, place, own, parsed, images)
    files = [os.path.normpath(f"{place.images}/{images[name]}") for name in names]
    xmls = [own[name] for name in names]
    found = [parsed[path] for path in xmls]
    sizes = [each.size or image_size(root / file) for each, file in zip(found, files, strict=True)]
    boxes = [np.array(each.boxes, np.float64).reshape(-1, 4) - (1, 1, 0, 0) for each in found]
    folder = root / "SegmentationObject"
    outlines, odd_masks = _outlines(folder, names, boxes, sizes) if masks and folder.is_dir() else (None, [])
    store = pack(
        owner=np.repeat(np.arange(len(names)), [len(each.names) for each in found]),
        boxes=np.concatenate([*boxes, np.zeros((0, 4))]),
        classes=np.array([classes.index(name) for each in found for name in each.names], np.int32),
        difficult=np.array([value for each in found for value in each.difficult], bool),
        sizes=np.array(sizes, np.int32),
        name=lambda index: str(xmls[index]),
        where=str(root / (place.listed or place.xmls)),
        outlines=outlines,
        notes=_second_boxes({path: parsed[path].second for path in xmls}) + odd_masks,
    )
    lines = ("" if place.listed else _without_xml(root / place.images, images, own), store.oddities)
    return BoxedFiles(
        root=root,
        files=packed_names(files),
        classes=classes,
        category_ids=range(1, len(classes) + 1),
        image_ids=np.array(names),
        sizes=np.array(sizes, np.int32),
        store=replace(store, oddities="; ".join(filter(None, lines))),
    )


def _of_others(root: Path, places: Mapping[str, Place], split: str) -> list[Path]:
    """The XML files of the other splits that are there: they too say which classes there are."""
    found = []
    for each, place in places.items():
        if each != split and not (place.listed and not read_text(root / place.listed).strip()):
            images = named_images(root / place.images) if place.listed else {}
            found += [path for path in voc_files.xml_files(root, place, images).values() if path.exists()]
    return found


def _without_xml(folder: Path, images: Mapping[str, str], own: Container[str]) -> str:
    """A line on images that have no XML, "" if there are none."""
    without = [file for name, file in images.items() if name not in own]
    return (
        f"odd files: {len(without):,} images without an .xml (passed over), first {folder / without[0]}"
        if without
        else ""
    )


def _outlines(
    folder: Path, names: Sequence[str], boxes: Sequence[Float[np.ndarray, "_ 4"]], sizes: Sequence[tuple[int, int]]
) -> tuple[Outlines, list[str]]:
    """The outlines of all objects, image by image, and what was odd about the files of masks."""
    outlines: list[bytes | None] = []
    without: list[Path] = []  # images that have no file
    objects: list[Path] = []  # the file of each object that has no match, and of each mask
    masks: list[Path] = []
    for name, each, size in zip(names, boxes, sizes, strict=True):
        path = folder / f"{name}.png"
        rows = np.full(len(each), -1)
        if path.is_file():
            with skippable():
                ids = read_ids(read_bytes(path), str(path))
                check_size(str(path), ids.shape, size)
                found = IdMap.of(ids)
                rows, left = _matched(found, each)
                objects += [path] * int((rows < 0).sum())
                masks += [path] * left
                outlines += found.outlines(rows)
                continue
        without += [path]
        outlines += [None] * len(each)
    rules = {
        "images have no file of masks (these are unknown), first": without,
        "objects have no mask (it is unknown), first in": objects,
        "masks have no object (dropped), first in": masks,
    }
    return Outlines.of(outlines), [f"{len(paths):,} {rule} {paths[0]}" for rule, paths in rules.items() if paths]


def _matched(found: IdMap, boxes: Float[np.ndarray, "n 4"]) -> tuple[Int[np.ndarray, "n"], int]:
    """For each box the row of its mask in `found`, -1 without one; and the number of masks that have no box."""
    masks = np.flatnonzero(~np.isin(found.ids, NOT_OBJECTS))
    around = found.boxes[masks]
    low = np.maximum(boxes[:, None, :2], around[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], around[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    iou = shared / (_areas(boxes)[:, None] + _areas(around)[None] - shared)
    fits = iou >= LEAST_IOU
    own = np.arange(1, len(boxes) + 1)[:, None] == found.ids[masks][None]
    numbered = (fits & own).any(axis=0).all()  # every mask fits the object that has its number
    score = np.where(fits, own if numbered else iou, 0)
    objects, chosen = scipy.optimize.linear_sum_assignment(score, maximize=True)
    rows = np.full(len(boxes), -1)
    kept = score[objects, chosen] > 0
    rows[objects[kept]] = masks[chosen[kept]]
    return rows, len(masks) - int(kept.sum())


def _areas(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _with_images(
    root: Path, place: Place, own: Mapping[str, Path], parsed: Container[Path], images: Container[str]
) -> list[str]:
    """The names of the records whose XML was read. Raises UserError for one without an image."""
    found = []
    for name, path in own.items():
        with skippable():
            if path in parsed and name not in images:
                remedy = "mend the list" if place.listed else "remove the file"
                raise UserError(f"{path}: no image {root / place.images / name}.jpg; add it, or {remedy}")
            if path in parsed:
                found.append(name)
    return found


def _classes(parsed: Mapping[Path, Parsed]) -> tuple[str, ...]:
    found = {name for each in parsed.values() for name in each.names}
    return CLASSES if found <= set(CLASSES) else tuple(sorted(found))


def _second_boxes(counts: dict[Path, int]) -> list[str]:
    odd = [path for path, count in counts.items() if count]
    total = sum(counts.values())
    return [f"{total:,} beyond the first of their <object> (taken as objects), first in {odd[0]}"] if odd else []
