"""Mask files: the numbers or colours of their pixels, and the legend that maps these to classes.

A legend is a text with one line per class, in order: the name, optionally followed by the value of its pixels, a number
or a colour as three numbers. Lines named `ignore` give the values of ignored pixels; # starts a comment.

    sky 128 128 128             or      sky             or      road 7
    traffic light 192 0 128             traffic light           sidewalk 8
    ignore 0 0 0                        ignore 11               ignore 0

Without values, pixels of class k hold k, and 255 is ignored.
"""

import io
import re
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int, Integer, UInt8
from PIL import Image

from morphism.data.high_bit import maxval
from morphism.errors import UserError
from morphism.labels import IGNORE

MAX_CLASSES = IGNORE
UNKNOWN = -1
LOSSY = ("JPEG", "MPO", "AVIF")  # Pillow's names of formats
LOSSLESS_WEBP = re.compile(rb"RIFF....WEBP(VP8X.*)?VP8L", re.DOTALL)
J2K_CODING = re.compile(rb"\xff\x4f\xff\x51.*?\xff\x52.{11}(.)", re.DOTALL)  # from SOC to COD's transformation
COLOURS = ("RGB", "RGBA", "LA")  # Pillow's modes that are read as colours even if the legend gives none


@dataclass(frozen=True)
class Legend:
    """The meaning of mask pixels: `table` maps numbers to classes; `colours` maps colours, if the legend gives any.

    plain: whether the legend gives no numbers to classes, and no meaning to 255.
    origin: the legend's name, for errors.
    """

    classes: tuple[str, ...]
    table: Int[np.ndarray, "65536"]
    colours: dict[tuple[int, int, int], int]
    plain: bool
    origin: str


