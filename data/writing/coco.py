"""COCO's JSON: <split>/<image>, annotations/instances_<split>.json. Masks of objects are written as run lengths."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphism.data.annotations import Annotations
from morphism.data.outlines import Outlines
from morphism.data.records import Boxed
from morphism.data.writing.images import Images, counted, written

NEEDS, HOLDS = "boxes", ("boxes", "masks")


def image_folder(split: str) -> str:
    return split


def write(split: str, images: Images, source: Boxed, folder: Path) -> list[str]:
    category_ids, image_ids = _category_ids(source), _image_ids(images, source)
    listed, objects = [], []
    difficult = unknown = 0
    for row, name, image_id in zip(images.rows, images.names, image_ids, strict=True):
        height, width = (int(side) for side in source.sizes[row])
        listed.append({"id": image_id, "file_name": name, "width": width, "height": height})
        record = source[row]
        known = record.get("masks")
        found = _objects(record["annotations"], known, image_id, category_ids, (height, width))
        difficult += int(record["annotations"].difficult.sum())
        unknown += int((~known.known).sum()) if known is not None else 0
        objects += [{"id": len(objects) + number, **each} for number, each in enumerate(found, start=1)]
    content = {
        "images": listed,
        "annotations": objects,
        "categories": [
            {"id": number, "name": name} for number, name in zip(category_ids, source.targets["boxes"], strict=True)
        ],
    }
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    written(folder / "annotations" / f"instances_{split}.json", text.encode(errors="surrogateescape"))
    return counted(
        (
            (difficult, 'difficult objects (ordinary ones, with "difficult": 1, which readers of COCO ignore)'),
            (unknown, "unknown masks (their objects have no segmentation)"),
        )
    )


def finish(folder: Path, splits: list[str], classes: Sequence[str]) -> list[str]:
    return []


def _objects(
    objects: Annotations, known: Outlines | None, image_id: int, category_ids: list[int], size: tuple[int, int]
) -> list[dict[str, Any]]:
    found = []
    for row, (x0, y0, x1, y1) in enumerate(objects.boxes.tolist()):
        each = {
            "image_id": image_id,
            "category_id": category_ids[objects.classes[row]],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": float(objects.area[row]),
            "iscrowd": int(objects.crowd[row]),
        }
        if objects.difficult[row]:
            each["difficult"] = 1
        if known is not None and known.known[row]:
            each["segmentation"] = {"size": list(size), "counts": known[row].decode()}
        found.append(each)
    return found


def _category_ids(source: Boxed) -> list[int]:
    """The dataset's own ids where their order is that of the classes, as it is read; else 1, 2, ..."""
    own = list(source.category_ids)
    whole = all(isinstance(each, (int, np.integer)) for each in own)
    return [int(each) for each in own] if whole and own == sorted(set(own)) else list(range(1, len(own) + 1))


def _image_ids(images: Images, source: Boxed) -> list[int]:
    """The dataset's own ids where they are distinct whole numbers; else 1, 2, ..."""
    own = [source.image_ids[row] for row in images.rows]
    whole = all(isinstance(each, (int, np.integer)) for each in own)
    return [int(each) for each in own] if whole and len(set(own)) == len(own) else list(range(1, len(own) + 1))
