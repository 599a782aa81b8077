"""`masks:<path>`: pictures, each with a mask of the same size and name, in another folder.

    <path>/<split>/<name>.jpg           <path>/<split>annot/<name>.png       as the SegNet tutorial's CamVid
    <path>/images/<split>/<name>.jpg    <path>/masks/<split>/<name>.png
    <path>/images/<name>.jpg            <path>/masks/<name>.png              one split, "train", to cut a "val" from
    <path>/JPEGImages/<name>.jpg        <path>/SegmentationClass/<name>.png  Pascal VOC's, by the lists in
                                                                             <path>/ImageSets/Segmentation/<split>.txt

<split> is train, val or test (of VOC also trainval). A mask may carry its picture's name with _mask, _label or _L
behind it. Every picture needs a mask, and every mask a picture.

<path>/classes.txt names the classes, a line each, in order; behind a name may stand what pixels of the class hold: a
number, or a colour as three. Lines of the name `ignore` say which hold nothing to learn; # begins a comment.

    sky 128 128 128             or      sky             or      road 7
    traffic light 192 0 128             traffic light           sidewalk 8
    ignore 0 0 0                        ignore 11               ignore 0

Without numbers a pixel of class k holds k, and 255 is ignored. Without the file, folders of `annot` have the classes of
CamVid, and lists as VOC's those of VOC.

Masks are read as they are stored: the indices of a palette, grey values of 8 or 16 bits, or colours. Three rules, told
once: colours that are all grey are read as grey; 16 bits are read as numbers; and where there are two classes, without
numbers, and no mask of the split holds a 1, then 255 is class 1, as in black and white masks.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from data.annotations import named_pictures, packed_names, picture_size
from data.sources import Record
from data.sources.folder import root_folder
from data.sources.voc import CLASSES as VOC_CLASSES
from errors import UserError

SPLITS = ("train", "val", "test")
IGNORE = 255
MOST = 255  # classes
SUFFIXES = ("", "_mask", "_label", "_L")
LOSSY = (".jpg", ".jpeg", ".webp")
UNKNOWN = -1
# Badrinarayanan et al. 2015, section 4.1; in the masks of their tutorial 11 is void.
CAMVID = "sky\nbuilding\npole\nroad\npavement\ntree\nsign\nfence\ncar\npedestrian\nbicyclist\nignore 11\n"
VOC = "\n".join(("background", *VOC_CLASSES))


@dataclass(frozen=True)
class Legend:
    """What the pixels of masks mean: `table` the class of a number, `colours` of a colour; either may be empty.

    plain: no numbers were given.
    """

    classes: tuple[str, ...]
    table: Int[np.ndarray, "65536"]
    colours: dict[tuple[int, int, int], int]
    plain: bool
    origin: str


@dataclass(frozen=True)
class Masks:
    """`files` and `mask_files` hold paths below `root` as bytes."""

    root: Path
    classes: Sequence[str]
    files: np.ndarray
    mask_files: np.ndarray
    sizes: Int[np.ndarray, "pictures 2"]
    legend: Legend
    oddities: str

    def __len__(self) -> int:
        return len(self.files)

    @property
    def image_ids(self) -> np.ndarray:
        return np.array([os.path.splitext(os.path.basename(os.fsdecode(file)))[0] for file in self.files])

    @property
    def mask_bytes(self) -> Int[np.ndarray, "records"]:
        """How large each mask's file is, which changes with what is drawn in it, nearly always; -1 where it is lost."""
        paths = [self.root / os.fsdecode(file) for file in self.mask_files]
        return np.array([path.stat().st_size if path.is_file() else -1 for path in paths], np.int64)

    def __getitem__(self, index: int) -> Record:
        path, mask = (self.root / os.fsdecode(files[index]) for files in (self.files, self.mask_files))
        return {"image": _read(path), "name": str(path), "segmentation": read_mask(_read(mask), str(mask), self.legend)}


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    return tuple(_layout(root_folder(argument, "masks")))


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return _legend(root_folder(argument, "masks")).classes


