"""`coco:<path>`: boxes and masks in COCO's JSON format (Lin et al. 2014).

    <path>/annotations/instances_<split>2017.json    or ...2014.json, instances_<split>.json, <split>.json,
                                                     or <path>/<split>.json, <split>/_annotations.coco.json
    <path>/<split>2017/<file_name>                   or <split>2014/, <split>/, images/<split>2017/, images/<split>/,
                                                     images/, or <path> itself

`<split>` is train, val (or valid, ...) or test. Without such names, the file of a split is the only JSON in its folder,
or the only one with the split as a word of its name; the only JSON of all is "train", and so is a JSON that is <path>.
The images may then be in any folder of <path>. Classes are the file's categories in the order of their ids, which have
gaps in COCO. The format's boxes are x, y, width, height, continuous. Crowds are kept and marked; images without boxes
are kept, also in training, where torchvision's references drop them. An area that is missing or impossible is computed
from the outline, or without one from the box.

Outlines are polygons or run lengths, compressed or not. An outline that cannot be read is an error. Polygons with fewer
than three points are left out. The mask of an object without an outline, or with one that covers no pixel, is unknown.
A file without any outline has no masks.

What pycocotools accepts is not refused, but counted and reported. An annotation of an image that is not listed, and an
image or annotation that is listed twice in the same words, are dropped. Annotations that share an id are kept, and so
are images that share a file. Categories that share a name are separate classes, named "<name> (id <id>)".
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from morphism.data import coco_files, coco_json, outlines
from morphism.data.annotations import pack, packed_ids, packed_names
from morphism.data.file_source import BoxedFiles
from morphism.data.layouts import Layout, Look, Seen
from morphism.data.outlines import Outline, Outlines
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError, skippable

MASKS = True
LAYOUT = Layout("COCO", "a .json with images, annotations and categories, and the images")
FEW_POINTS = "objects with polygons of fewer than 3 points or an odd number of coordinates (these are left out)"
NO_OUTLINE = "objects without an outline (their masks are unknown)"
NO_PIXEL = "outlines without a pixel (their masks are unknown)"
BEYOND = 2  # pixels
FAR_OUT = f"outlines more than {BEYOND} pixels out of their boxes (kept)"
# Those of COCO 2017: 80 of 1..90.
CATEGORY_IDS = tuple(k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))


def describes(path: Path) -> bool:
    """Whether a file is COCO's JSON."""
    return coco_files.is_coco(path)


def seen(look: Look) -> Seen:
    held = coco_files.annotation_files(look.path)
    if held:
        return Seen(tuple(str(path.relative_to(look.path)) for path in held.values()), ())
    if several := coco_files.any_files(look)[:3]:
        return Seen(tuple(several), ("names with train or val for these files",))
    return Seen((), (LAYOUT.needs,))


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "coco", ".json")
    held = tuple(coco_files.annotation_files(root))
    if not held:
        raise UserError(f"{root}: no annotations; expected {root}/annotations/instances_train2017.json, for example")
    return held


def load(argument: str, split: str, data_dir: str, masks: bool = False) -> BoxedFiles:
    content = coco_json.with_boxes(coco_json.read(root_folder(argument, "coco", ".json"), split))
    path, objects = content.path, content.objects
    boxes = coco_json.stated_boxes(objects, path).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    known, odd_outlines = _outlines(content, boxes) if masks else (None, "")

    def outline_area(row: int) -> float:
        size = content.sizes[content.owner[row]].tolist()
        try:
            counts = outlines.read(objects[row].get("segmentation"), size).counts
        except ValueError:  # an outline is optional here
            return np.nan
        return outlines.area(counts, size) or np.nan if counts else np.nan

    store = pack(
        owner=content.owner,
        boxes=boxes,
        classes=content.classes,
        crowd=np.array([coco_json.is_crowd(each, path) for each in objects], bool),
        area=np.array([coco_json.area(each) for each in objects], np.float64),
        outline_area=outline_area,
        outlines=known,
        sizes=content.sizes,
        name=lambda index: f"{path}: {content.file_names[index]}",
        where=str(path),
    )
    classes, shared = coco_json.distinct(content.names, content.category_ids)
    lines = (shared, content.oddities, store.oddities, odd_outlines)
    return BoxedFiles(
        root=content.folder,
        files=packed_names(content.file_names),
        classes=classes,
        category_ids=content.category_ids,
        image_ids=packed_ids(content.image_ids),
        sizes=content.sizes,
        store=replace(store, oddities="; ".join(filter(None, lines))),
    )


def outline(annotation: dict[str, Any], size: Sequence[int], path: Path) -> Outline:
    """The object's `segmentation` in an image of `size`. Raises UserError where it cannot be read."""
    try:
        return outlines.read(annotation.get("segmentation"), size)
    except ValueError as error:
        raise UserError(
            f"{path}: annotation {annotation['id']} has a segmentation that cannot be read: {error}; mend or remove it"
        ) from error


def _outlines(content: coco_json.Content, boxes: Float[np.ndarray, "objects 4"]) -> tuple[Outlines | None, str]:
    """The outlines of all objects, None if none has one, and a line on what was odd; `boxes` are x0, y0, x1, y1."""
    known: list[bytes | None] = []
    odd: dict[str, list[Any]] = {rule: [] for rule in (FEW_POINTS, NO_OUTLINE, NO_PIXEL, FAR_OUT)}  # annotations' ids
    for annotation, owner, (x0, y0, x1, y1) in zip(
        content.objects, content.owner.tolist(), boxes.tolist(), strict=True
    ):
        size, found = content.sizes[owner].tolist(), Outline(None)
        with skippable():
            found = outline(annotation, size, content.path)
        odd[FEW_POINTS] += [annotation["id"]] * (found.dropped > 0)
        odd[NO_OUTLINE] += [annotation["id"]] * (found.counts is None)
        left, top, right, bottom = outlines.box(found.counts or b"", size)
        has_pixels = right > 0
        if found.counts and not has_pixels:
            odd[NO_PIXEL].append(annotation["id"])
        if has_pixels and max(x0 - left, y0 - top, right - x1, bottom - y1) > BEYOND:
            odd[FAR_OUT].append(annotation["id"])
        known.append(found.counts if has_pixels else None)
    if not any(known):
        return None, ""
    lines = [line for rule, ids in odd.items() for line in coco_json.counted(rule, ids)]
    return Outlines.of(known), f"odd outlines in {content.path}: {'; '.join(lines)}" if lines else ""