def parse_legend(text: str, origin: str) -> Legend:
    """Parses a legend as described at the top of this file. Raises UserError, naming `origin` and the line."""
    names: list[str] = []
    numbers: dict[int, int] = {}
    colours: dict[tuple[int, int, int], int] = {}
    plain = True
    for row, line in enumerate(text.split("\n"), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        values = []
        while len(words) > 1 and words[-1].isdecimal():
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
        plain &= len(values) != 1 or (name == "ignore" and values != [IGNORE])
        into, key = (colours, tuple(values)) if len(values) == 3 else (numbers, values[0] if values else index)
        if into.get(key, index) != index:
            raise UserError(f"{where}: {' '.join(map(str, values)) or key} stands for two classes; mend one")
        into[key] = index
    if not names or len(names) > MAX_CLASSES:
        raise UserError(f"{origin}: names {len(names)} classes; write 1 to {MAX_CLASSES}, one per line")
    if colours and set(colours.values()) - {IGNORE} != set(range(len(names))):
        lacking = next(name for index, name in enumerate(names) if index not in colours.values())
        raise UserError(f"{origin}: {lacking} has no colour, others have; give each its three numbers")
    table = np.full(1 << 16, UNKNOWN, np.int16)
    table[IGNORE] = IGNORE
    for number, index in numbers.items():
        table[number] = index
    return Legend(tuple(names), table, colours, plain, origin)


def read_mask(encoded: bytes, name: str, legend: Legend) -> UInt8[np.ndarray, "h w"]:
    """The class of each pixel, or IGNORE. Raises UserError, with position and value, for a pixel without a class."""
    values, found = classes_of(encoded, name, legend)
    if (found == UNKNOWN).any():
        row, column = np.argwhere(found == UNKNOWN)[0].tolist()
        value = values[row, column].tolist()
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        raise UserError(
            f"{name}: holds {shown} at row {row}, column {column}, which is none of the {len(legend.classes)} classes "
            f"of {legend.origin}; mend it, or write '{legend.classes[-1]} {shown}' or 'ignore {shown}' there"
        )
    return found.astype(np.uint8)


def classes_of(encoded: bytes, name: str, legend: Legend) -> tuple[np.ndarray, np.ndarray]:
    """The numbers [h,w] or colours [h,w,3] of the pixels, and the class of each [h,w], which may be IGNORE or UNKNOWN.

    A palette is read as its indices, or with a legend of colours as its colours. Grey of 1, 2 or 4 bits counts 0, 1, 2,
    ...; white of 1 bit is 255 if the legend knows that number but not 1. Colours that are all grey are read as grey.
    Raises UserError for other colours without a legend of colours, and for masks that `check_header` refuses.
    """
    try:
        file = io.BytesIO(encoded)
        with Image.open(file) as mask:
            check_header(mask, file, name)
            values = _stored(mask, encoded, name, bool(legend.colours))
            bilevel = mask.mode == "1"
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        reason = str(error).split(" <")[0].rstrip(".")
        raise UserError(f"{name}: cannot be decoded ({reason}); replace or remove it") from error
    if legend.colours:
        return values, _of_colours(values, legend)
    if values.ndim == 3:
        if np.ptp(values, axis=-1).any():
            raise UserError(
                f"{name}: a mask in colours, to which {legend.origin} gives no classes; write each class's colour "
                "behind its name: road 128 64 128"
            )
        values = values[..., 0]
    if values.min() < 0 or values.max() >= len(legend.table):
        raise UserError(f"{name}: holds {values.min()} to {values.max()}; a mask holds 0 to 65535, mend it")
    if bilevel and legend.table[1] == UNKNOWN != legend.table[255]:
        values = values * 255
    return values, legend.table[values]


def stored_numbers(encoded: bytes, name: str) -> Integer[np.ndarray, "h w *c"]:
    """The pixels of a mask as it stores them, numbers or colours. Raises UserError as `classes_of` does."""
    return classes_of(encoded, name, ANY)[0]


def check_header(mask: Image.Image, file: io.BufferedIOBase, name: str) -> None:
    """Raises UserError for a mask with lossy compression, several pages, or floating-point values.

    `mask` was opened from `file`.
    """
    if mask.format in LOSSY or (mask.format in ("WEBP", "JPEG2000") and not _is_lossless(mask, file)):
        raise UserError(f"{name}: masks must be stored without loss, as PNG, for example; convert it")
    if getattr(mask, "n_frames", 1) > 1:
        raise UserError(f"{name}: holds {mask.n_frames} pages, a mask holds one; save each mask as a file of its own")
    if mask.mode == "F":
        raise UserError(f"{name}: holds floating-point numbers, a mask whole ones; save it with 8 or 16 bits")


def _is_lossless(mask: Image.Image, file: io.BufferedIOBase) -> bool:
    """Whether a WebP or JPEG 2000 file uses lossless compression."""
    position = file.tell()
    file.seek(0)
    encoded = file.read()
    file.seek(position)
    if mask.format == "WEBP":
        return bool(LOSSLESS_WEBP.match(encoded))
    coding = J2K_CODING.search(encoded)
    return bool(coding) and coding[1] == b"\x01"  # the reversible 5-3 filter


def _stored(mask: Image.Image, encoded: bytes, name: str, colours: bool) -> Integer[np.ndarray, "h w *c"]:
    """Colours [h,w,3] if the legend gives `colours` or the file stores them, else numbers [h,w]."""
    if "A" in mask.getbands():
        alpha = np.asarray(mask.getchannel("A"))
        visible = np.asarray(mask)[..., :-1]
        if np.ptp(alpha) and not np.ptp(visible, axis=(0, 1)).any():
            raise UserError(f"{name}: only its alpha differs between pixels; save the classes as grey or colours")
        if mask.mode == "PA" and not colours:
            return visible[..., 0]
    if colours or mask.mode in COLOURS:
        return np.asarray(mask.convert("RGB"))
    values = np.asarray(mask, np.uint8 if mask.mode == "1" else None)
    stored, shown = _white(mask, encoded)
    return values if stored == shown else (values.astype(np.int64) * stored + shown // 2) // shown


def _white(mask: Image.Image, encoded: bytes) -> tuple[int, int]:
    """The largest number that a file's grey can store, and the value that Pillow gives it."""
    if mask.format == "PNG" and encoded[25] == 0 and encoded[24] in (2, 4):  # colour type and bit depth of its header
        return (1 << encoded[24]) - 1, 255
    if mask.format == "TIFF" and mask.mode == "L":
        return min(255, (1 << mask.tag_v2.get(258, (8,))[0]) - 1), 255
    if mask.format == "PPM" and mask.mode in ("L", "I"):
        return maxval(encoded), 255 if mask.mode == "L" else 65535
    return 255, 255


def _of_colours(values: UInt8[np.ndarray, "h w 3"], legend: Legend) -> Int[np.ndarray, "h w"]:
    packed = values.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    keys = np.array([red << 16 | green << 8 | blue for red, green, blue in legend.colours])
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys[order], packed), len(keys) - 1)
    known = keys[order][place] == packed
    return np.where(known, np.array(list(legend.colours.values()))[order][place], UNKNOWN)


def black_and_white(legend: Legend) -> Legend:
    """`legend`, which has two classes, with 255 as the second."""
    table = legend.table.copy()
    table[255] = 1
    return replace(legend, table=table)


ANY = parse_legend("any", "no legend")  # to read numbers by
