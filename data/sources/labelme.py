"""`labelme:<path>`: boxes and masks of objects as LabelMe saves them, a JSON next to each image.

    <path>/.../<name>.json, <name>.jpg             one split, "train"
    <path>/<split>/.../<name>.json, <name>.jpg     <split> is train, val (or valid, ...) or test

A record is a JSON. Its image is where its imagePath says, or else next to it under either name; JSON files without
`shapes` are skipped, and so are images without a JSON, which are counted and reported. An image that is only within the
JSON (imageData) is not read. The classes are the sorted labels of all splits; `__ignore__` is no class.

Polygons, circles (a center and a point on the edge) and masks are objects with a mask, rectangles and oriented
rectangles boxes, whose masks are unknown. Shapes of one label and group_id are one object. Points, lines and what else
there is are no objects; they are counted and reported. The size of an image is the one that the JSON states.
"""

import base64
import binascii
import io
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from morphism.data import drawn, outlines
from morphism.data.annotations import image_size, stated_size
from morphism.data.drawn import Drawn, Sheet
from morphism.data.file_source import BoxedFiles
from morphism.data.files import image_suffixes, is_image, listed_path, read_bytes, scan
from morphism.data.layouts import Layout, Look, Seen, json_keys
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError, skippable

MASKS = True
LAYOUT = Layout("LabelMe", "a .json of LabelMe per image, next to it")
KEYS = ("shapes", "imagePath")
IGNORED = "__ignore__"
CORNERS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 3, "rotation": 3}  # at least


class _Shape(NamedTuple):
    label: str
    kind: str
    points: Float[np.ndarray, "n 2"]
    group: int | str | None
    mask: str | None


class _Read(NamedTuple):
    """A JSON: its image, the size that it states, its shapes."""

    image: str
    size: tuple[int, int] | None
    shapes: list[_Shape]


def seen(look: Look) -> Seen:
    folder = look.below(next(iter(_folders(look).values())))
    found = next(filter(_is_labelme, folder.with_suffix(".json")), None)
    return Seen((str(found.relative_to(look.path)),), ()) if found else Seen((), (LAYOUT.needs,))


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "labelme")
    held = _folders(Look(root))
    if not any(_is_labelme(path) for name in held.values() for path in Look(root / name).with_suffix(".json")):
        raise UserError(f"{root}: no .json of LabelMe; expected {root}/<name>.json next to each image")
    return tuple(held)


def load(argument: str, split: str, data_dir: str, masks: bool = False) -> BoxedFiles:
    root = root_folder(argument, "labelme")
    held = _folders(Look(root))
    found = {each: _read_all(root / name) for each, name in held.items()}
    labels = {shape.label for read in found.values() for each in read.values() for shape in each.shapes}
    classes = tuple(sorted(labels - {IGNORED}))
    sheets, odd, folder = [], defaultdict(list), root / held[split]
    for path, read in found[split].items():
        with skippable():
            sheets.append(_sheet(path, read, folder, odd))
    if not sheets:
        raise UserError(f"{folder}: no .json of LabelMe with an image can be read")
    notes = drawn.counted(odd, lambda kind: f"{kind} (no objects, left out)")
    source = drawn.source(folder, sheets, classes, str(folder), masks, notes)
    lines = (source.store.oddities, _unused(folder, sheets))
    return replace(source, store=replace(source.store, oddities="; ".join(filter(None, lines))))


def _folders(look: Look) -> dict[str, str]:
    """Split -> its folder; all of it is "train" where no split's folder holds JSON files of LabelMe."""
    held = look.splits()
    return {
        split: name for split, name in held.items() if any(map(_is_labelme, look.below(name).with_suffix(".json")))
    } or {"train": "."}


def _is_labelme(path: Path) -> bool:
    return json_keys(path, KEYS) >= {KEYS[0]}


def _read_all(folder: Path) -> dict[Path, _Read]:
    """All JSON files of LabelMe below a folder; inside errors.noting, those that can be read."""
    paths = [folder / file for file in scan(folder).others if file.lower().endswith(".json")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = pool.map(_read_or_none, paths)
        return {path: each for path, each in zip(paths, read, strict=True) if each}


def _read_or_none(path: Path) -> _Read | None:
    found = None
    with skippable():
        found = _read(path)
    return found


def _read(path: Path) -> _Read | None:
    """None for a JSON that is not LabelMe's."""
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); save it again, or remove it") from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return None
    sides = [content.get(f"image{side}") for side in ("Height", "Width")]
    numbers = all(isinstance(side, (int, float)) and not isinstance(side, bool) for side in sides)
    shapes = [_shape(each, path, number) for number, each in enumerate(content["shapes"])]
    image = content.get("imagePath")
    return _Read(image if isinstance(image, str) else "", stated_size(*sides) if numbers else None, shapes)


