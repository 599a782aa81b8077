"""`yolo:<path>`: boxes in the text format of YOLO's trainers.

    <path>/images/<split>/.../<name>.jpg     or another image format; <split> is train, val (or valid, ...) or test
    <path>/labels/<split>/.../<name>.txt     a line per object: class cx cy w h, in shares of the image's width and
                                             height; or class x0 y0 x1 y1 x2 y2 ..., the outline that the box is around
    <path>/classes.txt                       the classes' names, one per line; or data.yaml's `names`, a list or a
                                             mapping from 0, or its `nc` alone

The images of a split may lie in <path>/<split>/images instead, with labels in <path>/<split>/labels, or where data.yaml
says: its `train`, `val` and `test` are folders or lists of images (.txt), one or several, below its `path` or <path>.
Entries that are not there are passed over, as files that came from another machine have them. As in Ultralytics, labels
are where the last `images` of an image's path is replaced by `labels`, or where it has none next to the image; and of
lines with keypoints, which `kpt_shape` announces, the box is read.

An image whose file of labels is empty or missing has no objects. A line that repeats another of its file is dropped,
and labels without an image are passed over; both as in Ultralytics, counted and reported. Sizes are read from the
images' headers.
"""

import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from morphism.data.annotations import pack, packed_names, picture_size
from morphism.data.boxed_files import BoxedFiles
from morphism.data.files import Listing, by_name, listed_path, passed_over, read_lines, read_text, scan
from morphism.data.sources import VALIDATION
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError, skippable

SPLITS = ("train", *VALIDATION, "test")
NAMES = "classes.txt"
NUMBER = re.compile(r"\d{1,6}")
DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "yolo")
    held = tuple(_places(root))
    if not held:
        raise UserError(
            f"{root / 'images'}: no folder of a split; expected {root}/images/train, with {root}/images/val beside it"
        )
    return held


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "yolo")
    described = _description(root)
    listed = root / NAMES if (root / NAMES).is_file() else None
    if not listed and not described:
        raise UserError(f"{root}: neither {NAMES} nor {DESCRIPTIONS[0]}; write {NAMES} with a class's name per line")
    names = _listed_names(listed) if listed else _described_names(described)
    if listed and described and (others := _described_names(described)) != names:
        raise UserError(f"{listed} names {len(names)} classes, {described} {len(others)} others; remove one of them")
    path = listed or described
    for name in names:
        if not name:
            raise UserError(f"{path}: class {names.index(name)} has no name; write one")
        if names.count(name) > 1:
            raise UserError(f"{path}: {name!r} names two classes; rename one")
    return tuple(names)


def load(argument: str, split: str, data_dir: str) -> BoxedFiles:
    root, names = root_folder(argument, "yolo"), classes(argument, data_dir)
    places = _places(root)[split]
    found = [_images(root, place) for place in places]
    pictures = by_name(root, dict.fromkeys(image for each in found for image in each.images))
    if not pictures:
        raise UserError(f"{root / places[0]}: no images; put them there")
    held = _beside_images(root, places)
    texts = by_name(root, filter(_is_text, held))
    label_of = {stem: texts.get(_beside(stem), f"{_beside(stem)}.txt") for stem in pictures}
    keypoints = _keypoints(root)
    read = [_rows(root / file, len(names), keypoints) if (root / file).is_file() else [] for file in label_of.values()]
    rows = [np.array(list(dict.fromkeys(each)), np.float64).reshape(-1, 5) for each in read]
    sizes = np.array([picture_size(root / file) for file in pictures.values()], np.int32)
    owner = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    flat = np.concatenate(rows)
    center, half = flat[:, 1:3], flat[:, 3:5] / 2

    def name(index: int) -> str:
        return str(root / label_of[list(pictures)[index]])

    store = pack(
        owner=owner,
        boxes=np.concatenate([center - half, center + half], axis=1) * np.tile(sizes[owner][:, ::-1], 2),
        classes=flat[:, 0].astype(np.int32),
        sizes=sizes,
        name=name,
        where=str(root / _beside(places[0])),
    )
    others = [file for each in found for file in each.others]
    lines = _passed_over(root, others, held, set(label_of.values()))
    repeated = np.array([len(lines_read) - len(kept) for lines_read, kept in zip(read, rows, strict=True)])
    if repeated.any():
        first = name(np.flatnonzero(repeated)[0])
        lines.append(f"odd labels: {repeated.sum():,} lines that repeat one above (dropped), first in {first}")
    lines.append(store.oddities)
    base = places[0] if len(places) == 1 and (root / places[0]).is_dir() else "."
    return BoxedFiles(
        root=root / base,
        files=packed_names([os.path.relpath(file, base) for file in pictures.values()]),
        classes=names,
        category_ids=range(1, len(names) + 1),
        image_ids=np.array([os.path.relpath(stem, base) for stem in pictures]),
        sizes=sizes,
        store=replace(store, oddities="; ".join(filter(None, lines))),
    )