def load(argument: str, split: str, data_dir: str) -> Masks:
    root = root_folder(argument, "masks")
    pictures, masks, listed = _layout(root)[split]
    pairs = _pairs(root / pictures, root / masks, listed)
    legend = _legend(root)
    files = [f"{pictures}/{picture}" for picture, _ in pairs]
    mask_files = [f"{masks}/{mask}" for _, mask in pairs]
    sizes = np.array([picture_size(root / file) for file in files], np.int32).reshape(-1, 2)
    odd = []
    modes = [_mode(root / mask, root / file, size) for mask, file, size in zip(mask_files, files, sizes, strict=True)]
    if not legend.colours and (grey := sum(mode in ("RGB", "RGBA") for mode in modes)):
        odd.append(f"{grey:,} stored in colours (read as grey)")
    if deep := sum(mode.startswith("I") for mode in modes):
        odd.append(f"{deep:,} of 16 bits (read as numbers)")
    if len(legend.classes) == 2 and legend.plain and not legend.colours:
        legend, black_and_white = _binary(legend, [root / mask for mask in mask_files])
        odd += [f"all {len(pairs):,} black and white (255 read as {legend.classes[1]})"] if black_and_white else []
    oddities = f"odd masks: {'; '.join(odd)}" if odd else ""
    return Masks(root, legend.classes, packed_names(files), packed_names(mask_files), sizes, legend, oddities)


def _layout(root: Path) -> dict[str, tuple[str, str, list[str] | None]]:
    """Of each split the folders of pictures and masks below `root`, and the names, where they are listed."""
    lists = root / "ImageSets" / "Segmentation"
    if lists.is_dir():
        held = [split for split in (*SPLITS, "trainval") if (lists / f"{split}.txt").is_file()]
        if held:
            return {
                each: ("JPEGImages", "SegmentationClass", _read(lists / f"{each}.txt").decode().split())
                for each in held
            }
    found = {}
    for split in SPLITS:
        for pictures, masks in ((split, f"{split}annot"), (f"images/{split}", f"masks/{split}")):
            if (root / pictures).is_dir() and (root / masks).is_dir():
                found[split] = (pictures, masks, None)
    if not found and (root / "images").is_dir() and (root / "masks").is_dir():
        return {"train": ("images", "masks", None)}
    if "train" not in found:
        raise UserError(
            f"{root}: no pictures with masks; expected train/ beside trainannot/, images/train/ beside masks/train/, "
            "or images/ beside masks/"
        )
    return found


def _pairs(pictures: Path, masks: Path, listed: list[str] | None) -> list[tuple[str, str]]:
    """File names of pictures and their masks. Raises UserError where one lacks the other."""
    files, mask_files = named_pictures(pictures), named_pictures(masks)
    for stem, file in mask_files.items():
        if file.lower().endswith(LOSSY):
            raise UserError(f"{masks / file}: masks must be stored without loss, as PNG, for example; convert it")
        if listed is None and not any(stem.removesuffix(suffix) in files for suffix in SUFFIXES):
            raise UserError(f"{masks / file}: no picture {pictures / stem}.jpg; add it, or remove the mask")
    found = []
    for stem in files if listed is None else listed:
        if stem not in files:
            raise UserError(f"{pictures / stem}.jpg: no such picture; add it, or mend the list")
        mask = next((mask_files[stem + suffix] for suffix in SUFFIXES if stem + suffix in mask_files), None)
        if mask is None:
            raise UserError(f"{pictures / files[stem]}: no mask {masks / stem}.png; add it, or remove the picture")
        found.append((files[stem], mask))
    return found


def _legend(root: Path) -> Legend:
    path = root / "classes.txt"
    if path.is_file():
        return parse_legend(_read(path).decode("utf-8", "replace"), str(path))
    if (root / "ImageSets" / "Segmentation").is_dir():
        return parse_legend(VOC, "VOC")
    if (root / "trainannot").is_dir():
        return parse_legend(CAMVID, "CamVid")
    raise UserError(f"{path}: no such file; write it with a class's name a line, in the order of their numbers")


