"""`cvat:<path>`: boxes and masks of objects from CVAT's own XML, its export "CVAT for images 1.1".

    <path>/annotations.xml            or another .xml, the only one with <annotations>; or <path> is that file
    <path>/images/.../<name>.jpg      or <path>/<name>.jpg, by the name in the XML
    <path>/<split>/annotations.xml    in folders of splits, too

The splits are the subsets of the XML, Train, Validation and Test; other subsets, or none, are "train". The classes are
the labels of the task, in its order; without a list of labels, the sorted ones that occur. An image without a shape has
no objects.

<box> is a box, whose mask is unknown unless it is rotated. <polygon>, <ellipse> and <mask> are objects with a mask; the
box is around them. <polyline>, <points>, <cuboid>, <skeleton> and <tag> are no objects; they are counted and reported.
The size of an image is the one that the XML states.
"""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from morphism.data import drawn
from morphism.data.annotations import image_size, stated_size
from morphism.data.drawn import Drawn, Sheet
from morphism.data.file_source import BoxedFiles
from morphism.data.files import read_bytes
from morphism.data.layouts import SPLITS, VALIDATION, Layout, Look, Seen, split_of
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError, skippable

MASKS = True
LAYOUT = Layout("CVAT for images", "CVAT's annotations.xml, and images/ next to it")
USUAL = "annotations.xml"
OBJECTS = ("box", "polygon", "ellipse", "mask")
HEAD = 4096  # bytes in which the outermost element is looked for


def describes(path: Path) -> bool:
    """Whether a file is CVAT's XML."""
    try:
        with path.open("rb") as file:
            return path.suffix.lower() == ".xml" and b"<annotations>" in file.read(HEAD)
    except OSError:
        return False


def seen(look: Look) -> Seen:
    found = _files(look.path)
    return Seen(tuple(str(path.relative_to(look.path)) for path in found), () if found else (LAYOUT.needs,))


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "cvat", ".xml")
    held = {split for path in _files(root) for split, _ in _images(_tree(path), path, root)}
    if not held:
        raise UserError(f"{root}: no {USUAL} with an <image>; export the task as 'CVAT for images 1.1'")
    return tuple(split for split in SPLITS if split in held)


def load(argument: str, split: str, data_dir: str, masks: bool = False) -> BoxedFiles:
    root = root_folder(argument, "cvat", ".xml")
    sheets, odd = [], defaultdict(list)
    trees = {path: _tree(path) for path in _files(root)}
    for path, tree in trees.items():
        for own, element in _images(tree, path, root):
            with skippable():
                if own == split:
                    sheets.append(_sheet(element, path, odd))
    home = root if root.is_dir() else root.parent
    sheets = [sheet._replace(file=os.path.relpath(sheet.file, home)) for sheet in sheets]
    if not sheets:
        raise UserError(f"{next(iter(trees))}: no image of {split} can be read")
    notes = drawn.counted(odd, lambda kind: f"<{kind}> (no objects, left out)")
    return drawn.source(home, sheets, _classes(trees.values()), str(next(iter(trees))), masks, notes)


def _files(root: Path) -> list[Path]:
    """The XML files: the usual ones, in folders of splits if there are any; else the only other one."""
    if root.is_file():
        return [root]
    look = Look(root)
    folders = [root / name for name in look.splits().values()]
    found = [path for path in (folder / USUAL for folder in (*folders, root)) if describes(path)]
    others = [path for name in look.files if name.lower().endswith(".xml") and describes(path := root / name)]
    return found or (others if len(others) == 1 else [])


def _tree(path: Path) -> ElementTree.Element:
    content = read_bytes(path, "export it again")
    if b"<!ENTITY" in content:
        raise UserError(f"{path}: declares entities, which annotations do not need; remove its <!DOCTYPE ...>")
    try:
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise UserError(f"{path}: not XML ({error}); export it again") from error
    if tree.find("track") is not None:
        raise UserError(f"{path}: has tracks of a video; export the task as 'CVAT for images 1.1'")
    return tree


def _images(tree: ElementTree.Element, path: Path, root: Path) -> Iterator[tuple[str, ElementTree.Element]]:
    """The split of each <image>, and the element."""
    folder = split_of(path.parent.name) if path.parent != root else ""
    for element in tree.iter("image"):
        named = split_of(element.get("subset") or "")
        yield folder or ("val" if named in VALIDATION else named) or "train", element