def _shape(given: Any, path: Path, number: int) -> _Shape:
    where = f"{path}: shape {number}"
    label = given.get("label") if isinstance(given, dict) else None
    if not isinstance(label, str) or not label.strip():
        raise UserError(f"{where} has no label; write one, or remove it")
    kind = given.get("shape_type") or "polygon"
    try:
        points = np.array(given.get("points"), np.float64).reshape(-1, 2)
        usable = np.isfinite(points).all() and len(points) >= CORNERS.get(kind, 0)
    except (ValueError, TypeError):
        usable = False
    if not usable:
        raise UserError(f"{where} is a {kind} with the points {given.get('points')!r:.60}; mend or remove it")
    group, mask = given.get("group_id"), given.get("mask")
    return _Shape(label.strip(), str(kind), points, group if isinstance(group, (int, str)) else None, mask)


def _sheet(path: Path, read: _Read, folder: Path, odd: dict[str, list[str]]) -> Sheet:
    """The image of a JSON with its objects; adds to `odd` the shapes that are none."""
    file = _image(path, read.image)
    if file is None:
        named = path.parent / (read.image or f"{path.stem}.jpg")
        raise UserError(f"{path}: no image {named}; add it, or remove the file")
    size = read.size or image_size(file)
    objects = []
    for shapes in _grouped(read.shapes):
        for shape in itertools.filterfalse(_is_object, shapes):
            odd[f"shapes labelled {IGNORED}" if shape.label == IGNORED else f"{shape.kind}s"].append(str(path))
        usable = list(filter(_is_object, shapes))
        found = _object(usable, size, path) if usable else None
        if usable and found is None:
            odd["masks without a pixel"].append(str(path))
        objects += [found] if found else []
    return Sheet(os.path.relpath(file, folder), str(path), size, objects)


def _is_object(shape: _Shape) -> bool:
    return shape.kind in CORNERS and shape.label != IGNORED


def _grouped(shapes: list[_Shape]) -> Iterator[list[_Shape]]:
    """The shapes of each object, in the order of their first."""
    groups: dict[Any, list[_Shape]] = {}
    for number, shape in enumerate(shapes):
        alone = shape.group is None or shape.kind not in CORNERS
        groups.setdefault(number if alone else (shape.label, shape.group), []).append(shape)
    yield from groups.values()


def _object(shapes: list[_Shape], size: tuple[int, int], path: Path) -> Drawn | None:
    parts = [each for shape in shapes if (each := _part(shape, size, path))]
    if len(parts) < 2:
        return parts[0] if parts else None
    boxes = np.array([part.box for part in parts])
    box = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
    known = [part.outline for part in parts if part.outline]
    return Drawn(parts[0].label, box, outlines.union(known, size) if len(known) == len(parts) else None)


def _part(shape: _Shape, size: tuple[int, int], path: Path) -> Drawn | None:
    if shape.kind == "mask":
        return drawn.mask(shape.label, _pixels(shape, path), tuple(shape.points[0].astype(int).tolist()), size)
    if shape.kind == "circle":
        center, edge = shape.points[:2]
        return drawn.polygons(shape.label, [drawn.ellipse(center, np.full(2, np.hypot(*(edge - center))))], size)
    if shape.kind == "polygon":
        return drawn.polygons(shape.label, [shape.points], size)
    return drawn.rectangle(shape.label, shape.points)


def _pixels(shape: _Shape, path: Path) -> Bool[np.ndarray, "h w"]:
    """The pixels of a mask, which is a PNG in base64."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.mask or "", validate=True))) as opened:
            return np.asarray(opened.convert("L")) > 0
    except (binascii.Error, ValueError, OSError, TypeError) as error:
        raise UserError(f"{path}: a mask of {shape.label} cannot be decoded; save it again, or remove it") from error


def _image(path: Path, named: str) -> Path | None:
    """The image of a JSON: where it says, or else next to it, by the same name or by that of the JSON."""
    names = [listed_path(named), listed_path(named).rpartition("/")[2]] if named else []
    suffixes = sorted(image_suffixes())
    names += [f"{path.stem}{suffix}" for suffix in (*suffixes, *map(str.upper, suffixes))]
    return next((own for name in names if is_image(name) and (own := path.parent / name).is_file()), None)


def _unused(folder: Path, sheets: list[Sheet]) -> str:
    """A line on images that have no JSON; "" if there are none."""
    used = {sheet.file for sheet in sheets}
    without = [image for image in scan(folder).images if image not in used]
    if not without:
        return ""
    return f"odd files: {len(without):,} images without a .json (passed over), first {folder / without[0]}"