def parse_legend(text: str, origin: str) -> Legend:
    """classes.txt as the docstring above says. Raises UserError, naming `origin` and the line, for any other."""
    names: list[str] = []
    numbers: dict[int, int] = {}
    colours: dict[tuple[int, int, int], int] = {}
    plain = True
    for row, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        values = []
        while len(words) > 1 and words[-1].isdigit():
            values.insert(0, int(words.pop()))
        name, where = " ".join(words), f"{origin}:{row}"
        if len(values) not in (0, 1, 3) or max(values, default=0) > (255 if len(values) == 3 else 65535):
            raise UserError(f"{where}: {line.strip()!r} is no name with a number or a colour behind it; mend it")
        index = IGNORE if name == "ignore" else len(names)
        if name == "ignore" and not values:
            raise UserError(f"{where}: ignore needs a number or a colour behind it; add it")
        if name != "ignore":
            if name in names:
                raise UserError(f"{where}: {name!r} names two classes; rename one")
            names.append(name)
            plain &= len(values) != 1
        into, key = (colours, tuple(values)) if len(values) == 3 else (numbers, values[0] if values else index)
        if into.get(key, index) != index:
            raise UserError(f"{where}: {' '.join(map(str, values)) or key} stands for two classes; mend one")
        into[key] = index
    if not names or len(names) > MOST:
        raise UserError(f"{origin}: names {len(names)} classes; write 1 to {MOST}, one a line")
    if colours and set(colours.values()) - {IGNORE} != set(range(len(names))):
        lacking = next(name for index, name in enumerate(names) if index not in colours.values())
        raise UserError(f"{origin}: {lacking} has no colour, others have; give each its three numbers")
    table = np.full(1 << 16, UNKNOWN, np.int16)
    table[IGNORE] = IGNORE
    for number, index in numbers.items():
        table[number] = index
    return Legend(tuple(names), table, colours, plain, origin)


def read_mask(encoded: bytes, name: str, legend: Legend) -> UInt8[np.ndarray, "h w"]:
    """The class of every pixel, or IGNORE. Raises UserError, naming pixel and value, for one that has no class."""
    try:
        with Image.open(io.BytesIO(encoded)) as mask:
            if legend.colours or mask.mode in ("RGB", "RGBA", "LA"):
                values = np.asarray(mask.convert("RGB"))
            else:
                values = np.asarray(mask).astype(np.int64)
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        reason = str(error).split(" <")[0].rstrip(".")
        raise UserError(f"{name}: cannot be decoded ({reason}); replace or remove it") from error
    if legend.colours:
        found = _of_colours(values, legend)
    else:
        if values.ndim == 3:
            if np.ptp(values, axis=-1).any():
                raise UserError(
                    f"{name}: a mask in colours, of which {legend.origin} tells no classes; write each class's colour "
                    "behind its name: road 128 64 128"
                )
            values = values[..., 0]
        if values.min() < 0 or values.max() >= len(legend.table):
            raise UserError(f"{name}: holds {values.min()} to {values.max()}; a mask holds 0 to 65535, mend it")
        found = legend.table[values]
    if (found == UNKNOWN).any():
        row, column = np.argwhere(found == UNKNOWN)[0].tolist()
        value = values[row, column].tolist()
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        raise UserError(
            f"{name}: holds {shown} at row {row}, column {column}, which is none of the {len(legend.classes)} classes "
            f"of {legend.origin}; mend it, or write 'ignore {shown}' there"
        )
    return found.astype(np.uint8)


def _of_colours(values: UInt8[np.ndarray, "h w 3"], legend: Legend) -> Int[np.ndarray, "h w"]:
    packed = values.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    keys = np.array([red << 16 | green << 8 | blue for red, green, blue in legend.colours])
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys[order], packed), len(keys) - 1)
    known = keys[order][place] == packed
    return np.where(known, np.array(list(legend.colours.values()))[order][place], UNKNOWN)


def _binary(legend: Legend, masks: list[Path]) -> tuple[Legend, bool]:
    """`legend` with 255 as class 1, and True, where some mask holds 255 and none a 1."""
    white = False
    for path in masks:
        try:
            with Image.open(path) as mask:
                values = np.asarray(mask if mask.mode in ("1", "L", "P", "I", "I;16") else mask.convert("L"))
        except Exception:  # told, with its reason, when the record is read
            continue
        if (values == 1).any():
            return legend, False
        white |= bool((values == 255).any())
    if not white:
        return legend, False
    table = legend.table.copy()
    table[255] = 1
    return Legend(legend.classes, table, legend.colours, legend.plain, legend.origin), True


def _mode(mask: Path, picture: Path, size: np.ndarray) -> str:
    """How a mask is stored. Raises UserError where it has another size than its picture."""
    try:
        with Image.open(mask) as opened:
            width, height = opened.size
            mode = opened.mode
    except OSError as error:
        reason = str(error).split(" '")[0].split(" <")[0]
        raise UserError(f"{mask}: cannot be decoded ({reason}); replace or remove it") from error
    if (height, width) != tuple(size.tolist()):
        raise UserError(
            f"{picture} is {size[1]} x {size[0]} but its mask {mask} is {width} x {height}: masks must have their "
            "picture's size"
        )
    return mode


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from error
