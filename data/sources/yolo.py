"""`yolo:<path>`: boxes, and masks of objects, in the text format of YOLO's trainers.

    <path>/images/<split>/.../<name>.jpg     or another image format; <split> is train, val (or valid, ...) or test
    <path>/labels/<split>/.../<name>.txt     a line per object: class cx cy w h, as shares of the image's width and
                                             height; or class x0 y0 x1 y1 x2 y2 ..., an outline
    <path>/classes.txt                       the names of the classes, one per line; or data.yaml's `names`, a list or
                                             a mapping from 0, or its `nc` alone; or obj.names; or in labels/

The images of a split may lie in <path>/<split>/images instead, with labels in <path>/<split>/labels, or where data.yaml
says: its `train`, `val` and `test` are folders or lists of images (.txt), one or several, below its `path` or <path>.
Entries that do not exist are skipped, since data.yaml may come from another machine. As in Ultralytics, the labels
of an image are where the last `images` of its path is replaced by `labels`, or next to the image if its path has no
`images`. <path> may be the data.yaml itself, whatever its name.

Without any of these, <path>/train.txt, val.txt, ... are lists of images; <path>/<split> or <path> itself holds images
next to their labels; or <path>/images lies next to <path>/labels. What has no splits is "train". Folders called
train2017, as in coco128, are splits too, and without names of classes they have COCO's 80.

Of lines with keypoints, which `kpt_shape` announces, the box is read; of outlines the box around them, and the mask if
masks are wanted. The mask of a line that is a box is unknown; without any outline there are no masks. Areas are those
of the boxes.

An image whose label file is empty or missing has no objects. A line that repeats another line of its file is dropped,
and labels without an image are skipped, as in Ultralytics; both are counted and reported. Sizes are read from the
headers of the images.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from morphism.data import outlines, yolo_files, yolo_text
from morphism.data.annotations import image_size, pack, packed_names
from morphism.data.file_source import BoxedFiles
from morphism.data.files import by_name, passed_over
from morphism.data.layouts import YEAR, Layout, Look, Seen
from morphism.data.outlines import Outlines
from morphism.data.sources.folder import root_folder
from morphism.data.yolo_text import COCO, DESCRIPTIONS, NAMES, NUMBER, Row
from morphism.errors import UserError

MASKS = True
YAML = (".yaml", ".yml")
LAYOUT = Layout("YOLO", "images/ next to labels/ with a .txt per image, and data.yaml or classes.txt")


def describes(path: Path) -> bool:
    return yolo_files.describes(path)


def seen(look: Look) -> Seen:
    try:
        held = yolo_files.places(look.path)
        named = yolo_files.names_file(look.path) or yolo_files.description(look.path)
        coco = _is_coco(held)
    except UserError as error:
        return Seen((DESCRIPTIONS[0],), (), str(error))
    first = next(iter(held.values()), [look.folder("images")])[0]
    labelled = bool(first) and yolo_files.has_labels(look.path, first)
    names = str(named.relative_to(look.path)) if named else "COCO's names" if coco else "data.yaml or classes.txt"
    return Seen.of(
        ("images" if first == "." else f"images in {first}" if first else "images of a split", first),
        (".txt files with their labels", labelled),
        (names, named or coco),
    )


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "yolo", *YAML)
    held = tuple(yolo_files.places(root))
    if not held:
        folder = yolo_files.home(root)
        raise UserError(
            f"{folder / 'images'}: no folder of a split; expected {folder}/images/train, and {folder}/images/val next "
            "to it"
        )
    return held


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "yolo", *YAML)
    described, listed = yolo_files.description(root), yolo_files.names_file(root)
    if not listed and not described:
        if _is_coco(yolo_files.places(root)):
            return COCO
        raise UserError(
            f"{root}: neither {NAMES[0]} nor {DESCRIPTIONS[0]}; write {NAMES[0]} with a class's name per line"
        )
    names = yolo_text.listed_names(listed) if listed else yolo_text.described_names(described)
    if listed and described and (others := yolo_text.described_names(described)) != names:
        raise UserError(f"{listed} names {len(names)} classes, {described} {len(others)} others; remove one of them")
    return yolo_text.checked_names(names, listed or described)


def load(argument: str, split: str, data_dir: str, masks: bool = False) -> BoxedFiles:
    given, names = root_folder(argument, "yolo", *YAML), classes(argument, data_dir)
    root, places = yolo_files.home(given), yolo_files.places(given)[split]
    found = [yolo_files.images(root, place) for place in places]
    images = by_name(root, dict.fromkeys(image for each in found for image in each.images))
    if not images:
        raise UserError(f"{root / places[0]}: no images; put them there")
    held = yolo_files.in_label_folders(root, places)
    texts = by_name(root, filter(_is_text, held))
    stems = [yolo_files.label_path(stem) for stem in images]
    labels = [texts.get(stem, f"{stem}.txt") for stem in stems]
    rows, repeated = _objects(root, labels, len(names), _keypoints(given))
    sizes = np.array([image_size(root / file) for file in images.values()], np.int32)
    flat = np.array([row.box for each in rows for row in each], np.float64).reshape(-1, 5)
    owner = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    center, half = flat[:, 1:3], flat[:, 3:5] / 2
    store = pack(
        owner=owner,
        boxes=np.concatenate([center - half, center + half], axis=1) * np.tile(sizes[owner][:, ::-1], 2),
        classes=flat[:, 0].astype(np.int32),
        sizes=sizes,
        name=lambda index: str(root / labels[index]),
        where=str(root / yolo_files.label_path(places[0])),
        outlines=_outlines(rows, sizes) if masks else None,
    )
    others = [file for each in found for file in each.others]
    lines = [*_passed_over(root, others, held, set(labels)), repeated, store.oddities]
    base = places[0] if len(places) == 1 and (root / places[0]).is_dir() else "."
    return BoxedFiles(
        root=root / base,
        files=packed_names([os.path.relpath(file, base) for file in images.values()]),
        classes=names,
        category_ids=range(1, len(names) + 1),
        image_ids=np.array([os.path.relpath(stem, base) for stem in images]),
        sizes=sizes,
        store=replace(store, oddities="; ".join(filter(None, lines))),
    )


def _objects(root: Path, labels: Sequence[str], classes: int, keypoints: int) -> tuple[list[list[Row]], str]:
    """The objects in each label file; and a line on lines that repeat others, "" without any."""
    read = [yolo_text.read_rows(root / file, classes, keypoints) if (root / file).is_file() else [] for file in labels]
    rows = [_distinct(each) for each in read]
    repeated = np.array([len(every) - len(kept) for every, kept in zip(read, rows, strict=True)])
    if not repeated.any():
        return rows, ""
    first = root / labels[np.flatnonzero(repeated)[0]]
    return rows, f"odd labels: {repeated.sum():,} lines that repeat one above (dropped), first in {first}"


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """The first row of each box."""
    found: dict[tuple[float, ...], Row] = {}
    for row in rows:
        found.setdefault(row.box, row)
    return list(found.values())


def _outlines(rows: Sequence[Sequence[Row]], sizes: Int[np.ndarray, "images 2"]) -> Outlines | None:
    """The outlines of all objects; None if there is none."""
    if not any(row.outline for each in rows for row in each):
        return None
    found = []
    for each, (height, width) in zip(rows, sizes.tolist(), strict=True):
        for row in each:
            points = (np.reshape(row.outline, (-1, 2)) * (width, height)).ravel().tolist()
            counts = outlines.read([points], (height, width)).counts if row.outline else None
            found.append(counts if counts and outlines.area(counts, (height, width)) else None)
    return Outlines.of(found)


def _is_coco(places: dict[str, list[str]]) -> bool:
    """Whether the folders of images are COCO's by their names, such as train2017."""
    return bool(places) and all(YEAR.search(place) for each in places.values() for place in each)


