"""COCO's JSON: its images, categories and annotations, checked, for every kind of source that reads it."""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from morphism.data import coco_files
from morphism.data.annotations import image_size, stated_size
from morphism.data.files import listed_path, read_bytes
from morphism.errors import UserError, skippable


@dataclass(frozen=True)
class Content:
    """The checked content of a split's JSON.

    folder: of the images. owner: the image of each object. classes: the position of its category in category_ids.
    """

    path: Path
    folder: Path
    file_names: list[str]
    image_ids: list[int | str]
    sizes: Int[np.ndarray, "images 2"]  # height, width
    category_ids: tuple[int | str, ...]
    names: tuple[str, ...]  # of the categories, some of which may share one
    objects: list[dict[str, Any]]
    owner: Int[np.ndarray, "objects"]
    classes: Int[np.ndarray, "objects"]
    oddities: str


def read(root: Path, split: str) -> Content:
    """Reads the JSON of a split. Raises UserError if it is not in COCO's format or refers to missing entries."""
    path = coco_files.annotation_files(root)[split]
    return content_of(read_json(path), path, root, split)


def content_of(content: dict[str, Any], path: Path, root: Path, split: str) -> Content:
    """Checks the lists that were read from `path`. Raises UserError as `read` does."""
    images, objects, categories = (content[key] for key in ("images", "annotations", "categories"))
    categories, odd_categories = _without_project(categories, objects)

    category_ids = _converted(categories, "id", _id, path, "category")
    names = _converted(categories, "name", _text, path, "category")
    _refuse_repeated(category_ids, path, "category id")
    in_order = sorted(range(len(names)), key=lambda row: (isinstance(category_ids[row], str), category_ids[row]))
    category_ids, names = (tuple(column[row] for row in in_order) for column in (category_ids, names))

    images = [images[row] for row in sound(images, lambda some, first: _check_images(some, path, first))]
    if not images:
        raise UserError(f"{path}: none of its images can be used; mend their entries")
    images, odd_images = _distinct_images(images, path)
    image_ids = [_id(each["id"]) for each in images]
    file_names = [_file_name(each["file_name"]) for each in images]
    check = partial(_check_objects, category_ids=category_ids, image_ids=image_ids, path=path)
    objects, odd_objects = _listed_objects([objects[row] for row in sound(objects, check)], image_ids, path)

    folder, file_names, odd_names = coco_files.image_folder(root, split, file_names, path)
    sizes = [_size(each, folder / name) for each, name in zip(images, file_names, strict=True)]
    odd = [*odd_categories, *odd_images, *odd_names, *odd_objects]
    return Content(
        path=path,
        folder=folder,
        file_names=file_names,
        image_ids=image_ids,
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        category_ids=category_ids,
        names=names,
        objects=objects,
        owner=_indices(objects, "image_id", image_ids, "images", path),
        classes=_indices(objects, "category_id", category_ids, "categories", path),
        oddities=f"odd records in {path}: {'; '.join(odd)}" if odd else "",
    )


def _without_project(categories: list[Any], objects: list[Any]) -> tuple[list[Any], list[str]]:
    """The categories but the one that Roboflow adds for the whole project: without objects, and above all others."""
    above = {each.get("supercategory") for each in categories if isinstance(each, dict)}
    for each in categories if len(categories) > 1 and len(above) == 2 else ():
        if isinstance(each, dict) and each.get("supercategory") == "none" and each.get("name") in above:
            used = any(isinstance(found, dict) and found.get("category_id") == each.get("id") for found in objects)
            if not used:
                return [other for other in categories if other is not each], [
                    f"a category {each['name']!r:.60} that is only above all others (left out)"
                ]
    return categories, []


def sound(records: Sequence[Any], check: Callable[[Sequence[Any], int], object]) -> list[int]:
    """The rows of the records that `check`, given some records and the row of the first of them, does not refuse.

    Those are all, or it raises UserError; inside errors.noting each refused record is noted, and left out.
    """
    try:
        check(records, 0)
        return list(range(len(records)))
    except UserError:
        kept = []
        for row, record in enumerate(records):
            with skippable():
                check([record], row)
                kept.append(row)
        return kept


def _check_images(records: Sequence[Any], path: Path, first: int) -> None:
    _converted(records, "id", _id, path, "image", first)
    _converted(records, "file_name", _file_name, path, "image", first)


