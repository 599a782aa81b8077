"""Where the files of a YOLO dataset lie: the images of each split, their labels, the names of classes.

`root` is the folder, or its data.yaml. Paths are relative to the folder.
"""

import os
from pathlib import Path
from typing import Any

from morphism.data import yolo_text
from morphism.data.files import Listing, is_image, listed_path, read_lines, scan
from morphism.data.layouts import SAMPLE, SPLITS, Look, splits_among
from morphism.data.yolo_text import DESCRIPTIONS, NAMES
from morphism.errors import UserError, skippable


def home(root: Path) -> Path:
    return root.parent if root.is_file() else root


def description(root: Path) -> Path | None:
    """data.yaml, by any of its names; or the only other YAML with names of classes."""
    if root.is_file():
        return root
    usual = next((root / name for name in DESCRIPTIONS if (root / name).is_file()), None)
    if usual:
        return usual
    others = [root / name for name in Look(root).files if name.lower().endswith((".yaml", ".yml"))]
    others = [path for path in others[:SAMPLE] if describes(path)]
    return others[0] if len(others) == 1 else None


def describes(path: Path) -> bool:
    """Whether a file describes a dataset, as data.yaml does."""
    try:
        held = yolo_text.content(path) if path.suffix.lower() in (".yaml", ".yml") else {}
    except UserError:
        return False
    return {"names", "nc"} & held.keys() != set() and {"train", "val", "path"} & held.keys() != set()


def names_file(root: Path) -> Path | None:
    """The list of classes: in the folder itself, or without data.yaml with the labels."""
    folder = home(root)
    look = Look(folder)
    places = ["."] if description(root) else [".", "labels"]
    places += [f"{place}/{name}" for place in places[1:] or () for name in look.below(place).splits().values()]
    places += [] if description(root) else list(look.splits().values())
    return next(
        (folder / place / name for place in places for name in NAMES if (folder / place / name).is_file()), None
    )


def places(root: Path) -> dict[str, list[str]]:
    """For each split the folders and lists of its images."""
    described, folder = description(root), home(root)
    content = yolo_text.content(described) if described else {}
    usual, held = _usual(folder), {}
    for split in SPLITS:
        given = content.get(split)
        entries = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        found = [_place(folder, content.get("path"), each) for each in entries if isinstance(each, str) and each]
        if found and all(found):
            held[split] = found
        elif split in usual and [usual[split]] not in held.values():  # data.yaml may have named valid/ as val
            held[split] = [usual[split]]
    return held or {split: [place] for split, place in _otherwise(folder).items()}


def _usual(folder: Path) -> dict[str, str]:
    """Split -> images/<split> or <split>/images, where they are."""
    inside, outside = Look(folder / "images").splits(), Look(folder).splits()
    found = {split: f"{name}/images" for split, name in outside.items() if (folder / name / "images").is_dir()}
    return found | {split: f"images/{name}" for split, name in inside.items()}


def _otherwise(folder: Path) -> dict[str, str]:
    """Lists of images by the name of their split; images next to their labels; or one folder of each, as "train"."""
    look = Look(folder)
    lists = splits_among(name.removesuffix(".txt") for name in look.files if name.endswith(".txt"))
    lists = {split: f"{name}.txt" for split, name in lists.items() if _is_list(folder / f"{name}.txt")}
    flat = {split: name for split, name in look.splits().items() if _has_labels(look.below(name))}
    if lists or flat:
        return lists or flat
    for name in ("obj_train_data", "."):
        if _has_labels(look.below(name)):
            return {"train": name}
    return {"train": "images"} if (folder / "images").is_dir() and (folder / "labels").is_dir() else {}


def _is_list(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return is_image(file.readline(10_000).strip())


def _has_labels(look: Look) -> bool:
    """Whether a folder holds images next to YOLO's labels."""
    return bool(look.images) and any(
        yolo_text.is_labels(look.path / name) for name in look.beside(".txt") if name not in NAMES
    )


def has_labels(folder: Path, place: str) -> bool:
    """Whether the images in a folder or list have labels, as far as a look at a few can tell."""
    if (folder / place).is_file():
        first = [_listed(folder, folder / place, line) for line in read_lines(folder / place)[:SAMPLE]]
        return any((folder / f"{label_path(os.path.splitext(each)[0])}.txt").is_file() for each in first)
    found = list(Look(folder / label_path(place)).with_suffix(".txt"))
    return any(yolo_text.is_labels(path) or yolo_text.is_blank(path) for path in found if path.name not in NAMES)


def _place(folder: Path, base: Any, entry: str) -> str:
    """The path of an entry of data.yaml; "" if it does not exist. A leading ../ may be one too many."""
    bases = [folder / base] if isinstance(base, str) and base else []
    candidates = [each / entry[cut:] for each in (*bases, folder) for cut in (0, 3 * entry.startswith("../"))]
    return next((os.path.relpath(path, folder) for path in candidates if path.exists()), "")


def images(folder: Path, place: str) -> Listing:
    """The images of a folder or list, and what else is in the folder."""
    if (folder / place).is_dir():
        return Listing(*([_join(place, file) for file in files] for files in scan(folder / place)))
    listed, found = folder / place, []
    for line in dict.fromkeys(filter(None, read_lines(listed))):
        path = _listed(folder, listed, line)
        with skippable():
            if not (folder / path).is_file():
                raise UserError(f"{listed}: no image {folder / path}; add it, or remove its line")
            found.append(path)
    return Listing(found, [])


def _listed(folder: Path, listed: Path, line: str) -> str:
    """The path of an image in a list. Its first folders may be those of another place: then they are left out."""
    parts = listed_path(line).split("/")
    candidates = ("/".join(parts[start:]) for start in range(len(parts)))
    path = next((each for each in candidates if each and (listed.parent / each).is_file()), listed_path(line))
    return os.path.relpath(listed.parent / path, folder)


def in_label_folders(folder: Path, held: list[str]) -> list[str]:
    """All files but images in the folders that hold the labels of the places in `held`."""
    folders = [label_path(place) for place in held if (folder / place).is_dir()]
    there = [each for each in folders if (folder / each).is_dir()]
    return list(dict.fromkeys(_join(each, file) for each in there for file in scan(folder / each).others))


def label_path(path: str) -> str:
    """The path of the labels of an image or a folder: images/train/a -> labels/train/a."""
    before, found, after = f"/{path}/".rpartition("/images/")
    return f"{before}/labels/{after}".strip("/") if found else path


def _join(folder: str, file: str) -> str:
    return os.path.normpath(f"{folder}/{file}")