def _is_text(file: str) -> bool:
    return file.lower().endswith(".txt")


def _passed_over(root: Path, others: list[str], held: list[str], used: set[str]) -> list[str]:
    """Reports `others`, found in image folders, and those of `held`, found in label folders, that are not `used`."""
    unused, images_only = [file for file in held if file not in used], set(others) - set(held)
    # A labelling program may have left its list of classes there.
    listed = {yolo_files.names_file(root), yolo_files.description(root)}
    unused = [file for file in unused if root / file not in listed]
    without = [file for file in unused if _is_text(file) and Path(file).name.lower() not in NAMES]
    odd = [file for file in unused if not _is_text(file) or Path(file).name.lower() in NAMES]
    lines = [passed_over((root, sorted(images_only))), passed_over((root, odd), what="labels")]
    return lines + (
        [f"odd labels: {len(without):,} without an image (passed over), first {root / without[0]}"] if without else []
    )


def _keypoints(root: Path) -> int:
    """How many numbers follow the box in a line with keypoints; 0 if data.yaml announces none."""
    description = yolo_files.description(root)
    shape = yolo_text.content(description).get("kpt_shape") if description else None
    numbers = shape if isinstance(shape, list) else []
    return math.prod(map(int, numbers)) if numbers and all(NUMBER.fullmatch(str(each)) for each in numbers) else 0
