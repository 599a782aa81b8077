"""`imagenet:<folder>`: ImageNet's images as they are passed around, to evaluate on, without preparing anything.

    <folder>/.../<wnid>_<anything>.JPEG    or    <folder>/.../<wnid>/.../<anything>.JPEG

such as n01440764_10026.JPEG. The class is the place of the WordNet id among ImageNet's 1,000 in their order, which is
the one that every public classifier was trained in; the folder may hold any part of them. One split, "val".
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from morphism.data import files
from morphism.data.sources import tfds
from morphism.data.sources.folder import Folder, root_folder
from morphism.errors import UserError, skippable

WNID = re.compile(r"n\d{8}(?=_|$)")


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    return ("val",)


def classes(argument: str, data_dir: str) -> Sequence[str]:
    return tfds.classes("imagenet2012", data_dir)


def load(argument: str, split: str, data_dir: str) -> Folder:
    root = root_folder(argument, "imagenet")
    names = classes(argument, data_dir)
    numbers = {name: number for number, name in enumerate(names)}
    listed = files.scan(root)
    if not listed.images:
        raise UserError(f"{root}: no images below this folder")
    labels = {}
    for path in listed.images:
        with skippable():
            labels[path] = _label(path, root, numbers)
    packed = np.array([os.fsencode(path) for path in labels])
    numbered = np.array(list(labels.values()), np.int32)
    return Folder(root, names, packed, numbered, files.passed_over((root, listed.others)))


def _label(path: str, root: Path, numbers: dict[str, int]) -> int:
    """By the WordNet id that the image's name begins with, else that of the nearest folder named after one."""
    parts = reversed((root.name, *path.split("/")))
    wnid = next((found[0] for part in parts if (found := WNID.match(part))), None)
    if wnid is None:
        raise UserError(f"{root / path}: neither its name nor its folder begins with a WordNet id, such as n01440764_")
    if wnid not in numbers:
        raise UserError(f"{root / path}: {wnid} is none of ImageNet's 1,000 classes; remove it")
    return numbers[wnid]
