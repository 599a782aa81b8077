"""`masks:<path>`: images, each with a mask of the same size and name, in another folder.

    <path>/<split>/<name>.jpg           <path>/<split>annot/<name>.png       as the SegNet tutorial's CamVid
    <path>/images/<split>/<name>.jpg    <path>/masks/<split>/<name>.png
    <path>/images/<name>.jpg            <path>/masks/<name>.png              one split, "train", to cut a "val" from
    <path>/JPEGImages/<name>.jpg        <path>/SegmentationClass/<name>.png  Pascal VOC's, by the lists in
                                                                             <path>/ImageSets/Segmentation/<split>.txt

<split> is train, val (or valid, validation, dev) or test, for VOC also trainval. The folders of images may hold further
folders, and those of masks the same. The name of a mask is that of its image, optionally followed by _mask, _label or
_L, unless that is the name of another image. Each image needs one mask; masks without an image are skipped, counted and
reported.

<path>/classes.txt is the legend: one class per line, followed by the number or colour of its pixels if the number is
not the position of the line; see data/masks.py. Without the file, folders `...annot` have the classes of CamVid, and
lists as VOC's those of VOC.

Masks are read as they are stored: the indices of a palette, grey values of 1 to 16 bits, or colours. These rules are
reported once: colours that are all grey are read as grey; 16 bits are read as numbers; with two classes without
numbers, 255 is class 1 in black and white masks (see `_is_black_and_white`). The share of ignored pixels is always
reported. All of this is decided by the whole split, or if it has more than SURVEYED masks, by that many, evenly spread.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from morphism.data import orientation
from morphism.data.annotations import image_size, packed_names
from morphism.data.file_source import FileSource
from morphism.data.files import Listing, by_name, passed_over, read_bytes, read_names, read_text, scan, stamps
from morphism.data.masks import COLOURS, Legend, black_and_white, check_header, classes_of, parse_legend, read_mask
from morphism.data.sources import VALIDATION
from morphism.data.sources.folder import root_folder
from morphism.data.sources.voc import CLASSES as VOC_CLASSES
from morphism.errors import UserError, skippable
from morphism.labels import IGNORE

SPLITS = ("train", *VALIDATION, "test")
SUFFIXES = ("", "_mask", "_label", "_L")
SURVEYED = 1000  # masks whose pixels are read when a split is opened
STRAY = 0.1  # ratio of ones to whites, below which ones are strays in a black and white mask
# Badrinarayanan et al. 2015, section 4.1; 11 is void in the masks of their tutorial.
CAMVID = "sky\nbuilding\npole\nroad\npavement\ntree\nsign\nfence\ncar\npedestrian\nbicyclist\nignore 11\n"
VOC = "\n".join(("background", *VOC_CLASSES))


@dataclass(frozen=True)
class Masks(FileSource):
    """Image files with a mask each; all paths in `files` start with `image_folder`."""

    target = "segmentation"

    image_folder: str
    mask_files: np.ndarray
    sizes: Int[np.ndarray, "images 2"]
    legend: Legend
    oddities: str

    @property
    def image_ids(self) -> np.ndarray:
        return np.array([os.path.splitext(os.fsdecode(file))[0][len(self.image_folder) + 1 :] for file in self.files])

    @property
    def mask_stamps(self) -> Int[np.ndarray, "records"]:
        return stamps(self.root / os.fsdecode(file) for file in self.mask_files)

    def truth(self, index: int) -> dict[str, Any]:
        path = self.root / os.fsdecode(self.mask_files[index])
        return {"segmentation": read_mask(read_bytes(path), str(path), self.legend)}


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    return tuple(_layout(root_folder(argument, "masks")))


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return _legend(root_folder(argument, "masks")).classes


def load(argument: str, split: str, data_dir: str) -> Masks:
    root = root_folder(argument, "masks")
    images, masks, listed = _layout(root)[split]
    found, found_masks = scan(root / images), scan(root / masks)
    pairs = _pairs(root / images, root / masks, found, found_masks, root / listed if listed else None)
    without = sorted(set(found_masks.images) - {mask for _, mask in pairs})
    files, mask_files = [f"{images}/{image}" for image, _ in pairs], [f"{masks}/{mask}" for _, mask in pairs]
    paths, mask_paths = [root / file for file in files], [root / file for file in mask_files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = np.array(list(pool.map(image_size, paths)), np.int32).reshape(-1, 2)
        modes = list(pool.map(_mode, mask_paths, paths, sizes))
    legend, odd = _survey(mask_paths, modes, _legend(root))
    if without and not listed:
        odd.append(f"{len(without):,} without an image (passed over), first {root / masks / without[0]}")
    lines = (
        "" if listed else passed_over((root / images, found.others), (root / masks, found_masks.others)),
        f"odd masks in {root / (listed or masks)}: {'; '.join(odd)}" if odd else "",
    )
    return Masks(
        root=root,
        image_folder=images,
        classes=legend.classes,
        files=packed_names(files),
        mask_files=packed_names(mask_files),
        sizes=sizes,
        legend=legend,
        oddities="; ".join(filter(None, lines)),
    )


def _layout(root: Path) -> dict[str, tuple[str, str, str]]:
    """For each split the folders of images and masks, and the list of names or "", as paths from `root`."""
    lists = "ImageSets/Segmentation"
    held = [split for split in (*SPLITS, "trainval") if (root / lists / f"{split}.txt").is_file()]
    if held:
        return {split: ("JPEGImages", "SegmentationClass", f"{lists}/{split}.txt") for split in held}
    found = {}
    for split in SPLITS:
        for images, masks in ((split, f"{split}annot"), (f"images/{split}", f"masks/{split}")):
            if (root / images).is_dir() and (root / masks).is_dir():
                found[split] = (images, masks, "")
    if not found and (root / "images").is_dir() and (root / "masks").is_dir():
        return {"train": ("images", "masks", "")}
    if not found:
        raise UserError(
            f"{root}: no images with masks; expected train/ next to trainannot/, images/train/ next to masks/train/, "
            "or images/ next to masks/"
        )
    return found


def _pairs(
    images: Path, masks: Path, found: Listing, found_masks: Listing, listed: Path | None
) -> list[tuple[str, str]]:
    """Pairs of paths, of each image and its mask, whose name is that of the image followed by one of SUFFIXES.

    All masks have the same suffix if one fits all images; else each image its own. Raises UserError for an image
    without a mask or with two, and where its only mask has the whole name of another image.
    """
    files, mask_files = by_name(images, found.images), by_name(masks, found_masks.images)
    names = read_names(listed, files) if listed else list(files)
    for name in names:
        with skippable():
            if name not in files:
                raise UserError(f"{images / name}.jpg: no such image; add it, or mend {listed}")
    names = [name for name in names if name in files]

    def fits(name: str, suffix: str) -> bool:
        mask = name + suffix
        return mask in mask_files and (not suffix or mask not in files or mask + suffix in mask_files)

    common = next((suffix for suffix in SUFFIXES if all(fits(name, suffix) for name in names)), None)
    chosen = {}
    for name in names:
        held = [name + suffix for suffix in SUFFIXES if fits(name, suffix)]
        with skippable():
            if common is None and len(held) != 1:
                image = images / files[name]
                if held:
                    both = " and ".join(mask_files[each] for each in held[:2])
                    raise UserError(f"{image}: has the masks {both} in {masks}; remove one")
                raise UserError(f"{image}: no mask {masks / name}.png; add it, or remove the image")
            chosen[name] = held[0] if common is None else name + common
    return [(files[name], mask_files[mask]) for name, mask in chosen.items()]


def _legend(root: Path) -> Legend:
    path = root / "classes.txt"
    if path.is_file():
        return parse_legend(read_text(path), str(path))
    if (root / "ImageSets" / "Segmentation").is_dir():
        return parse_legend(VOC, f"VOC, for want of your own in {path}")
    if any((root / f"{split}annot").is_dir() for split in SPLITS):
        return parse_legend(CAMVID, f"CamVid, for want of your own in {path}")
    raise UserError(f"{path}: no such file; write it with a class's name per line, in the order of their numbers")


def _mode(mask: Path, image: Path, size: np.ndarray) -> str:
    """Pillow's mode of a mask. Raises UserError if it cannot be read or has another size than its image.

    Inside errors.noting such a mask has the mode "".
    """
    mode = ""
    with skippable(raised_again=True):
        mode = _checked_mode(mask, image, size)
    return mode


def _checked_mode(mask: Path, image: Path, size: np.ndarray) -> str:
    try:
        with mask.open("rb") as file, Image.open(file) as opened:
            check_header(opened, file, str(mask))
            width, height = opened.size
            mode = opened.mode
    except OSError as error:
        reason = str(error).split(" '")[0].split(" <")[0]
        raise UserError(f"{mask}: cannot be decoded ({reason}); replace or remove it") from error
    if (height, width) != tuple(size.tolist()):
        raise UserError(
            f"{image} is {size[1]} x {size[0]} but its mask {mask} is {width} x {height}: masks must have their "
            f"image's size{orientation.hint(size.tolist(), (height, width))}"
        )
    return mode


def _survey(paths: Sequence[Path], modes: Sequence[str], legend: Legend) -> tuple[Legend, list[str]]:
    """The legend that fits masks stored in `modes`, and what was odd about them.

    Raises UserError if all their pixels are ignored.
    """
    odd = []
    if not legend.colours and (grey := sum(mode in COLOURS for mode in modes)):
        odd.append(f"{grey:,} stored in colours (read as grey)")
    if deep := sum(mode.startswith("I") for mode in modes):
        odd.append(f"{deep:,} of 16 bits (read as numbers)")
    rows = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), SURVEYED)).astype(int))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = list(pool.map(partial(_count, legend=legend), [paths[row] for row in rows]))
    ones, whites, ignored, pixels = np.array(counts, np.int64).reshape(-1, 4).T
    undecided = len(legend.classes) == 2 and legend.plain and not legend.colours
    if undecided and _is_black_and_white(np.where(np.array(modes, str)[rows] == "1", 0, ones), whites):
        all_are = f"all {len(paths):,}" if len(rows) == len(paths) and not ones.any() else f"{(whites > 0).sum():,}"
        odd.append(f"{all_are} black and white (255 read as {legend.classes[1]})")
        if both := ((ones > 0) & (whites > 0)).sum():
            odd.append(f"single ones in {both:,} of these (read as {legend.classes[1]})")
        legend, ignored = black_and_white(legend), ignored - whites
    if ignored.any():
        if (ignored == pixels).all() and not any(_has_classes(path, legend) for path in paths):
            raise UserError(
                f"{paths[0].parent}: all pixels of all {len(paths):,} masks are ignored by the legend of "
                f"{legend.origin}; mend them, or write each class's number behind its name in classes.txt"
            )
        share = ignored.sum() / pixels.sum()
        about = "under 0.1%" if share < 0.0005 else f"{'about ' if len(rows) < len(paths) else ''}{share:.1%}"
        odd.append(f"{about} of the pixels ignored")
    return legend, odd


def _is_black_and_white(ones: Int[np.ndarray, "masks"], whites: Int[np.ndarray, "masks"]) -> bool:
    """Whether 255 means class 1, not ignored, in masks of two classes, given each mask's count of pixels 1 and 255.

    255 is ignored if masks hold both 1 and 255, unless the ones are strays: fewer masks hold both than hold 255 alone,
    and these hold less than a tenth as many ones as 255s. Otherwise the majority decides, of masks that hold 255 alone
    and masks that hold 1 alone.
    """
    both, white, one = (ones > 0) & (whites > 0), (ones == 0) & (whites > 0), (ones > 0) & (whites == 0)
    strays = both.sum() < white.sum() and ones[both].sum() < STRAY * whites[both].sum()
    return bool(white.any() and (strays or not both.any()) and white.sum() >= one.sum())


def _count(path: Path, legend: Legend) -> tuple[int, int, int, int]:
    """Counts pixels of value 1, of value 255, ignored ones, and all. A broken mask, reported later, counts as one."""
    try:
        values, classes = classes_of(read_bytes(path), str(path), legend)
    except UserError:
        return 0, 0, 0, 1
    ones, whites = ((values == each).sum() if values.ndim == 2 else 0 for each in (1, IGNORE))
    return int(ones), int(whites), int((classes == IGNORE).sum()), classes.size


def _has_classes(path: Path, legend: Legend) -> bool:
    """Whether some pixel of the mask is not ignored."""
    _, _, ignored, pixels = _count(path, legend)
    return ignored < pixels
