"""YOLO's text files: the objects of an image, the names of classes, and the description of a dataset (data.yaml)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from morphism.data.files import read_lines, read_text
from morphism.errors import UserError, skippable

NUMBER = re.compile(r"\d{1,6}")
DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAMES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
COCO = (  # what folders called train2017 hold, as Ultralytics' coco128
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)


class Row(NamedTuple):
    """An object: class, cx, cy, w, h; and its outline x0, y0, x1, y1, ...; all as shares of the image's sides."""

    box: tuple[float, float, float, float, float]
    outline: tuple[float, ...] = ()


def read_rows(path: Path, count: int, keypoints: int) -> list[Row]:
    """The objects in a label file of `count` classes; `keypoints` numbers that follow a box are left out.

    Raises UserError, naming the line. Inside errors.noting, the other lines are returned.
    """
    lines: list[str] = []
    with skippable():
        lines = read_lines(path)
    found: list[Row] = []
    for number, line in enumerate(lines, start=1):
        with skippable():
            found += [_row(line, f"{path}:{number}", count, keypoints)] if line else []
    return found


def _row(line: str, where: str, count: int, keypoints: int) -> Row:
    try:
        row = [float(value) for value in line.split()]
    except ValueError:
        row = []
    row = row[:5] if keypoints and len(row) == 5 + keypoints else row
    if len(row) != 5 and (len(row) < 7 or len(row) % 2 == 0):
        raise UserError(f"{where}: {line[:60]!r} is not 'class cx cy w h'; mend or remove the line")
    if row[0] not in range(count):
        raise UserError(f"{where}: class {row[0]:g} is none of the {count} classes, 0 to {count - 1}; mend it")
    if max(map(abs, row[1:])) > 2:
        raise UserError(f"{where}: cx, cy, w, h must be shares of the image, 0 to 1, not pixels; divide them")
    return Row(tuple(row)) if len(row) == 5 else Row(_around(row), tuple(row[1:]))


def is_labels(path: Path) -> bool:
    """Whether the first line of a text, which may begin with a byte order mark, looks like an object."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            words = file.readline(10_000).split()
            return len(words) >= 5 and words[0].isdecimal() and all(map(_is_number, words))
    except OSError:
        return False


def is_blank(path: Path) -> bool:
    """Whether a text holds no word, as the labels of an image without objects."""
    try:
        with path.open("rb") as file:
            return not file.read(1000).strip()
    except OSError:
        return False


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _around(row: list[float]) -> tuple[float, ...]:
    """The box around an outline: class x0 y0 x1 y1 x2 y2 ... -> class cx cy w h."""
    low, high = (extreme(np.reshape(row[1:], (-1, 2)), axis=0) for extreme in (np.min, np.max))
    return (row[0], *((low + high) / 2).tolist(), *(high - low).tolist())


def listed_names(path: Path) -> list[str]:
    names = read_lines(path)
    if not any(names):
        raise UserError(f"{path}: no names of classes found; write them, one per line")
    return names


def content(path: Path) -> dict[str, Any]:
    """The content of a data.yaml. BaseLoader, as safe as safe_load, keeps names such as "no", "1" and "1e3" as text."""
    try:
        content = yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; mend it") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise UserError(f"{where}: not YAML ({problem or str(error).splitlines()[0]}); mend it") from error
    return content if isinstance(content, dict) else {}


def described_names(path: Path) -> list[str]:
    """`names` of a data.yaml; without it class_0, class_1, ... for its `nc` classes, as Ultralytics names them."""
    held = content(path)
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
        raise UserError(
            f"{path}: no names of classes found; write them as names: [...], or one per line into {NAMES[0]}"
        )
    if count is not None and int(count) != len(names):
        raise UserError(f"{path}: nc is {count}, but there are {len(names)} names; mend one of them")
    return names


def checked_names(names: Sequence[str], path: Path) -> tuple[str, ...]:
    """`names`, read from `path`. Raises UserError for an empty one, and for two alike."""
    for name in names:
        if not name:
            raise UserError(f"{path}: class {names.index(name)} has no name; write one")
        if names.count(name) > 1:
            raise UserError(f"{path}: {name!r} names two classes; rename one")
    return tuple(names)