def _places(root: Path) -> dict[str, list[str]]:
    """Of each split the folders and lists of its images, as paths from `root`."""
    description = _description(root)
    content = _content(description) if description else {}
    held: dict[str, list[str]] = {}
    for split in SPLITS:
        given = content.get(split)
        entries = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        found = [_place(root, content.get("path"), each) for each in entries if isinstance(each, str) and each]
        usual = [each for each in (f"images/{split}", f"{split}/images") if (root / each).is_dir()][:1]
        if found and all(found):
            held[split] = found
        elif usual and usual not in held.values():  # valid/ is there as val where data.yaml says so
            held[split] = usual
    return held


def _place(root: Path, base: Any, entry: str) -> str:
    """Where an entry of data.yaml is, from `root`; "" if nowhere. A ../ before it may be one too many."""
    bases = [root / base] if isinstance(base, str) and base else []
    candidates = [each / entry[cut:] for each in (*bases, root) for cut in (0, 3 * entry.startswith("../"))]
    return next((os.path.relpath(path, root) for path in candidates if path.exists()), "")


def _images(root: Path, place: str) -> Listing:
    """The images of a folder or list, and what else is in the folder, as paths from `root`."""
    if (root / place).is_dir():
        return Listing(*([_join(place, file) for file in files] for files in scan(root / place)))
    listed, images = root / place, []
    for line in dict.fromkeys(filter(None, read_lines(listed))):
        path = listed.parent / listed_path(line)
        with skippable():
            if not path.is_file():
                raise UserError(f"{listed}: no image {path}; add it, or remove its line")
            images.append(os.path.relpath(path, root))
    return Listing(images, [])


def _beside_images(root: Path, places: list[str]) -> list[str]:
    """All but images of the folders that hold the labels of `places`, as paths from `root`."""
    folders = [_beside(place) for place in places if (root / place).is_dir()]
    held = [each for each in folders if (root / each).is_dir()]
    return list(dict.fromkeys(_join(each, file) for each in held for file in scan(root / each).others))


def _is_text(file: str) -> bool:
    return file.lower().endswith(".txt")


def _passed_over(root: Path, others: list[str], held: list[str], used: set[str]) -> list[str]:
    """Reports `others`, of the folders of images, and what of `held`, of those of labels, is not `used`."""
    unused, images_only = [file for file in held if file not in used], set(others) - set(held)
    # A labelling program may have left its list of classes there.
    without = [file for file in unused if _is_text(file) and Path(file).name.lower() != NAMES]
    odd = [file for file in unused if not _is_text(file) or Path(file).name.lower() == NAMES]
    lines = [passed_over((root, sorted(images_only))), passed_over((root, odd), what="labels")]
    return lines + (
        [f"odd labels: {len(without):,} without an image (passed over), first {root / without[0]}"] if without else []
    )


