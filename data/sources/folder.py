"""`folder:<path>`: images sorted into folders, one sub-folder per class.

    <path>/train/<class>/.../<image>    with val/ (or valid/, ...) and test/ next to train/, or any of these alone, also
                                        in capitals, and as training/ and testing/, or
    <path>/<class>/.../<image>          one split, "train", to cut a "val" from with config.data.val_fraction, or to
                                        evaluate as other data: eval.py --source folder:<path> --split train

The classes are the sorted names of the class folders of train, or without train of all splits, in any script. Each has
at least one image in train; val and test may lack some. Folders within a class folder belong to the class. A folder
`train` that holds images itself is a class of that name. Files that are not images, and images outside the class
folders, are skipped, counted and reported; data/files.py says what counts as an image, and what is hidden. If no class
folder holds images itself, but only folders of them, that is reported too: these may be the classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from morphism.data import files
from morphism.data.annotations import packed_names
from morphism.data.file_source import FileSource
from morphism.data.layouts import SAMPLE, SPELLINGS, SPLITS, Layout, Look, Seen
from morphism.errors import UserError, did_you_mean, skippable

OTHERWISE = {split: spelling for spelling, split in SPELLINGS.items()}  # other names of split folders
SHOWN = 100  # class folders that are looked into
LAYOUT = Layout("class folders", "a folder per class, two or more, with images in each", rank=2)
# What other formats call their folders; class folders of these names need the kind before the path.
PARTS = {
    *("images", "image", "imgs", "img", "jpegimages", "data", "labels", "masks", "mask", "annotations", "annots"),
    *(
        "annotation",
        "segmentationclass",
        "segmentationobject",
        "imagesets",
        "gt",
        "groundtruth",
        "leftimg8bit",
        "gtfine",
    ),
}


@dataclass(frozen=True)
class Folder(FileSource):
    """Image files with a class each."""

    target = "label"

    labels: Int[np.ndarray, "records"]
    oddities: str

    def truth(self, index: int) -> dict[str, Any]:
        return {"label": int(self.labels[index])}


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    return tuple(_split_folders(root_folder(argument))) or ("train",)


def seen(look: Look) -> Seen:
    held = look.splits()
    inside = look.below(next(iter(held.values()))) if held and set(held.values()) >= set(look.folders) else look
    inside = look.below(held["train"]) if "train" in held else inside
    if inside.images and not inside.folders and len(held) == 1:
        inside = look  # a class of that name
    named = [name for name in inside.folders if name.lower() not in PARTS]
    filled = [name for name in named[:SHOWN] if inside.below(name).holds_images()]
    empty = [f"images in {name}/" for name in named[:SHOWN] if name not in filled][:2]
    within = [inside.below(name) for name in filled]
    plain = any(each.images for each in within) and not any(map(_is_annotated, within[:SAMPLE]))
    if len(filled) < 2 or len(named) < len(inside.folders) or not plain:
        loose = [f"images in {inside.path.name}/ itself"] if inside.images else []
        return Seen((*(f"images in {name}/" for name in filled[:1]), *loose), (LAYOUT.needs,))
    return Seen(("a folder per class",), tuple(empty))


def _is_annotated(look: Look) -> bool:
    """Whether a folder is a dataset of its own, with annotations next to its images, or a folder of them."""
    stems = [os.path.splitext(image)[0] for image in look.images]
    beside = any((look.path / f"{stem}{suffix}").is_file() for stem in stems for suffix in (".xml", ".txt", ".json"))
    return beside or sum(name.lower() in PARTS for name in look.folders) > 1


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument)
    return _classes(root, _split_folders(root))[1]


def _classes(root: Path, held: dict[str, str]) -> tuple[Path, tuple[str, ...]]:
    """The first folder of classes, and the names of all."""
    reference = [root / name for each, name in held.items() if each == "train" or "train" not in held] or [root]
    classes = tuple(sorted({name for folder in reference for name in _class_folders(folder)}))
    if not classes:
        raise UserError(f"{reference[0]}: no class folders; expected {reference[0]}/<class>/<image>")
    return reference[0], classes


def load(argument: str, split: str, data_dir: str) -> Folder:
    root = root_folder(argument)
    held = _split_folders(root)
    reference, classes = _classes(root, held)
    root = root / held[split] if held else root
    present = _class_folders(root)
    for name in present:
        with skippable():
            if name not in classes:
                raise UserError(
                    f"{root / name}: no such class in {reference}; rename or remove the folder"
                    f"{did_you_mean(name, classes)}"
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
    lines = (files.passed_over(*others), _loose(root), _nested(root, found))
    oddities = "; ".join(filter(None, lines))
    return Folder(root, packed_names(found), classes, np.array(labels, np.int32), oddities)


def root_folder(argument: str, kind: str = "folder", *suffixes: str) -> Path:
    """The folder, or file with one of `suffixes`, that "kind:argument" names. Raises UserError if there is none."""
    if not argument:
        raise UserError(f"config.data.source is '{kind}:' without a path; write {kind}:/path/to/images")
    try:
        root = Path(argument).expanduser().absolute()
        if not root.is_dir() and not (root.is_file() and root.suffix.lower() in suffixes):
            raise UserError(f"{root}: no such folder; correct the path after {kind}:")
    except (OSError, RuntimeError) as error:  # a parent that may not be read; ~ of a user who does not exist
        raise UserError(f"{argument}: {getattr(error, 'strerror', error)}; correct the path after {kind}:") from error
    return root


def _split_folders(root: Path) -> dict[str, str]:
    """Maps the splits that `root` holds, as folders of class folders, to the names of these folders.

    Empty if `root` itself holds the class folders of a single split.
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
    """Whether `folder` holds images but no folders: then it belongs to a class, not to a split."""
    within = files.entries(folder)
    return any(files.is_image(entry.name) for entry in within) and not any(map(files.is_folder, within))


def _class_folders(path: Path) -> tuple[str, ...]:
    """The sorted names of the folders in `path`. Raises UserError for a folder that holds splits."""
    names = [entry.name for entry in files.entries(path) if files.is_folder(entry)]
    for name in names:
        held = [split for split in SPLITS if (path / name / split).is_dir()]
        if "train" in held and len(held) > 1:
            raise UserError(f"{path / name}: holds splits, not the images of one class; give folder:{path / name}")
    return tuple(sorted(names))


def _loose(root: Path) -> str:
    """Reports images next to the class folders, which belong to no class; "" if there are none."""
    loose = [entry.path for entry in files.entries(root) if not files.is_folder(entry) and files.is_image(entry.name)]
    return (
        f"odd files: {len(loose):,} images outside the class folders (passed over), first {loose[0]}" if loose else ""
    )


def _nested(root: Path, found: Sequence[str]) -> str:
    """Reports that none of the images `found` below `root` is in a class folder itself; "" if one is."""
    if not found or any(file.count("/") == 1 for file in found):
        return ""
    return (
        f"odd folders: all images are in folders below the class folders, first {root / os.path.dirname(found[0])}; if "
        "those are the classes, give a folder that holds them"
    )
