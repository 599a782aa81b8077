"""`imagenet:<folder>`: ImageNet pictures as they are passed around, to evaluate on, without preparing anything.

    <folder>/.../<wnid>_<anything>.JPEG    or    <folder>/.../<wnid>/.../<anything>.JPEG

such as n01440764_10026.JPEG. The class is the place of the WordNet id among ImageNet's 1,000 in their order, which is
the one that every public classifier was trained in; the folder may hold any part of them. One split, "val".
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.sources import tfds
from data.sources.folder import PICTURES, Folder
from errors import UserError

WNID = re.compile(r"n\d{8}(?=_|$)")


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    return ("val",)


def classes(argument: str, data_dir: str) -> Sequence[str]:
    return tfds.classes("imagenet2012", data_dir)


def load(argument: str, split: str, data_dir: str) -> Folder:
    root = Path(argument).expanduser().absolute()
    if not argument or not root.is_dir():
        raise UserError(
            f"config.data.source is 'imagenet:{argument}': no such folder; write imagenet:/path/to/pictures"
        )
    names = classes(argument, data_dir)
    numbers = {name: number for number, name in enumerate(names)}
    files = sorted(path for path in root.rglob("*") if path.name.lower().endswith(PICTURES) and path.is_file())
    if not files:
        raise UserError(f"{root}: no pictures below this folder ({' '.join(PICTURES)})")
    below = [file.relative_to(root) for file in files]
    labels = np.array([_label(path, root, numbers) for path in below], np.int32)
    return Folder(root, names, np.array([os.fsencode(path) for path in below]), labels)


def _label(path: Path, root: Path, numbers: dict[str, int]) -> int:
    """By the WordNet id that the picture's name begins with, else that of the nearest folder named after one."""
    wnid = next((found[0] for part in reversed(path.parts) if (found := WNID.match(part))), None)
    if wnid is None:
        raise UserError(f"{root / path}: neither its name nor its folder begins with a WordNet id, such as n01440764_")
    if wnid not in numbers:
        raise UserError(f"{root / path}: {wnid} is none of ImageNet's 1,000 classes; remove it")
    return numbers[wnid]
