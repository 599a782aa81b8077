"""A class per pixel: images/<split>/<image>, masks/<split>/<name>.png, and classes.txt with names and numbers."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from morphism.data.records import Source
from morphism.data.writing.images import Images, written
from morphism.labels import IGNORE

NEEDS, HOLDS = "segmentation", ("segmentation",)


def image_folder(split: str) -> str:
    return f"images/{split}"


def write(split: str, images: Images, source: Source, folder: Path) -> list[str]:
    for row, stem in zip(images.rows, images.stems, strict=True):
        encoded = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(source[row]["segmentation"])).save(encoded, "PNG")
        written(folder / "masks" / split / f"{stem}.png", encoded.getvalue())
    return []


def finish(folder: Path, splits: list[str], classes: Sequence[str]) -> list[str]:
    names, own = [], list(classes)
    for name in own:
        names.append(_readable(name, {*names, *own} - {name}))
    lines = [*(f"{name} {number}" for number, name in enumerate(names)), f"ignore {IGNORE}"]
    written(folder / "classes.txt", "".join(f"{line}\n" for line in lines).encode())
    renamed = [f"{before!r} (written as {name!r})" for before, name in zip(own, names, strict=True) if before != name]
    return [f"the names of classes {', '.join(renamed)}"] if renamed else []


def _readable(name: str, others: set[str]) -> str:
    """`name` as classes.txt can hold it: without #, further spaces or a number as its last word, and not "ignore"."""
    words = name.replace("#", "_").split() or ["_"]
    while len(words) > 1 and words[-1].isdecimal():
        words[-2:] = [f"{words[-2]}_{words[-1]}"]
    found = " ".join(words) if words != ["ignore"] else "ignore_"
    while found != name and found in others:
        found += "_"
    return found