def _classes(trees: Iterable[ElementTree.Element]) -> tuple[str, ...]:
    listed: dict[str, None] = {}
    used: set[str] = set()
    for tree in trees:
        for label in tree.iterfind("meta//labels/label"):
            if label.find("parent") is None or not (label.findtext("parent") or "").strip():  # not of a skeleton
                listed[(label.findtext("name") or "").strip()] = None
        used |= {shape.get("label") or "" for image in tree.iter("image") for shape in image if shape.tag in OBJECTS}
    return (*listed, *sorted(used - listed.keys()))


def _sheet(element: ElementTree.Element, path: Path, odd: dict[str, list[str]]) -> Sheet:
    """An <image> with its objects; adds to `odd` the shapes that are none."""
    name = element.get("name") or ""
    where = f"{path}: image {name!r:.60}"
    file = _file(path.parent, name, element.get("subset") or "")
    if file is None:
        raise UserError(f"{where}: no such file in {path.parent / 'images'}; put it there, or export with images")
    stated = [_number(element, side, where) for side in ("height", "width")] if element.get("width") else (0, 0)
    size = stated_size(*stated) or image_size(file)
    objects = []
    for shape in element:
        if shape.tag not in OBJECTS:
            odd[shape.tag].append(where)
            continue
        found = _object(shape, size, where)
        if found is None:
            odd[f"{shape.tag}> without a pixel <"].append(where)
        else:
            objects.append(found)
    return Sheet(str(file), where, size, objects)


def _file(folder: Path, name: str, subset: str) -> Path | None:
    places = ("images", f"images/{subset}", ".", "data") if name else ()
    return next((path for each in places if (path := folder / each / name).is_file()), None)


def _object(shape: ElementTree.Element, size: tuple[int, int], where: str) -> Drawn | None:
    label = shape.get("label") or ""
    if not label:
        raise UserError(f"{where}: a <{shape.tag}> has no label; mend it")
    if shape.tag == "mask":
        return _mask(shape, label, size, where)
    if shape.tag == "polygon":
        corners = _points(shape, where)
    elif shape.tag == "ellipse":
        center, radii = ([_number(shape, each, where) for each in names] for names in (("cx", "cy"), ("rx", "ry")))
        corners = drawn.ellipse(np.array(center), np.array(radii))
    else:
        low, high = ([_number(shape, each, where) for each in names] for names in (("xtl", "ytl"), ("xbr", "ybr")))
        corners = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
    turned = float(shape.get("rotation") or 0) if shape.tag != "polygon" else 0.0
    if shape.tag == "box" and not turned:
        return drawn.rectangle(label, corners[::2])
    return drawn.polygons(label, [_rotated(corners, turned)], size)


def _rotated(corners: Float[np.ndarray, "n 2"], degrees: float) -> Float[np.ndarray, "n 2"]:
    """Corners turned clockwise, as the image is seen, around the middle of their box."""
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (corners - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle if degrees else corners


def _mask(shape: ElementTree.Element, label: str, size: tuple[int, int], where: str) -> Drawn | None:
    """Run lengths of the rows of a box, which start outside the object."""
    left, top, width, height = (int(_number(shape, each, where)) for each in ("left", "top", "width", "height"))
    try:
        lengths = np.array([int(each) for each in (shape.get("rle") or "").split(",")])
    except ValueError:
        lengths = np.array([-1])
    if (lengths < 0).any() or lengths.sum() != width * height:
        raise UserError(f"{where}: the rle of a <mask> is not whole numbers that add up to {width} x {height}; mend it")
    inside = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(height, width)
    return drawn.mask(label, inside, (left, top), size)


def _points(shape: ElementTree.Element, where: str) -> Float[np.ndarray, "n 2"]:
    text = shape.get("points") or ""
    try:
        points = np.array([[float(each) for each in pair.split(",")] for pair in text.split(";")])
    except ValueError:
        points = np.zeros((0, 2))
    if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise UserError(f"{where}: the points of a <polygon> are {text!r:.60}, not x,y;x,y;x,y in pixels; mend it")
    return points


def _number(element: ElementTree.Element, field: str, where: str) -> float:
    text: Any = element.get(field)
    try:
        if math.isfinite(number := float(text)):
            return number
    except (TypeError, ValueError):
        pass
    raise UserError(f"{where}: {field} of a <{element.tag}> is {text!r:.60}, no finite number; mend it")