def _check_objects(
    records: Sequence[Any], first: int, category_ids: Sequence[int | str], image_ids: Sequence[int | str], path: Path
) -> None:
    _converted(records, "id", _id, path, "annotation", first)
    of_images = _column(records, "image_id", path, "annotation", first)
    _column(records, "category_id", path, "annotation", first)
    # Annotations of images that are not listed are dropped, and reported as odd.
    broken = [record for record, image in zip(records, of_images, strict=True) if _id(image) is None]
    _indices(broken, "image_id", image_ids, "images", path)
    _indices(records, "category_id", category_ids, "categories", path)


def _distinct_images(records: list[Any], path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The images, each once, and what was odd."""
    ids = _converted(records, "id", _id, path, "image")
    files = _converted(records, "file_name", _file_name, path, "image")
    rows, again = _first_and_others(zip(ids, files, strict=True))
    distinct, repeated = _first_and_others(ids[row] for row in rows)
    for row in repeated:
        with skippable():
            raise UserError(_repeated(ids[rows[row]], path, "image id"))
    rows = [rows[row] for row in distinct]
    kept = [ids[row] for row in rows]
    _, shared = _first_and_others(files[row] for row in rows)
    odd = [
        *counted("images listed again (dropped)", [ids[row] for row in again], "image"),
        *counted("images of a file that another one has (kept)", [kept[row] for row in shared], "image"),
    ]
    return [records[row] for row in rows], odd


def _listed_objects(
    records: list[Any], image_ids: Sequence[int | str], path: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """The annotations of listed images, each once, and what was odd."""
    ids, images = _converted(records, "id", _id, path, "annotation"), set(image_ids)
    of_images = [_id(value) for value in _column(records, "image_id", path, "annotation")]
    first = {value: row for row, value in reversed(list(enumerate(ids)))}
    repeated = [row for row, value in enumerate(ids) if first[value] != row]
    again = {row for row in repeated if records[row] == records[first[ids[row]]]}
    # `_indices` refuses an image_id that is not an id, and if no annotation has an image, the first of them.
    unlisted = {row for row, value in enumerate(of_images) if value is not None and value not in images}
    left_out = again | unlisted if len(unlisted) < len(records) else again
    odd = [
        *counted("annotations of images that are not listed (dropped)", [ids[row] for row in sorted(unlisted)]),
        *counted("annotations listed again (dropped)", [ids[row] for row in sorted(again - unlisted)]),
        *counted("annotations with the id of another one (kept)", [ids[r] for r in repeated if r not in left_out]),
    ]
    return [record for row, record in enumerate(records) if row not in left_out], odd


def _first_and_others(keys: Iterable[Hashable]) -> tuple[list[int], list[int]]:
    """The rows in which a key occurs for the first time, and the other rows."""
    rows: tuple[list[int], list[int]] = [], []
    seen: set[Hashable] = set()
    for row, key in enumerate(keys):
        rows[key in seen].append(row)
        seen.add(key)
    return rows


def counted(rule: str, ids: Sequence[int | str], what: str = "annotation") -> list[str]:
    return [f"{len(ids):,} {rule}, first {what} {ids[0]!r:.60}"] if ids else []


def distinct(names: Sequence[str], ids: Sequence[int | str]) -> tuple[tuple[str, ...], str]:
    """A distinct name for each category, and a line on those that share one, "" if none do."""
    counts = Counter(names)
    shared = [name for name, count in counts.items() if count > 1]
    classes = tuple(
        f"{name} (id {number})" if counts[name] > 1 else name for name, number in zip(names, ids, strict=True)
    )
    if not shared:
        return classes, ""
    rule = "names of several categories (told apart by their ids)"
    return classes, f"odd categories: {len(shared):,} {rule}, first {shared[0]!r:.60}"


def area(annotation: dict[str, Any]) -> float:
    """The area that the file states, NaN if it states none."""
    stated = annotation.get("area")
    try:
        return float(stated) if isinstance(stated, (int, float)) and not isinstance(stated, bool) else np.nan
    except OverflowError:
        return np.nan


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file. Raises UserError if COCO's lists are missing or empty."""
    try:
        content = json.loads(read_bytes(path, "mend it"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); fetch or export it again") from error
    for key in ("images", "annotations", "categories"):
        held = content.get(key) if isinstance(content, dict) else None
        if not isinstance(held, list):
            raise UserError(f"{path}: not in COCO's format, it has no list of {key}; export it as COCO JSON")
        if not held:
            raise UserError(f"{path}: its list of {key} is empty; is it the file of another split?")
    return content


def with_boxes(content: Content) -> Content:
    """`content` with the objects whose bbox and iscrowd can be read: all, or `sound` raises or notes the others."""

    def check(records: Sequence[Any], first: int) -> None:
        stated_boxes(records, content.path, first)
        for each in records:
            is_crowd(each, content.path)

    rows = sound(content.objects, check)
    objects = [content.objects[row] for row in rows]
    return replace(content, objects=objects, owner=content.owner[rows], classes=content.classes[rows])


def _column(records: Sequence[Any], field: str, path: Path, what: str, first: int = 0) -> list[Any]:
    """`field` of each record; `first` is the row of the first of them."""
    try:
        return [record[field] for record in records]
    except (KeyError, TypeError) as error:
        index = next(i for i, record in enumerate(records) if not isinstance(record, dict) or field not in record)
        known = records[index].get("id", "?") if isinstance(records[index], dict) else "?"
        row = first + index
        raise UserError(f"{path}: {what} {row} (id {known}) lacks {field!r}; add it, or remove the {what}") from error


def _id(value: Any) -> int | str | None:
    """An int of any size or a text; a whole float becomes an int; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _file_name(value: Any) -> str | None:
    return listed_path(value) if isinstance(value, str) else None


def _converted(
    records: Sequence[Any], field: str, convert: Callable[[Any], Any], path: Path, what: str, first: int = 0
) -> list[int | str]:
    values = _column(records, field, path, what, first)
    converted = [convert(value) for value in values]
    for value, each in zip(values, converted, strict=True):
        if each is None:
            wanted = "a whole number or a text" if convert is _id else "a text"
            raise UserError(f"{path}: {what} {field} {value!r:.60} is not {wanted}; mend it")
    return converted


def _refuse_repeated(values: Sequence[int | str], path: Path, what: str) -> None:
    _, again = _first_and_others(values)
    if again:
        raise UserError(_repeated(values[again[0]], path, what))


def _repeated(value: int | str, path: Path, what: str) -> str:
    return f"{path}: {what} {value!r:.60} occurs twice; remove one, or give it its own"


def _indices(
    objects: Sequence[dict], field: str, ids: Sequence[int | str], listed: str, path: Path
) -> Int[np.ndarray, "objects"]:
    """The position in `ids` of each object's `field`."""
    position = {value: index for index, value in enumerate(ids)}
    values = _column(objects, field, path, "annotation")
    found = [position.get(_id(value), -1) for value in values]
    if -1 in found:
        row = found.index(-1)
        raise UserError(
            f"{path}: annotation {objects[row]['id']} has {field} {values[row]!r:.60}, "
            f"which is none of its {listed}; mend it"
        )
    return np.array(found, np.int64)


def stated_boxes(objects: Sequence[dict], path: Path, first: int = 0) -> Float[np.ndarray, "objects 4"]:
    """The boxes as in the file: x, y, width, height. first: the row of the first object in the file."""
    boxes = _column(objects, "bbox", path, "annotation", first)
    found = numbers(boxes)
    if not boxes:  # none, or each of them was refused
        return np.zeros((0, 4))
    if found is not None and found.shape == (len(boxes), 4):
        return found
    row = next(row for row, box in enumerate(boxes) if (four := numbers(box)) is None or four.shape != (4,))
    raise UserError(
        f"{path}: annotation {objects[row]['id']} has bbox {boxes[row]!r:.60}; "
        "it must be [x, y, width, height] in pixels"
    )


def numbers(values: Any) -> Float[np.ndarray, "..."] | None:
    """`values` as an array; None if they are not numbers, or too large for floats."""
    try:
        return np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        return None


def is_crowd(annotation: dict[str, Any], path: Path) -> bool:
    value = annotation.get("iscrowd")
    if value is None:
        return False
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise UserError(f"{path}: annotation {annotation['id']} has iscrowd {value!r:.60}; it must be 0 or 1, a number")


def _size(record: dict[str, Any], path: Path) -> tuple[int, int]:
    """Height and width as the file states them; from the image's header if it states no possible size."""
    sides = record.get("height"), record.get("width")
    if all(isinstance(side, (int, float)) and not isinstance(side, bool) and side % 1 == 0 for side in sides):
        return stated_size(*sides) or image_size(path)
    return image_size(path)
