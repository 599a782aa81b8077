"""Small datasets with masks, in the layouts that are read."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from detection import write_image
from PIL import Image

SPLITS = {"train": "ab", "val": "c"}
CLASSES = "ground\nroad\nsky\n"
PATTERN = np.array([[0, 0, 1, 1, 255], [0, 1, 1, 2, 2], [2, 2, 2, 2, 0]], np.uint8)


def write_mask(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(values)
    if mode == "P":
        mask.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    mask.save(path)


def write_masks(root: Path, layout: str = "images", splits: Mapping[str, str] = SPLITS) -> Path:
    """An image, 3 x 5, for each letter of each split: with PATTERN, rolled by one more row each."""
    for split, names in splits.items():
        for number, name in enumerate(names):
            folders = {
                "images": (f"images/{split}", f"masks/{split}"),
                "annot": (split, f"{split}annot"),
                "voc": ("JPEGImages", "SegmentationClass"),
            }[layout]
            write_image(root / folders[0] / f"{name}.jpg", 3, 5)
            write_mask(root / folders[1] / f"{name}.png", np.roll(PATTERN, number, axis=0), "P")
        if layout == "voc":
            (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
            (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
    if layout == "images":
        (root / "classes.txt").write_text(CLASSES)
    return root
