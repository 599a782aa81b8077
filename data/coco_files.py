"""Where COCO's JSON files and their images lie: one JSON per split, by any of its usual names, or one alone."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from morphism.data.layouts import SPLITS, Look, json_keys, split_of
from morphism.errors import UserError, skippable

KEYS = ("images", "annotations", "categories")
HOLDERS = ("annotations", "annotation", "annots", "labels")  # folders of JSON files, in any case
OF_OTHERS = {"captions", "keypoints", "panoptic", "stuff", "info"}  # words in the names of COCO's other files
MOST = 20  # JSON files that are looked into


def home(root: Path) -> Path:
    """The folder of the dataset, where `root` may be its JSON."""
    if not root.is_file():
        return root
    return root.parent.parent if root.parent.name.lower() in HOLDERS else root.parent


def annotation_files(root: Path) -> dict[str, Path]:
    """Split -> its JSON; for `root` itself a JSON that is "train".

    By COCO's names and Roboflow's; else by the one word in a file's name that is a split; else the only JSON in COCO's
    format, which is "train". Two files for one split are none.
    """
    if root.is_file():
        return {"train": root}
    usual = {split: path for split in SPLITS if (path := _usual(root, split))}
    if usual:
        return usual
    look = Look(root)
    within = {split: _only(_coco_files(look.below(name))) for split, name in look.splits().items()}
    if found := {split: path for split, path in within.items() if path}:
        return found
    every = _every(look)
    named: dict[str, list[Path]] = {}
    for path in every:
        if split := _split_named(path.stem):
            named.setdefault(split, []).append(path)
    found = {split: path for split in SPLITS if (path := _only(named.get(split, [])))}
    alone = _only(every)
    return found or ({"train": alone} if alone else {})


def any_files(look: Look) -> list[str]:
    """The names of JSON files in COCO's format, whether or not they can be told apart."""
    return [str(path.relative_to(look.path)) for path in _every(look)]


def is_coco(path: Path) -> bool:
    return path.suffix.lower() == ".json" and set(KEYS) <= json_keys(path, KEYS)


def _every(look: Look) -> list[Path]:
    folders = [look, *(look.below(name) for name in look.folders if name.lower() in HOLDERS)]
    return [path for each in folders for path in _coco_files(each)]


def _usual(root: Path, split: str) -> Path | None:
    names = (f"instances_{split}2017", f"instances_{split}2014", f"instances_{split}", split)
    candidates = [root / "annotations" / f"{name}.json" for name in names]
    candidates += [root / f"{split}.json", root / split / "_annotations.coco.json"]
    return next((path for path in candidates if path.is_file()), None)


def _coco_files(look: Look) -> list[Path]:
    """The JSON files in a folder that are in COCO's format with boxes, of the first MOST."""
    names = [name for name in look.files if name.lower().endswith(".json")]
    names = [name for name in names if not OF_OTHERS & set(_words(name))][:MOST]
    return [look.path / name for name in names if is_coco(look.path / name)]


def _split_named(stem: str) -> str:
    found = {split for word in _words(stem) if (split := split_of(word))}
    return found.pop() if len(found) == 1 else ""


def _words(name: str) -> list[str]:
    return re.findall("[a-z]+", name.lower())


def _only(paths: Sequence[Path]) -> Path | None:
    return paths[0] if len(paths) == 1 else None


def image_folder(root: Path, split: str, file_names: Sequence[str], path: Path) -> tuple[Path, list[str], list[str]]:
    """The folder that holds the images that `path` lists, their names in it, and a line on what was odd, if anything.

    It is the first folder that holds the first image, or else any other. If none holds any, the last part of each name
    is looked for, since the names may be those of another machine. Raises UserError if the folder lacks an image.
    """
    root = home(root)
    folders = list(dict.fromkeys(each for each in _folders(root, split, path) if each.is_dir()))
    names, odd = list(file_names), []
    folder = _holding(folders, names)
    if folder is None and any("/" in name for name in names):
        last = [name.rpartition("/")[2] for name in names]
        if len(set(last)) == len(set(names)) and (folder := _holding(folders, last)):
            odd = [
                f"{len(names):,} images named with folders that are not there (the last part counts), first {names[0]}"
            ]
            names = last
    if folder is None:
        usual = ", ".join(_usual_folders(split))
        raise UserError(f"{path}: no image {names[0]} in {root}'s {usual}; put the images into one")
    with os.scandir(folder) as entries:
        listed = {entry.name for entry in entries}
    for name in names:
        with skippable(raised_again=True):
            if name not in listed and not (folder / name).is_file():
                raise UserError(f"{path}: no image {folder / name}; add it, or remove its entry")
    return folder, names, odd


def _usual_folders(split: str) -> tuple[str, ...]:
    return (f"{split}2017", f"{split}2014", split, f"images/{split}2017", f"images/{split}", "images", ".")


def _folders(root: Path, split: str, path: Path) -> Iterable[Path]:
    yield from (root / name for name in _usual_folders(split))
    yield from (path.parent, path.parent / "images", root / split / "images")
    for name in (look := Look(root)).folders:  # the folder may be called anything
        yield root / name
        yield from (root / name / inner for inner in look.below(name).folders)


def _holding(folders: Iterable[Path], names: Sequence[str]) -> Path | None:
    return next((each for name in names for each in folders if (each / name).is_file()), None)
