"""`coco:<path>`: boxes in COCO's JSON format (Lin et al. 2014).

    <path>/annotations/instances_<split>2017.json    or ...2014.json, instances_<split>.json, <split>.json,
                                                     or <path>/<split>.json
    <path>/<split>2017/<file_name>                   or <split>2014/, <split>/, images/<split>2017/, images/<split>/,
                                                     images/, or beside <path>'s folders

`<split>` is train, val or test. Classes are the file's categories in the order of their ids, which have holes in COCO.
Boxes are x, y, width, height there, continuous. Crowds are kept and marked; pictures without boxes are kept, also in
training, where torchvision's references drop them.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.annotations import Detection, pack, packed_names, picture_size
from data.sources.folder import root_folder
from errors import UserError

SPLITS = ("train", "val", "test")
# COCO 2017's own: 80 of 1..90.
CATEGORY_IDS = tuple(k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "coco")
    held = tuple(split for split in SPLITS if annotation_file(root, split))
    if not held:
        raise UserError(f"{root}: no annotations; expected {root}/annotations/instances_train2017.json, for example")
    return held


def load(argument: str, split: str, data_dir: str) -> Detection:
    root = root_folder(argument, "coco")
    path = annotation_file(root, split)
    content = read_json(path)
    images, objects, categories = (content[key] for key in ("images", "annotations", "categories"))

    category_ids = _unique(categories, "id", (int,), path, "category")
    names = _unique(categories, "name", (str,), path, "category")
    category_ids, names = zip(*sorted(zip(category_ids, names, strict=True)), strict=True)
    image_ids = _unique(images, "id", (int, str), path, "image")
    file_names = _unique(images, "file_name", (str,), path, "image")
    _unique(objects, "id", (int, str), path, "annotation")

    folder = _picture_folder(root, split, file_names, path)
    sizes = np.array([_size(each, folder) for each in images], np.int32).reshape(-1, 2)
    boxes = _boxes(objects, path)
    store = pack(
        owner=_indices(objects, "image_id", image_ids, "images", path),
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        classes=_indices(objects, "category_id", category_ids, "categories", path),
        crowd=np.array([bool(each.get("iscrowd", 0)) for each in objects], bool),
        area=np.array([_area(each) for each in objects], np.float64),
        sizes=sizes,
        name=lambda index: f"{path}: {file_names[index]}",
        where=str(path),
    )
    return Detection(
        root=folder,
        files=packed_names(file_names),
        classes=names,
        category_ids=category_ids,
        image_ids=np.array(image_ids),
        sizes=sizes,
        store=store,
    )


def annotation_file(root: Path, split: str) -> Path | None:
    names = (f"instances_{split}2017", f"instances_{split}2014", f"instances_{split}", split)
    candidates = [root / "annotations" / f"{name}.json" for name in names] + [root / f"{split}.json"]
    return next((path for path in candidates if path.is_file()), None)


def _picture_folder(root: Path, split: str, file_names: Sequence[str], path: Path) -> Path:
    """The first of the folders that holds the first picture; then it must hold all."""
    below = (f"{split}2017", f"{split}2014", split, f"images/{split}2017", f"images/{split}", "images", ".")
    folders = [root / name for name in below if (root / name).is_dir()]
    folder = next((each for each in folders if (each / file_names[0]).is_file()), None)
    if folder is None:
        raise UserError(f"{path}: no picture {file_names[0]} in {root}'s {', '.join(below)}; put the pictures into one")
    with os.scandir(folder) as entries:
        listed = {entry.name for entry in entries}
    for name in file_names:
        if name not in listed and not (folder / name).is_file():
            raise UserError(f"{path}: no picture {folder / name}; add it, or remove its entry")
    return folder


def read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend it") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); fetch or export it again") from error
    for key in ("images", "annotations", "categories"):
        held = content.get(key) if isinstance(content, dict) else None
        if not isinstance(held, list):
            raise UserError(f"{path}: not in COCO's format, it has no list of {key}; export it as COCO JSON")
        if not held:
            raise UserError(f"{path}: its list of {key} is empty; is it the file of another split?")
    return content


def _column(records: Sequence[Any], field: str, path: Path, what: str) -> list[Any]:
    try:
        return [record[field] for record in records]
    except (KeyError, TypeError) as error:
        index = next(i for i, record in enumerate(records) if not isinstance(record, dict) or field not in record)
        known = records[index].get("id", "?") if isinstance(records[index], dict) else "?"
        raise UserError(f"{path}: {what} {index} (id {known}) lacks {field!r}; add it, or remove the {what}") from error


def _unique(records: Sequence[Any], field: str, kinds: tuple[type, ...], path: Path, what: str) -> list[Any]:
    """The column, which must hold each value once."""
    values, seen = _column(records, field, path, what), set()
    for value in values:
        if not isinstance(value, kinds):
            wanted = " or ".join({int: "a whole number", str: "a text"}[kind] for kind in kinds)
            raise UserError(f"{path}: {what} {field} {value!r} is not {wanted}; mend it")
        if value in seen:
            raise UserError(f"{path}: {what} {field} {value!r} occurs twice; remove one, or give it its own")
        seen.add(value)
    return values


def _indices(objects: Sequence[dict], field: str, ids: Sequence[Any], listed: str, path: Path) -> np.ndarray:
    """Where in `ids` each object's `field` stands."""
    position = {value: index for index, value in enumerate(ids)}
    found = _column(objects, field, path, "annotation")
    for index, value in enumerate(found):
        if not isinstance(value, (int, str)) or value not in position:
            known = objects[index]["id"]
            raise UserError(f"{path}: annotation {known} has {field} {value!r}, which is none of its {listed}; mend it")
    return np.array([position[value] for value in found], np.int64)


def _boxes(objects: Sequence[dict], path: Path) -> np.ndarray:
    boxes = _column(objects, "bbox", path, "annotation")
    try:
        found = np.array(boxes, np.float64)
        if found.shape == (len(boxes), 4):
            return found
    except (ValueError, TypeError):
        pass
    known, box = next((record["id"], box) for record, box in zip(objects, boxes, strict=True) if not _is_box(box))
    raise UserError(f"{path}: annotation {known} has bbox {box!r}; it must be [x, y, width, height] in pixels")


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(value, (int, float)) for value in box)


def _area(annotation: dict) -> float:
    area = annotation.get("area")
    return float(area) if isinstance(area, (int, float)) else np.nan


def _size(record: dict, folder: Path) -> tuple[int, int]:
    height, width = record.get("height"), record.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return picture_size(folder / record["file_name"])
