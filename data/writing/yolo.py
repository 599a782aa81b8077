"""YOLO's text: images/<split>/<image>, labels/<split>/<name>.txt, and data.yaml with the names of the classes.

Numbers are written with all their digits, so that the boxes that are read are the same to the last bit.
"""

from pathlib import Path

import numpy as np
import yaml

from morphism.data.records import Boxed, Source
from morphism.data.writing.images import Images, counted, written

NEEDS, HOLDS = "boxes", ("boxes",)


def image_folder(split: str) -> str:
    return f"images/{split}"


def write(split: str, images: Images, source: Boxed, folder: Path) -> list[str]:
    crowds = difficult = repeated = 0
    for row, stem in zip(images.rows, images.stems, strict=True):
        objects = source.annotations(row)
        kept = objects[~(objects.crowd | objects.difficult)]
        height, width = (float(side) for side in source.sizes[row])
        boxes = kept.boxes.astype(np.float64) / (width, height, width, height)
        shares = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        lines = [
            " ".join(map(repr, (label, *share)))
            for label, share in zip(kept.classes.tolist(), shares.tolist(), strict=True)
        ]
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


def finish(folder: Path, splits: list[str], source: Source) -> list[str]:
    content = {split: f"images/{split}" for split in splits}
    names = dict(enumerate(source.targets["boxes"]))
    text = yaml.safe_dump({**content, "names": names}, allow_unicode=True, sort_keys=False)
    written(folder / "data.yaml", text.encode())
    return []
