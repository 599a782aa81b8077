"""`masks:<path>`: images, each with a mask of the same size and name, in another folder.

    <path>/<split>/<name>.jpg           <path>/<split>annot/<name>.png       as the SegNet tutorial's CamVid
    <path>/images/<split>/<name>.jpg    <path>/masks/<split>/<name>.png
    <path>/images/<name>.jpg            <path>/masks/<name>.png              one split, "train", to cut a "val" from
    <path>/<split>/images/<name>.jpg    <path>/<split>/masks/<name>.png
    <path>/JPEGImages/<name>.jpg        <path>/SegmentationClass/<name>.png  Pascal VOC's, by the lists in
                                                                             <path>/ImageSets/Segmentation/<split>.txt

<split> is train, val (or valid, validation, dev) or test, for VOC also trainval. The folders of images may hold further
folders, and those of masks the same. The name of a mask is that of its image, optionally followed by _mask, _label or
_L, unless that is the name of another image. Each image needs one mask; masks without an image are skipped, counted and
reported.

<path>/classes.txt is the legend: one class per line, followed by the number or colour of its pixels if the number is
not the position of the line; see data/masks.py. CVAT's labelmap.txt is read too. Without either, folders `...annot`
have the classes of CamVid, lists as VOC's those of VOC, and masks of 0 and 1, or 0 and 255, are background and object.

The folder of masks may also be called annotations, labels or gt, if it holds images.

Masks are read as they are stored: the indices of a palette, grey values of 1 to 16 bits, or colours. These rules are
reported once: colours that are all grey are read as grey; 16 bits are read as numbers; with two classes without
numbers, 255 is class 1 in black and white masks (see `_is_black_and_white`). The share of ignored pixels is always
reported. All of this is decided by the whole split, or if it has more than SURVEYED masks, by that many, evenly spread.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from morphism.data import mask_survey, orientation
from morphism.data.annotations import image_size, packed_names
from morphism.data.file_source import FileSource
from morphism.data.files import Listing, by_name, passed_over, read_bytes, read_names, read_text, scan, stamps
from morphism.data.layouts import SPLITS, Layout, Look, Seen
from morphism.data.masks import Legend, check_header, parse_legend, read_mask
from morphism.data.sources.folder import root_folder
from morphism.data.sources.voc import CLASSES as VOC_CLASSES
from morphism.errors import UserError, skippable

SUFFIXES = ("", "_mask", "_label", "_L")
# Badrinarayanan et al. 2015, section 4.1; 11 is void in the masks of their tutorial.
CAMVID = "sky\nbuilding\npole\nroad\npavement\ntree\nsign\nfence\ncar\npedestrian\nbicyclist\nignore 11\n"
VOC = "\n".join(("background", *VOC_CLASSES))
TWO = "background\nobject"
LISTS = "ImageSets/Segmentation"
LABEL_MAP = "labelmap.txt"  # CVAT's legend
LAYOUT = Layout("images with masks of classes", "images/ next to masks/, and classes.txt", rank=1)


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


def seen(look: Look) -> Seen:
    try:
        images, masks, listed = next(iter(_layout(look.path).values()))
    except UserError:
        return Seen((), (LAYOUT.needs,))
    there = (f"{images} and {masks}" + (f" by {LISTS}" if listed else ""),)
    if not look.below(masks).holds_images():
        return Seen((images,), (f"images in {masks}",))
    try:
        _legend(look.path)
    except UserError as error:
        missing = "no such file" in str(error)
        return Seen(
            there, ("classes.txt with a class's name per line, in the order of their numbers",) if missing else ()
        )
    return Seen(there, ())


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
    legend, odd = mask_survey.survey(mask_paths, modes, _legend(root))
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
    held = {split: f"{LISTS}/{split}.txt" for split in (*SPLITS, "trainval", "default")}
    held = {split: path for split, path in held.items() if (root / path).is_file()}
    if held:
        held = {"train" if split == "default" else split: path for split, path in held.items()}  # CVAT's list of all
        return {split: ("JPEGImages", "SegmentationClass", path) for split, path in held.items()}
    look = Look(root)
    found = _of_splits(look) or dict(zip(("train",), _together(look), strict=False))
    if not found:
        raise UserError(
            f"{root}: no images with masks; expected train/ next to trainannot/, images/train/ next to masks/train/, "
            "train/images/ next to train/masks/, or images/ next to masks/"
        )
    return {split: (*pair, "") for split, pair in found.items()}


def _of_splits(look: Look) -> dict[str, tuple[str, str]]:
    """For each split the folders of images and masks, where splits have folders."""
    outside = look.splits()
    found = {split: (name, f"{name}annot") for split, name in outside.items() if look.folder(f"{name}annot")}
    for split, name in outside.items():
        for images, masks in _together(look.below(name)):
            found.setdefault(split, (f"{name}/{images}", f"{name}/{masks}"))
    for images, masks in _together(look):
        inside, of_masks = look.below(images).splits(), look.below(masks).splits()
        for split in inside.keys() & of_masks.keys():
            found[split] = (f"{images}/{inside[split]}", f"{masks}/{of_masks[split]}")
    return {split: found[split] for split in SPLITS if split in found}


def _together(look: Look) -> list[tuple[str, str]]:
    """The folder of images and that of masks, if `look` has both."""
    images = look.folder("images", "JPEGImages", "image", "imgs", "img")
    masks = look.folder("masks", "SegmentationClass", "mask")
    named = ("annotations", "labels", "annots", "gt")  # which other formats have too, without images
    masks = masks or next(
        (name for each in named if (name := look.folder(each)) and look.below(name).holds_images()), ""
    )
    return [(images, masks)] if images and masks else []


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
    if (root / LABEL_MAP).is_file():
        return parse_legend(_of_label_map(read_text(root / LABEL_MAP)), str(root / LABEL_MAP))
    if (root / "ImageSets" / "Segmentation").is_dir():
        return parse_legend(VOC, f"VOC, for want of your own in {path}")
    if any((root / f"{split}annot").is_dir() for split in SPLITS):
        return parse_legend(CAMVID, f"CamVid, for want of your own in {path}")
    for _, masks, _ in _layout(root).values():
        if mask_survey.two_classes([root / masks / file for file in scan(root / masks).images]):
            return parse_legend(TWO, f"two classes, for want of your own in {path}")
    raise UserError(f"{path}: no such file; write it with a class's name per line, in the order of their numbers")


def _of_label_map(text: str) -> str:
    """CVAT's labelmap.txt, with lines such as `car:128,0,0::`, as a legend."""
    lines = [line.partition("#")[0].strip().split(":") for line in text.split("\n")]
    return "\n".join(f"{line[0]} {line[1].replace(',', ' ')}" for line in lines if len(line) > 1)


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
