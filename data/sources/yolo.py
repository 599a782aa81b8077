"""`yolo:<path>`: boxes in the text format of YOLO's trainers.

    <path>/images/<split>/<name>.jpg     or another picture format; <split> is train, val or test
    <path>/labels/<split>/<name>.txt     a line an object: class cx cy w h, in shares of the picture's width and height
    <path>/classes.txt                   the classes' names, a line each; or data.yaml's `names`, a list or a mapping
                                         from 0, in one line or in one line a name

A picture whose file of labels is empty or missing has no objects. Sizes are read from the pictures' headers.
"""

import ast
import re
from pathlib import Path

import numpy as np

from data.annotations import Detection, named_pictures, pack, packed_names, picture_size
from data.sources.folder import root_folder
from errors import UserError

SPLITS = ("train", "val", "test")
KEY = re.compile(r"names\s*:\s*(.*)")
ITEM = re.compile(r"\s*(?:-|(\d+)\s*:)\s+(.+)")


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    pictures = root_folder(argument, "yolo") / "images"
    held = tuple(split for split in SPLITS if (pictures / split).is_dir())
    if not held:
        raise UserError(f"{pictures}: no folder of a split; expected {pictures}/train, with {pictures}/val beside it")
    return held


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "yolo")
    path = next((root / name for name in ("classes.txt", "data.yaml") if (root / name).is_file()), None)
    if path is None:
        raise UserError(f"{root}: neither classes.txt nor data.yaml; write classes.txt with a class's name a line")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); mend it") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    names = lines if path.name == "classes.txt" else _yaml_names(text)
    if not names:
        raise UserError(f"{path}: no names of classes found; write them into {root / 'classes.txt'}, one a line")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: {next(n for n in names if names.count(n) > 1)!r} names two classes; rename one")
    return tuple(names)


def load(argument: str, split: str, data_dir: str) -> Detection:
    root, names = root_folder(argument, "yolo"), classes(argument, data_dir)
    pictures = named_pictures(root / "images" / split)
    if not pictures:
        raise UserError(f"{root / 'images' / split}: no pictures; put them there")
    labels = root / "labels" / split
    for file in sorted(labels.glob("*.txt")):
        if file.stem not in pictures:
            raise UserError(
                f"{file}: no picture {root / 'images' / split / file.stem}.jpg; add it, or remove this file"
            )
    rows = [_rows(labels / f"{stem}.txt", len(names)) for stem in pictures]
    sizes = np.array([picture_size(root / "images" / split / file) for file in pictures.values()], np.int32)
    owner = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    flat = np.concatenate(rows)
    center, half = flat[:, 1:3], flat[:, 3:5] / 2
    store = pack(
        owner=owner,
        boxes=np.concatenate([center - half, center + half], axis=1) * np.tile(sizes[owner][:, ::-1], 2),
        classes=flat[:, 0].astype(np.int32),
        sizes=sizes,
        name=lambda index: str(labels / f"{list(pictures)[index]}.txt"),
        where=str(labels),
    )
    return Detection(
        root=root / "images" / split,
        files=packed_names(list(pictures.values())),
        classes=names,
        category_ids=range(1, len(names) + 1),
        image_ids=np.array(list(pictures)),
        sizes=sizes,
        store=store,
    )


def _rows(path: Path, count: int) -> np.ndarray:
    """[n,5]: class, cx, cy, w, h."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return np.zeros((0, 5))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); mend or remove it") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = [float(value) for value in line.split()]
        except ValueError:
            row = []
        if len(row) != 5:
            raise UserError(f"{path}:{number}: {line.strip()[:60]!r} is not 'class cx cy w h'; mend or remove the line")
        if row[0] not in range(count):
            raise UserError(
                f"{path}:{number}: class {row[0]:g} is none of the {count} classes, 0 to {count - 1}; mend it"
            )
        if max(map(abs, row[1:])) > 2:
            raise UserError(
                f"{path}:{number}: cx, cy, w, h must be shares of the picture, 0 to 1, not pixels; divide them"
            )
        found.append(row)
    return np.array(found, np.float64).reshape(-1, 5)


def _yaml_names(text: str) -> list[str]:
    """The value of a data.yaml's `names` in the forms that its writers use; [] for any other."""
    lines = [line for line in (line.split(" #")[0].rstrip() for line in text.splitlines()) if line]
    start = next((index for index, line in enumerate(lines) if KEY.fullmatch(line)), None)
    if start is None:
        return []
    value = KEY.fullmatch(lines[start])[1]
    if value:
        return _flow_names(value)
    names = []
    for line in lines[start + 1 :]:
        item = ITEM.fullmatch(line)
        if not item:
            break
        if item[1] is not None and int(item[1]) != len(names):
            return []
        names.append(item[2].strip().strip("'\""))
    return names


def _flow_names(value: str) -> list[str]:
    """Of ['cat', 'dog'], [cat, dog] or {0: 'cat', 1: 'dog'}."""
    try:
        read = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        inner = re.fullmatch(r"\[(.*)\]", value)
        return [name.strip().strip("'\"") for name in inner[1].split(",")] if inner else []
    if isinstance(read, dict):
        return [str(read[index]) for index in range(len(read))] if set(read) == set(range(len(read))) else []
    return [str(name) for name in read] if isinstance(read, list) else []
