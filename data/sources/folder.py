"""`folder:<path>`: images sorted into folders, one sub-folder per class.

    <path>/train/<class>/.../<image>    with val/ (or valid/, ...) and test/ beside train/, or any of these alone, in
                                        capitals too, and as training/ and testing/, or
    <path>/<class>/.../<image>          one split, "train", to cut a "val" from with config.data.val_fraction, or to
                                        evaluate as other data: eval.py --source folder:<path> --split train

The classes are the sorted names of the class folders of train, or without train of all splits; any script will do.
Each has an image in train at least; val and test may lack some. Folders within a class folder belong to the class. A
folder `train` that holds images itself is a class of that name. Files that are no images, and images outside the class
folders, are passed over, counted and reported; data/files.py says what counts as an image, and what is hidden. Where no
class folder holds images itself, but only folders of them, that is reported too: these may be the classes.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from morphism.data import files
from morphism.data.records import Record
from morphism.data.sources import VALIDATION
from morphism.errors import UserError, did_you_mean, skippable

SPLITS = ("train", *VALIDATION, "test")
OTHERWISE = {"train": "training", "test": "testing"}  # what folders of splits are called too


@dataclass(frozen=True)
class Folder:
    """`files` holds paths below `root` as bytes: one compact array, also for millions of images."""

    root: Path
    classes: Sequence[str]
    files: np.ndarray
    labels: np.ndarray
    oddities: str = ""

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"label": self.classes}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path = self.root / os.fsdecode(self.files[index])
        return {"image": files.read_bytes(path), "label": int(self.labels[index]), "name": str(path)}


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    return tuple(_split_folders(root_folder(argument))) or ("train",)


def load(argument: str, split: str, data_dir: str) -> Folder:
    root = root_folder(argument)
    held = _split_folders(root)
    reference = [root / name for each, name in held.items() if each == "train" or "train" not in held] or [root]
    classes = tuple(sorted({name for folder in reference for name in _class_folders(folder)}))
    if not classes:
        raise UserError(f"{reference[0]}: no class folders; expected {reference[0]}/<class>/<image>")
    root = root / held[split] if held else root
    present = _class_folders(root)
    for name in present:
        with skippable():
            if name not in classes:
                raise UserError(
                    f"{root / name}: no such class in {reference[0]}{did_you_mean(name, classes)}; "
                    "rename or remove the folder"
                )
    found, labels, others = [], [], []
    for label, name in enumerate(classes):
        if name in present:
            listed = files.scan(root / name)
            with skippable():
                if not listed.images and (split == "train" or not held):
                    raise UserError(f"{root / name}: a class without images; add some, or remove the folder")
            found += [f"{name}/{image}" for image in listed.images]
            labels += [label] * len(listed.images)
            others.append((root / name, listed.others))
    if not found:
        raise UserError(f"{root}: no images in its class folders; expected {root}/<class>/<image>")
    packed = np.array([os.fsencode(file) for file in found])
    lines = (files.passed_over(*others), _loose(root), _nested(root, found))
    return Folder(root, classes, packed, np.array(labels, np.int32), "; ".join(filter(None, lines)))


def root_folder(argument: str, kind: str = "folder") -> Path:
    """The folder that "kind:argument" names. Raises UserError where there is none."""
    if not argument:
        raise UserError(f"config.data.source is '{kind}:' without a path; write {kind}:/path/to/images")
    try:
        root = Path(argument).expanduser().absolute()
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; see config.data.source")
    except (OSError, RuntimeError) as error:  # a parent that may not be read; ~ of a user who does not exist
        raise UserError(f"{argument}: {getattr(error, 'strerror', error)}; see config.data.source") from error
    return root


def _split_folders(root: Path) -> dict[str, str]:
    """The splits that `root` holds as folders of class folders, and what these are called.

    {} where it holds the class folders of one split.
    """
    folders = [entry.name for entry in files.entries(root) if files.is_folder(entry)]
    held = {}
    for split in SPLITS:
        called = [name for name in folders if name.lower() in (split, OTHERWISE.get(split))]
        if called:
            held[split] = split if split in called else called[0]
    if "train" in held:
        return {} if _holds_images(root / held["train"]) else held
    alone = len(folders) == len(held) and not any(_holds_images(root / name) for name in held.values())
    return held if alone else {}


def _holds_images(folder: Path) -> bool:
    """Whether images lie in `folder` itself and no folders do: then it is the folder of a class, not of a split."""
    within = files.entries(folder)
    return any(files.is_image(entry.name) for entry in within) and not any(map(files.is_folder, within))


def _class_folders(path: Path) -> tuple[str, ...]:
    """Sorted names of the folders in `path`.

    Raises UserError for one that holds splits.
    """
    names = [entry.name for entry in files.entries(path) if files.is_folder(entry)]
    for name in names:
        held = [split for split in SPLITS if (path / name / split).is_dir()]
        if "train" in held and len(held) > 1:
            raise UserError(f"{path / name}: holds splits, not the images of one class; give folder:{path / name}")
    return tuple(sorted(names))


def _loose(root: Path) -> str:
    """Reports the images next to the class folders, which belong to no class."""
    loose = [entry.path for entry in files.entries(root) if not files.is_folder(entry) and files.is_image(entry.name)]
    return (
        f"odd files: {len(loose):,} images outside the class folders (passed over), first {loose[0]}" if loose else ""
    )


def _nested(root: Path, found: Sequence[str]) -> str:
    """Reports that no image, of `found` below `root`, is in a class folder itself."""
    if not found or any(file.count("/") == 1 for file in found):
        return ""
    return (
        f"odd folders: all images are in folders below the class folders, first {root / os.path.dirname(found[0])}; if "
        "those are the classes, give a folder that holds them"
    )
