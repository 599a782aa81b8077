"""`object_masks:<path>`: images with one file per object, as the 2018 Data Science Bowl's nuclei come.

    <path>/<split>/<name>/images/<any>.png      one image
    <path>/<split>/<name>/masks/<any>.png       one mask per object, of the image's size; any pixel above 0 is inside
    <path>/<name>/images/, masks/               one split, "train", to cut a "val" from with config.data.val_fraction

<split> is train, val (or valid, validation, dev) or test. All objects are of one class, "object". Masks may overlap:
each object keeps all its pixels. A mask without a pixel is dropped, and counted. An image may have no masks folder, and
then has no objects. Opening a split reads all masks, in threads; boxes are tight around them.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from morphism.data import orientation
from morphism.data.annotations import image_size, pack, packed_names
from morphism.data.file_source import BoxedFiles
from morphism.data.files import entries, is_folder, read_bytes, scan
from morphism.data.id_maps import IdMap
from morphism.data.masks import check_header
from morphism.data.outlines import Outlines
from morphism.data.sources import VALIDATION
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError, skippable

SPLITS = ("train", *VALIDATION, "test")
CLASSES = ("object",)


class _Object(NamedTuple):
    box: Float[np.ndarray, "4"]
    area: int
    outline: bytes


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, "object_masks")
    held = tuple(split for split in SPLITS if (root / split).is_dir() and not (root / split / "images").is_dir())
    return held or ("train",)


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return CLASSES


def load(argument: str, split: str, data_dir: str) -> BoxedFiles:
    root = root_folder(argument, "object_masks")
    folder = root / split if (root / split).is_dir() and split in splits(argument, data_dir) else root
    names, files = _images(folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = np.array(list(pool.map(image_size, [folder / file for file in files])), np.int32).reshape(-1, 2)
        found = list(pool.map(_objects, [folder / name for name in names], sizes))
    objects = [[each for each in held if each] for held in found]
    counts, flat = [len(each) for each in objects], [each for held in objects for each in held]
    store = pack(
        owner=np.repeat(np.arange(len(found)), counts),
        boxes=np.array([each.box for each in flat], np.float64).reshape(-1, 4),
        classes=np.zeros(len(flat), np.int32),
        sizes=sizes,
        name=lambda index: str(folder / names[index] / "masks"),
        where=str(folder),
        area=np.array([each.area for each in flat], np.float64),
        outlines=Outlines.of(each.outline for each in flat),
        notes=_empty_masks([folder / name / "masks" for name in names], [held.count(None) for held in found]),
    )
    return BoxedFiles(
        root=folder,
        files=packed_names(files),
        classes=CLASSES,
        category_ids=(1,),
        image_ids=np.array(names),
        sizes=sizes,
        store=store,
    )


def _images(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the records, and the image of each as a path below `folder`."""
    names, files = [], []
    for name in [entry.name for entry in entries(folder) if is_folder(entry)]:
        with skippable():
            images = scan(folder / name / "images").images
            if len(images) != 1:
                raise UserError(
                    f"{folder / name / 'images'}: holds {len(images)} images, not one; remove the folder, or mend it"
                )
            names.append(name)
            files.append(f"{name}/images/{images[0]}")
    if not names:
        raise UserError(f"{folder}: no images; expected {folder}/<name>/images/<name>.png next to masks/")
    return names, files


def _objects(folder: Path, size: np.ndarray) -> list[_Object | None]:
    """The objects of a record, None for a mask without a pixel. Inside errors.noting, broken masks are left out."""
    found = []
    files = scan(folder / "masks").images if (folder / "masks").is_dir() else []
    for path in [folder / "masks" / file for file in files]:
        with skippable():
            found.append(_object(_inside(path, size)))
    return found


def _object(inside: Bool[np.ndarray, "h w"]) -> _Object | None:
    found = IdMap.of(inside.astype(np.uint8))
    row = found.rows(np.ones(1, np.int64))
    return _Object(found.boxes[row[0]], int(found.areas[row[0]]), found.outlines(row)[0]) if row[0] >= 0 else None


def _empty_masks(folders: Sequence[Path], counts: Sequence[int]) -> list[str]:
    """A line on masks without a pixel, given their number in each folder."""
    odd = [folder for folder, count in zip(folders, counts, strict=True) if count]
    return [f"{sum(counts):,} masks without a pixel (dropped), first in {odd[0]}"] if odd else []


def _inside(path: Path, size: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """The pixels within a mask. Raises UserError if it cannot be read or has another size than its image."""
    encoded = read_bytes(path)
    try:
        with Image.open(file := io.BytesIO(encoded)) as mask:
            check_header(mask, file, str(path))
            pixels = np.asarray(mask.convert("RGB") if mask.mode not in ("1", "L", "I", "I;16") else mask)
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        reason = str(error).split(" <")[0].rstrip(".")
        raise UserError(f"{path}: cannot be decoded ({reason}); replace or remove it") from error
    if pixels.shape[:2] != tuple(size.tolist()):
        raise UserError(
            f"{path}: is {pixels.shape[1]} x {pixels.shape[0]}, its image is {size[1]} x {size[0]}: masks must have "
            f"their image's size{orientation.hint(size.tolist(), pixels.shape[:2])}"
        )
    return (pixels > 0).any(axis=2) if pixels.ndim == 3 else pixels > 0
