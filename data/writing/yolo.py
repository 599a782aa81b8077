"""YOLO's text: images/<split>/<image>, labels/<split>/<name>.txt, and data.yaml with the names of the classes.

Numbers are written with all their digits, so that the boxes that are read are the same to the last bit.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float32

from morphism.data.records import Boxed
from morphism.data.writing.images import Images, counted, written

NEEDS, HOLDS = "boxes", ("boxes",)


def image_folder(split: str) -> str:
    return f"images/{split}"


def write(split: str, images: Images, source: Boxed, folder: Path) -> list[str]:
    crowds = difficult = repeated = 0
    for row, stem in zip(images.rows, images.stems, strict=True):
        objects = source.annotations(row)
        kept = objects[~(objects.crowd | objects.difficult)]
        height, width = (int(side) for side in source.sizes[row])
        lines = [line(label, box, height, width) for label, box in zip(kept.classes.tolist(), kept.boxes, strict=True)]
        crowds += int(objects.crowd.sum())
        difficult += int((objects.difficult & ~objects.crowd).sum())
        repeated += len(lines) - len(set(lines))
        text = "".join(f"{line}\n" for line in dict.fromkeys(lines))
        written(folder / "labels" / split / f"{stem}.txt", text.encode())
    return counted(
        (
            (crowds, "crowds (left out)"),
            (difficult, "difficult objects (left out)"),
            (repeated, "objects with the box and class of another one of their image (left out)"),
        )
    )


def line(label: int, box: Float32[np.ndarray, "4"], height: int, width: int) -> str:
    """class cx cy w h; the box is x0, y0, x1, y1 in pixels."""
    x0, y0, x1, y1 = box.astype(np.float64).tolist()
    return " ".join(
        map(repr, (label, (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height))
    )


def finish(folder: Path, splits: list[str], classes: Sequence[str]) -> list[str]:
    content = {split: f"images/{split}" for split in splits}
    names = dict(enumerate(classes))
    text = yaml.safe_dump({**content, "names": names}, allow_unicode=True, sort_keys=False)
    written(folder / "data.yaml", text.encode())
    return []
