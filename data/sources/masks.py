"""`masks:<path>`: images, each with a mask of the same size and name, in another folder.

    <path>/<split>/<name>.jpg           <path>/<split>annot/<name>.png       as the SegNet tutorial's CamVid
    <path>/images/<split>/<name>.jpg    <path>/masks/<split>/<name>.png
    <path>/images/<name>.jpg            <path>/masks/<name>.png              one split, "train", to cut a "val" from
    <path>/JPEGImages/<name>.jpg        <path>/SegmentationClass/<name>.png  Pascal VOC's, by the lists in
                                                                             <path>/ImageSets/Segmentation/<split>.txt

<split> is train, val (or valid, validation, dev) or test, of VOC also trainval. Folders may lie within those of images,
and likewise within those of masks. A mask may carry its image's name with _mask, _label or _L behind it, unless that is
another image's name. Every image needs one mask; masks without an image are passed over, counted and reported.

<path>/classes.txt is the legend: a class's name per line, with the number or colour of its pixels where that is not the
line's place; see data/masks.py. Without the file, folders of `annot` have the classes of CamVid, and lists as VOC's
those of VOC.

Masks are read as they are stored: the indices of a palette, grey values of 1 to 16 bits, or colours. These rules are
reported once: colours that are all grey are read as grey; 16 bits are read as numbers; of two classes without numbers,
255 is class 1 in black and white masks (see `_is_black_and_white`). The share of ignored pixels is always reported. All
of this is decided over the whole split; of one with more than SURVEYED masks, over that many spread evenly.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image

from morphism.data import orientation
from morphism.data.annotations import packed_names, picture_size
from morphism.data.files import Listing, by_name, passed_over, read_bytes, read_names, read_text, scan
from morphism.data.masks import COLOURS, Legend, black_and_white, check_header, classes_of, parse_legend, read_mask
from morphism.data.records import Record
from morphism.data.sources import VALIDATION
from morphism.data.sources.folder import root_folder
from morphism.data.sources.voc import CLASSES as VOC_CLASSES
from morphism.errors import UserError, skippable
from morphism.labels import IGNORE

SPLITS = ("train", *VALIDATION, "test")
SUFFIXES = ("", "_mask", "_label", "_L")
SURVEYED = 1000  # masks whose pixels are looked at when a split is opened
STRAY = 0.1  # ones to whites: fewer are strays in a black and white mask
# Badrinarayanan et al. 2015, section 4.1; in the masks of their tutorial 11 is void.
CAMVID = "sky\nbuilding\npole\nroad\npavement\ntree\nsign\nfence\ncar\npedestrian\nbicyclist\nignore 11\n"
VOC = "\n".join(("background", *VOC_CLASSES))


@dataclass(frozen=True)
class Masks:
    """`files` and `mask_files` hold paths below `root` as bytes; the images' all begin with the folder `pictures`."""

    root: Path
    pictures: str
    classes: Sequence[str]
    files: np.ndarray
    mask_files: np.ndarray
    sizes: Int[np.ndarray, "pictures 2"]
    legend: Legend
    oddities: str

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"segmentation": self.classes}

    def __len__(self) -> int:
        return len(self.files)

    @property
    def image_ids(self) -> np.ndarray:
        return np.array([os.path.splitext(os.fsdecode(file))[0][len(self.pictures) + 1 :] for file in self.files])

    @property
    def mask_stamps(self) -> Int[np.ndarray, "records"]:
        """How large each mask's file is, which changes with what is drawn in it, nearly always; -1 where it is lost."""
        paths = [self.root / os.fsdecode(file) for file in self.mask_files]
        return np.array([path.stat().st_size if path.is_file() else -1 for path in paths], np.int64)

    def __getitem__(self, index: int) -> Record:
        path, mask = (self.root / os.fsdecode(files[index]) for files in (self.files, self.mask_files))
        segmentation = read_mask(read_bytes(mask), str(mask), self.legend)
        return {"image": read_bytes(path), "name": str(path), "segmentation": segmentation}


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    return tuple(_layout(root_folder(argument, "masks")))


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return _legend(root_folder(argument, "masks")).classes


