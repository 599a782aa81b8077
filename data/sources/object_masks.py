"""`object_masks:<path>`: images with one file per object, as the 2018 Data Science Bowl's nuclei come.

    <path>/<split>/<name>/images/<any>.png      one image
    <path>/<split>/<name>/masks/<any>.png       one mask per object, of the image's size; any pixel above 0 is inside
    <path>/<name>/images/, masks/               one split, "train", to cut a "val" from with config.data.val_fraction

<split> is train, val (or valid, validation, dev) or test, or stage1_train, or stage1_test if it has masks. All objects
are of one class, "object". Masks may overlap: each object keeps all its pixels. A mask without a pixel is dropped, and
counted. An image may have no masks folder, and then has no objects. Opening a split reads all masks, in threads; boxes
are tight around them.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from morphism.data import orientation
from morphism.data.annotations import image_size, pack, packed_names
from morphism.data.file_source import BoxedFiles
from morphism.data.files import entries, is_folder, read_bytes, scan
from morphism.data.id_maps import IdMap, stored_pixels
from morphism.data.layouts import SAMPLE, Layout, Look, Seen, split_of, splits_among
from morphism.data.outlines import Outlines
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError, skippable

CLASSES = ("object",)
LAYOUT = Layout("images with a PNG per object", "<name>/images/ with one image, next to <name>/masks/", rank=1)
STAGE = "stage1_"  # as the Data Science Bowl calls its splits


class _Object(NamedTuple):
    box: Float[np.ndarray, "4"]
    area: int
    outline: bytes


def seen(look: Look) -> Seen:
    inside = [look.below(name) for name in _split_folders(look).values()] or [look]
    folders = [inside[0].below(name) for name in inside[0].folders[:SAMPLE]]
    alone = [each for each in folders if len(each.below("images").images) == 1 and not split_of(each.path.name)]
    masks = any(each.below("masks").images for each in alone)
    one_each = len(alone) == len(folders) > 0
    return Seen.of(("<name>/images/ with one image", one_each), ("<name>/masks/ with an image per object", masks))


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    return tuple(_split_folders(Look(root_folder(argument, "object_masks")))) or ("train",)


def _split_folders(look: Look) -> dict[str, str]:
    """Split -> the name of its folder; of those called stage1_..., only those that have masks."""
    held = {split: name for split, name in look.splits().items() if not look.below(name).folder("images")}
    stages = splits_among(name.removeprefix(STAGE) for name in look.folders if name.startswith(STAGE))
    labelled = {split: f"{STAGE}{name}" for split, name in stages.items() if _has_masks(look.below(f"{STAGE}{name}"))}
    return held or labelled


def _has_masks(look: Look) -> bool:
    return any(look.below(name).folder("masks") for name in look.folders[:SAMPLE])


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return CLASSES


def load(argument: str, split: str, data_dir: str) -> BoxedFiles:
    root = root_folder(argument, "object_masks")
    folder = root / _split_folders(Look(root)).get(split, ".")
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
    mode, pixels = stored_pixels(read_bytes(path), str(path))
    if pixels.shape[:2] != tuple(size.tolist()):
        raise UserError(
            f"{path}: is {pixels.shape[1]} x {pixels.shape[0]}, its image is {size[1]} x {size[0]}: masks must have "
            f"their image's size{orientation.hint(size.tolist(), pixels.shape[:2])}"
        )
    bands = pixels.reshape(*pixels.shape[:2], -1)
    return (bands[..., : 1 if mode == "LA" else 3] > 0).any(axis=2)  # without alpha
