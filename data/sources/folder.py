"""`folder:<path>`: pictures sorted into folders, a class a sub-folder.

    <path>/train/<class>/<picture>      with val/ and test/ beside train/, or
    <path>/<class>/<picture>            one split, "train", to cut a "val" from with config.data.val_fraction

The classes are the sorted names of the folders of train; any script will do. Each has a picture in train at least; val
and test may lack some classes. Hidden files (.DS_Store) are passed over; any other file that is not named as a picture
is an error, so that nothing is left out in silence.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.sources import Record
from errors import UserError, did_you_mean

SPLITS = ("train", "val", "test")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Folder:
    """`files` holds paths below `root` as bytes: one compact array, also for millions of pictures."""

    root: Path
    classes: Sequence[str]
    files: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path = self.root / os.fsdecode(self.files[index])
        try:
            return {"image": path.read_bytes(), "label": int(self.labels[index]), "name": str(path)}
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from error


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument)
    held = tuple(split for split in SPLITS if (root / split).is_dir())
    return held if "train" in held else ("train",)


def load(argument: str, split: str, data_dir: str) -> Folder:
    root = root_folder(argument)
    train = root / "train" if (root / "train").is_dir() else root
    classes = _folders(train)
    if not classes:
        raise UserError(f"{train}: no class folders; expected {train}/<class>/<picture>")
    root = train if split == "train" else root / split
    held = _folders(root)
    unknown = [name for name in held if name not in classes]
    if unknown:
        raise UserError(
            f"{root / unknown[0]}: no such class in {train}{did_you_mean(unknown[0], classes)}; "
            "rename or remove the folder"
        )
    files, labels = [], []
    for label, name in enumerate(classes):
        if name in held:
            pictures = _pictures(root / name)
            if not pictures and root == train:
                raise UserError(f"{root / name}: a class without pictures; add some, or remove the folder")
            files += [f"{name}/{picture}" for picture in pictures]
            labels += [label] * len(pictures)
    if not files:
        raise UserError(f"{root}: no pictures in its class folders; expected {root}/<class>/<picture>")
    return Folder(root, classes, np.array([os.fsencode(file) for file in files]), np.array(labels, np.int32))


def root_folder(argument: str, kind: str = "folder") -> Path:
    """The folder that "kind:argument" names. Raises UserError where there is none."""
    if not argument:
        raise UserError(f"config.data.source is '{kind}:' without a path; write {kind}:/path/to/pictures")
    try:
        root = Path(argument).expanduser().absolute()
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; see config.data.source")
    except (OSError, RuntimeError) as error:  # a parent that may not be read; ~ of a user who does not exist
        raise UserError(f"{argument}: {getattr(error, 'strerror', error)}; see config.data.source") from error
    return root


def _folders(path: Path) -> tuple[str, ...]:
    """Sorted names of the folders in `path`; a picture among them is an error, since it would belong to no class."""
    names = []
    for entry in _scan(path):
        if entry.is_dir():
            names.append(entry.name)
        elif entry.name.lower().endswith(PICTURES):
            raise UserError(f"{entry.path}: a picture outside the class folders; move it into one")
    return tuple(sorted(names))


def _pictures(path: Path) -> list[str]:
    names = []
    for entry in _scan(path):
        if not entry.name.lower().endswith(PICTURES) or entry.is_dir():
            raise UserError(f"{entry.path}: not a picture ({' '.join(PICTURES)}); move or remove it")
        names.append(entry.name)
    return sorted(names)


def _scan(path: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{path}: cannot be listed ({error.strerror}); make it readable, or remove it") from error