def load(argument: str, split: str, data_dir: str) -> Masks:
    root = root_folder(argument, "masks")
    pictures, masks, listed = _layout(root)[split]
    found, found_masks = scan(root / pictures), scan(root / masks)
    pairs = _pairs(root / pictures, root / masks, found, found_masks, root / listed if listed else None)
    without = sorted(set(found_masks.images) - {mask for _, mask in pairs})
    files, mask_files = [f"{pictures}/{image}" for image, _ in pairs], [f"{masks}/{mask}" for _, mask in pairs]
    paths, mask_paths = [root / file for file in files], [root / file for file in mask_files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = np.array(list(pool.map(picture_size, paths)), np.int32).reshape(-1, 2)
        modes = list(pool.map(_mode, mask_paths, paths, sizes))
    legend, odd = _survey(mask_paths, modes, _legend(root))
    if without and not listed:
        odd.append(f"{len(without):,} without an image (passed over), first {root / masks / without[0]}")
    lines = (
        "" if listed else passed_over((root / pictures, found.others), (root / masks, found_masks.others)),
        f"odd masks in {root / (listed or masks)}: {'; '.join(odd)}" if odd else "",
    )
    return Masks(
        root=root,
        pictures=pictures,
        classes=legend.classes,
        files=packed_names(files),
        mask_files=packed_names(mask_files),
        sizes=sizes,
        legend=legend,
        oddities="; ".join(filter(None, lines)),
    )


def _layout(root: Path) -> dict[str, tuple[str, str, str]]:
    """Of each split the folders of images and masks below `root`, and the list of their names, or ""."""
    lists = "ImageSets/Segmentation"
    held = [split for split in (*SPLITS, "trainval") if (root / lists / f"{split}.txt").is_file()]
    if held:
        return {split: ("JPEGImages", "SegmentationClass", f"{lists}/{split}.txt") for split in held}
    found = {}
    for split in SPLITS:
        for pictures, masks in ((split, f"{split}annot"), (f"images/{split}", f"masks/{split}")):
            if (root / pictures).is_dir() and (root / masks).is_dir():
                found[split] = (pictures, masks, "")
    if not found and (root / "images").is_dir() and (root / "masks").is_dir():
        return {"train": ("images", "masks", "")}
    if not found:
        raise UserError(
            f"{root}: no images with masks; expected train/ beside trainannot/, images/train/ beside masks/train/, "
            "or images/ beside masks/"
        )
    return found


def _pairs(
    pictures: Path, masks: Path, found: Listing, found_masks: Listing, listed: Path | None
) -> list[tuple[str, str]]:
    """Paths of images and their masks, which have the image's name with one of SUFFIXES behind it.

    The same suffix for all if that fits, else that of each. Raises UserError where an image has no mask or two, and
    where the only one is another image's by its whole name.
    """
    files, mask_files = by_name(pictures, found.images), by_name(masks, found_masks.images)
    names = read_names(listed, files) if listed else list(files)
    for name in names:
        with skippable():
            if name not in files:
                raise UserError(f"{pictures / name}.jpg: no such image; add it, or mend {listed}")
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
                image = pictures / files[name]
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


def _mode(mask: Path, picture: Path, size: np.ndarray) -> str:
    """How a mask is stored. Raises UserError where it has another size than its image, or is none.

    Inside errors.noting "" for such a mask.
    """
    mode = ""
    with skippable(raised_again=True):
        mode = _checked_mode(mask, picture, size)
    return mode


def _checked_mode(mask: Path, picture: Path, size: np.ndarray) -> str:
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
            f"{picture} is {size[1]} x {size[0]} but its mask {mask} is {width} x {height}: masks must have their "
            f"image's size{orientation.hint(size.tolist(), (height, width))}"
        )
    return mode


def _survey(paths: Sequence[Path], modes: Sequence[str], legend: Legend) -> tuple[Legend, list[str]]:
    """The legend by which masks stored in `modes` are read, and what was odd about them.

    Raises UserError where not one pixel of them counts.
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
    """Whether 255 is class 1 rather than ignored in masks of two classes, given how many pixels of each hold 1 and 255.

    It is ignored where masks hold both 1 and 255. These may be strays: in fewer masks than hold 255 alone, and in these
    under a tenth as many as there are of 255. Where no mask or only strays hold both, the majority decides: masks that
    hold 255 alone against masks that hold 1 alone.
    """
    both, white, one = (ones > 0) & (whites > 0), (ones == 0) & (whites > 0), (ones > 0) & (whites == 0)
    strays = both.sum() < white.sum() and ones[both].sum() < STRAY * whites[both].sum()
    return bool(white.any() and (strays or not both.any()) and white.sum() >= one.sum())


def _count(path: Path, legend: Legend) -> tuple[int, int, int, int]:
    """How many pixels hold 1, hold 255, are ignored, and are there at all; a broken mask counts as one pixel.

    What is wrong with that one is reported when its record is read.
    """
    try:
        values, classes = classes_of(read_bytes(path), str(path), legend)
    except UserError:
        return 0, 0, 0, 1
    ones, whites = ((values == each).sum() if values.ndim == 2 else 0 for each in (1, IGNORE))
    return ones, whites, (classes == IGNORE).sum(), classes.size


def _has_classes(path: Path, legend: Legend) -> bool:
    """Whether some pixel of the mask is not ignored."""
    _, _, ignored, pixels = _count(path, legend)
    return ignored < pixels
