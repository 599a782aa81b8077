"""The images of a written dataset: hard links to the files, or copies, under names without folders."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from morphism.data.files import image_suffixes
from morphism.data.records import Record, Source
from morphism.errors import UserError

LINKED, COPIED, STORED = "hard links (a change to one changes the original)", "copies", "written from the source"


class Images(NamedTuple):
    """The images of a split. rows: of the source. names: of the files. account: how many are what, in words."""

    rows: list[int]
    names: list[str]
    account: str

    @property
    def stems(self) -> list[str]:
        return [os.path.splitext(name)[0] for name in self.names]


def place(source: Source, rows: Int[np.ndarray, "n"], root: Path, below: str) -> Images:
    """Puts the images of these records into `root` / `below`. What a first try has put there already is kept."""
    folder = root / below
    folder.mkdir(parents=True, exist_ok=True)
    names, how, taken = [], Counter(), set()
    for row in rows.tolist():
        record = source[row]
        name = _free(_own_name(record, row), taken)
        how[_put(record, folder / name)] += 1
        names.append(name)
    for name in {each.name for each in os.scandir(folder)} - set(names):
        os.unlink(folder / name)  # of a first try on other data
    account = ", ".join(f"{count:,} {kind}" for kind, count in how.items())
    return Images(rows.tolist(), names, f"{len(names):,} images: {account}" if account else "no image")


def _own_name(record: Record, row: int) -> str:
    """The name of the record's file, with a suffix by which it is recognised as an image."""
    path = Path(record["name"])
    if not path.is_file():
        return f"{row:06d}{_suffix(record)}"
    return path.name if path.suffix.lower() in image_suffixes() else f"{path.name}{_suffix(record)}"


def _free(name: str, taken: set[str]) -> str:
    """`name`, with a number behind it if an image in `taken` has the same but for case and suffix."""
    stem, suffix = os.path.splitext(name)
    number, free = 1, stem
    while free.lower() in taken:
        number += 1
        free = f"{stem}_{number}"
    taken.add(free.lower())
    return f"{free}{suffix}"


def _suffix(record: Record) -> str:
    encoded = record["image"]
    if isinstance(encoded, np.ndarray):
        return ".png"
    with Image.open(io.BytesIO(encoded)) as opened:
        return {"JPEG": ".jpg", "TIFF": ".tif", "MPO": ".jpg"}.get(opened.format, f".{opened.format.lower()}")


def _put(record: Record, path: Path) -> str:
    """Puts the image at `path`, all of it or nothing; says how."""
    original, encoded = Path(record["name"]), record["image"]
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    if isinstance(encoded, bytes) and original.is_file():
        real = Path(os.path.realpath(original))
        if path.is_file() and os.path.samefile(path, real):
            return LINKED
        try:
            os.link(real, temporary)
            how = LINKED
        except OSError:  # another file system, or one without hard links, or a file of another user
            shutil.copy2(real, temporary)
            how = COPIED
    else:
        temporary.write_bytes(encoded if isinstance(encoded, bytes) else png(encoded, record["name"]))
        how = STORED
    os.replace(temporary, path)
    return how


def png(pixels: np.ndarray, name: str) -> bytes:
    """The pixels without loss: 8 bits, grey or colours, or 16 bits of grey."""
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if flat.dtype != np.uint8 and (flat.dtype != np.uint16 or flat.ndim != 2):
        raise UserError(f"{name}: PNG cannot hold {flat.dtype} of {flat.ndim} dimensions; write another split")
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(flat)).save(encoded, "PNG")
    return encoded.getvalue()


def written(path: Path, content: bytes) -> None:
    """Writes a file, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def counted(counts: Sequence[tuple[int, str]]) -> list[str]:
    """What there is any of, in words."""
    return [f"{count:,} {what}" for count, what in counts if count]
