"""Writes a dataset as another one: `coco:FOLDER`, `yolo:FOLDER` or `masks:FOLDER`, as the sources of these kinds read.

Each format is one file in this folder, with

    NEEDS, HOLDS                     the target that it needs, and all those that it holds
    image_folder(split)              where it has the images of a split
    write(split, images, source, folder) -> lines on what it cannot hold
    finish(folder, splits, classes) -> the same, of what is written once for all splits

Images are not decoded: a file becomes a hard link, or a copy where that cannot be; an image without a file is written
as it is stored. The folder appears when all of it is written: until then it is FOLDER.partial, which a second try goes
on with.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from morphism.data.derived import carried
from morphism.data.records import Source
from morphism.data.sources import VALIDATION
from morphism.data.writing import coco, masks, yolo
from morphism.data.writing.images import place
from morphism.data.writing.partial import partial_folder
from morphism.errors import UserError, check_choice

FORMATS: dict[str, ModuleType] = {"coco": coco, "yolo": yolo, "masks": masks}
SPLITS = ("train", "val", "test")


class Part(NamedTuple):
    """A split, and those of its records that can be read."""

    split: str
    source: Source
    rows: Int[np.ndarray, "n"]


class Target(NamedTuple):
    kind: str
    folder: Path


def parse(text: str) -> Target:
    """Reads "FORMAT:FOLDER". Raises UserError for an unknown format, and for a folder that holds something."""
    kind, colon, folder = text.partition(":")
    if not colon or not folder:
        raise UserError(f"--write {text}: write a format, a colon and a folder, such as --write coco:/data/as_coco")
    check_choice("--write", kind, FORMATS)
    path = Path(folder).expanduser().absolute()
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"--write {text}: {path} is there already; name a new folder, or remove it")
    return Target(kind, path)


def write(target: Target, parts: Sequence[Part]) -> list[str]:
    """Writes all splits, which `check` has accepted. Returns lines that say what was written, and what is not held.

    Raises UserError if it cannot be written.
    """
    module = FORMATS[target.kind]
    names = [_name(part.split, target.kind) for part in parts]
    lines = []
    try:
        with partial_folder(target.folder) as folder:
            for name, part in zip(names, parts, strict=True):
                kept = part.rows[carried(part.source, module.NEEDS)[part.rows]]
                images = place(part.source, kept, folder, module.image_folder(name))
                lines.append(f"written: {target.kind}:{target.folder} {name}: {images.account}")
                left = len(part.source) - len(kept)
                without = [f"{left:,} records that are bad or not annotated (left out)"] if left else []
                unheld = [*without, *module.write(name, images, part.source, folder), *_others(part, module)]
                lines += [f"not held by {target.kind}: {'; '.join(unheld)}"] if unheld else []
            renamed = module.finish(folder, names, parts[0].source.targets[module.NEEDS])
            lines += [f"not held by {target.kind}: {line}" for line in renamed]
    except OSError as error:
        raise UserError(f"--write {target.kind}:{target.folder}: {error.strerror} ({error.filename})") from error
    return lines


def _name(split: str, kind: str) -> str:
    own = split.partition("[")[0]
    name = "val" if own in VALIDATION else own
    if name not in SPLITS:
        raise UserError(f"--write: {kind}: has no split {split}; choose one of {', '.join(SPLITS)} with --split")
    return name


def check(target: Target, splits: Mapping[str, Source]) -> None:
    """Raises UserError if a split lacks the format's target, has a name that is not read, or that of another one."""
    module = FORMATS[target.kind]
    names = [_name(split, target.kind) for split in splits]
    if len(set(names)) < len(names):
        raise UserError(f"--write: the splits {', '.join(splits)} have one name; choose one with --split")
    for source in splits.values():
        _check(source, module, target.kind)


def _check(source: Source, module: ModuleType, kind: str) -> None:
    if module.NEEDS in source.targets:
        return
    fitting = [name for name, each in FORMATS.items() if each.NEEDS in source.targets]
    remedy = f"write {' or '.join(f'{name}:' for name in fitting)}" if fitting else "folders of classes need no copy"
    raise UserError(f"--write: {kind}: holds {module.NEEDS}, the data has {' and '.join(source.targets)}; {remedy}")


def _others(part: Part, module: ModuleType) -> list[str]:
    held = [name for name in part.source.targets if name not in module.HOLDS]
    return [f"its {' and '.join(held)}"] if held else []