def _beside(path: str) -> str:
    """images/train/a -> labels/train/a."""
    before, found, after = f"/{path}/".rpartition("/images/")
    return f"{before}/labels/{after}".strip("/") if found else path


def _join(folder: str, file: str) -> str:
    return os.path.normpath(f"{folder}/{file}")


def _keypoints(root: Path) -> int:
    """How many numbers follow the box in lines with keypoints; 0 if data.yaml announces none."""
    description = _description(root)
    shape = _content(description).get("kpt_shape") if description else None
    numbers = shape if isinstance(shape, list) else []
    return math.prod(map(int, numbers)) if numbers and all(NUMBER.fullmatch(str(each)) for each in numbers) else 0


def _rows(path: Path, count: int, keypoints: int) -> list[tuple[float, ...]]:
    """Class, cx, cy, w, h of each line."""
    found = []
    with skippable():
        for number, line in enumerate(read_lines(path), start=1):
            if not line:
                continue
            try:
                row = [float(value) for value in line.split()]
            except ValueError:
                row = []
            row = row[:5] if keypoints and len(row) == 5 + keypoints else row
            if len(row) != 5 and (len(row) < 7 or len(row) % 2 == 0):
                raise UserError(f"{path}:{number}: {line[:60]!r} is not 'class cx cy w h'; mend or remove the line")
            if row[0] not in range(count):
                raise UserError(
                    f"{path}:{number}: class {row[0]:g} is none of the {count} classes, 0 to {count - 1}; mend it"
                )
            if max(map(abs, row[1:])) > 2:
                raise UserError(
                    f"{path}:{number}: cx, cy, w, h must be shares of the image, 0 to 1, not pixels; divide them"
                )
            found.append(tuple(row if len(row) == 5 else _around(row)))
    return found


def _around(row: list[float]) -> list[float]:
    """The box around an outline: class x0 y0 x1 y1 x2 y2 ... -> class cx cy w h."""
    low, high = (extreme(np.reshape(row[1:], (-1, 2)), axis=0) for extreme in (np.min, np.max))
    return [row[0], *((low + high) / 2).tolist(), *(high - low).tolist()]


def _listed_names(path: Path) -> list[str]:
    names = read_lines(path)
    if not any(names):
        raise UserError(f"{path}: no names of classes found; write them, one per line")
    return names


def _description(root: Path) -> Path | None:
    """data.yaml, by any of its names."""
    return next((root / name for name in DESCRIPTIONS if (root / name).is_file()), None)


def _content(path: Path) -> dict[str, Any]:
    """What a data.yaml holds.

    It is read as it is written: BaseLoader, as safe as safe_load, leaves names such as "no", "1" and "1e3" what they
    are.
    """
    try:
        content = yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; mend it") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise UserError(f"{where}: not YAML ({problem or str(error).splitlines()[0]}); mend it") from error
    return content if isinstance(content, dict) else {}


def _described_names(path: Path) -> list[str]:
    """`names` of a data.yaml; without it class_0, class_1, ... as many as its `nc`, as Ultralytics names them."""
    held = _content(path)
    names, count = held.get("names"), held.get("nc")
    if count is not None and not (isinstance(count, str) and NUMBER.fullmatch(count)):
        raise UserError(f"{path}: nc is {str(count)[:60]!r}, not the number of classes; mend it")
    if names is None and count is not None:
        names = [f"class_{index}" for index in range(int(count))]
    if isinstance(names, dict):
        numbered = {int(key): name for key, name in names.items() if isinstance(key, str) and NUMBER.fullmatch(key)}
        if sorted(numbered) != list(range(len(names))):
            raise UserError(f"{path}: its {len(names)} names are not numbered 0 to {len(names) - 1}; mend them")
        names = [numbered[index] for index in range(len(names))]
    if not names or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: no names of classes found; write them as names: [...], or one per line into {NAMES}")
    if count is not None and int(count) != len(names):
        raise UserError(f"{path}: nc is {count}, but there are {len(names)} names; mend one of them")
    return names
