"""`yolo:<path>`: boxes in the text format of YOLO's trainers.

    <path>/images/<split>/.../<name>.jpg     or another image format; <split> is train, val (or valid, ...) or test
    <path>/labels/<split>/.../<name>.txt     a line per object: class cx cy w h, in shares of the image's width and
                                             height; or class x0 y0 x1 y1 x2 y2 ..., the outline that the box is around
    <path>/<split>/images/, <path>/<split>/labels/   is the other layout of such data, as Roboflow exports it
    <path>/classes.txt                       the classes' names, one per line; or data.yaml's `names`, a list or a
                                             mapping from 0, or its `nc` alone

An image whose file of labels is empty or missing has no objects. A line that repeats another of its file is dropped, as
Ultralytics does, counted and reported. Sizes are read from the images' headers.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from data.annotations import Detection, pack, packed_names, picture_size
from data.files import by_name, passed_over, read_lines, read_text, scan
from data.sources import VALIDATION
from data.sources.folder import root_folder
from errors import UserError, apart

SPLITS = ("train", *VALIDATION, "test")
NAMES = "classes.txt"
NUMBER = re.compile(r"\d{1,6}")
DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "yolo")
    held = tuple(split for split in SPLITS if _folders(root, split)[0].is_dir())
    if not held:
        pictures = root / "images"
        raise UserError(f"{pictures}: no folder of a split; expected {pictures}/train, with {pictures}/val beside it")
    return held


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """A split's folders of images and of labels; those of images/ and labels/ take precedence."""
    images = root / "images" / split
    if not images.is_dir() and (root / split / "images").is_dir():
        return root / split / "images", root / split / "labels"
    return images, root / "labels" / split


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "yolo")
    described = next((root / name for name in DESCRIPTIONS if (root / name).is_file()), None)
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


def load(argument: str, split: str, data_dir: str) -> Detection:
    root, names = root_folder(argument, "yolo"), classes(argument, data_dir)
    folder, labels = _folders(root, split)
    found = scan(folder)
    pictures = by_name(folder, found.images)
    if not pictures:
        raise UserError(f"{folder}: no images; put them there")
    texts, others = _label_files(labels, folder, pictures)
    read = [_rows(labels / texts[stem], len(names)) if stem in texts else [] for stem in pictures]
    rows = [np.array(list(dict.fromkeys(each)), np.float64).reshape(-1, 5) for each in read]
    sizes = np.array([picture_size(folder / file) for file in pictures.values()], np.int32)
    owner = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    flat = np.concatenate(rows)
    center, half = flat[:, 1:3], flat[:, 3:5] / 2

    def name(index: int) -> str:
        stem = list(pictures)[index]
        return str(labels / texts.get(stem, f"{stem}.txt"))

    store = pack(
        owner=owner,
        boxes=np.concatenate([center - half, center + half], axis=1) * np.tile(sizes[owner][:, ::-1], 2),
        classes=flat[:, 0].astype(np.int32),
        sizes=sizes,
        name=name,
        where=str(labels),
    )
    lines = [passed_over((folder, found.others)), passed_over((labels, others), what="labels")]
    repeated = np.array([len(lines_read) - len(kept) for lines_read, kept in zip(read, rows, strict=True)])
    if repeated.any():
        first = name(np.flatnonzero(repeated)[0])
        lines.append(f"odd labels: {repeated.sum():,} lines that repeat one above (dropped), first in {first}")
    lines.append(store.oddities)
    return Detection(
        root=folder,
        files=packed_names(list(pictures.values())),
        classes=names,
        category_ids=range(1, len(names) + 1),
        image_ids=np.array(list(pictures)),
        sizes=sizes,
        store=replace(store, oddities="; ".join(filter(None, lines))),
    )


def _label_files(labels: Path, folder: Path, pictures: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Name -> file of labels below `labels`, which may be missing, and what other files are there.

    A list of classes that a labelling program left there counts as one of those. Raises UserError for labels without an
    image.
    """
    found = scan(labels).others if labels.is_dir() else []
    texts = by_name(labels, [file for file in found if file.lower().endswith(".txt")])
    without = {stem: file for stem, file in texts.items() if stem not in pictures}
    for stem, file in without.items():
        with apart():
            if Path(file).name.lower() != NAMES:
                raise UserError(f"{labels / file}: no image {folder / stem}.jpg; add it, or remove this file")
    return texts, [file for file in found if not file.lower().endswith(".txt") or file in without.values()]


def _rows(path: Path, count: int) -> list[tuple[float, ...]]:
    """Class, cx, cy, w, h of each line."""
    found = []
    with apart():
        for number, line in enumerate(read_lines(path), start=1):
            if not line:
                continue
            try:
                row = [float(value) for value in line.split()]
            except ValueError:
                row = []
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


def _described_names(path: Path) -> list[str]:
    """`names` of a data.yaml; without it class_0, class_1, ... as many as its `nc`, as Ultralytics names them.

    Names are read as they are written: BaseLoader, as safe as safe_load, leaves "no", "1" and "1e3" what they are.
    """
    try:
        content = yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; mend it") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise UserError(f"{where}: not YAML ({problem or str(error).splitlines()[0]}); mend it") from error
    held = content if isinstance(content, dict) else {}
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
