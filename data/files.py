"""Files of datasets: which files below a folder are images, and how lists and labels are read as text.

All sources list folders and read text through this file, so they agree on the rules.
"""

import codecs
import os
from collections import deque
from collections.abc import Container, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from morphism.errors import UserError, skippable

# Formats that Pillow lists but cannot read by itself: they are not images, or need another program.
NOT_BY_ITSELF = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
# Suffixes of images that Pillow does not read, unless a plug-in does.
UNREADABLE = (
    *(".heic", ".heif", ".hif", ".jxl", ".svg", ".eps", ".wmf", ".emf", ".xcf", ".psb", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".dcm", ".dicom", ".nii", ".nii.gz", ".nrrd", ".mha"),
)
# Files and folders that operating systems leave next to the user's own, without a leading dot; in lower case.
CLUTTER = {
    *("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}


class Listing(NamedTuple):
    """Paths below a folder, with / between their parts, sorted part by part."""

    images: list[str]
    others: list[str]


def scan(folder: Path, unreadable: bool = False) -> Listing:
    """The files below `folder`, at any depth.

    Hidden files and folders, and those of CLUTTER, are skipped. Links are followed, but each folder is entered only
    once: under its own path if that is below `folder`, else under the first link to it. Images are recognised by their
    suffix, in upper or lower case. A dangling link with the name of an image counts as an image, and fails when it is
    read.

    Raises, or inside errors.noting notes and leaves out:
      UserError: a folder cannot be listed; a dangling link; a pipe or device with the name of an image; an image of a
        format that Pillow does not read, which with `unreadable` is among the images instead.
    """
    images, others, entered = [], [], set()
    folders, links = deque([""]), deque()
    while folders or links:
        below = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(folder / below)
        if real in entered:
            continue
        entered.add(real)
        held: list[os.DirEntry] = []
        with skippable():
            held = entries(folder / below)
        for entry in held:
            path = f"{below}/{entry.name}" if below else entry.name
            with skippable():
                if is_folder(entry):
                    (links if entry.is_symlink() else folders).append(path)
                elif is_image(entry.name):
                    images.append(path)
                elif not entry.name.lower().endswith(UNREADABLE):
                    others.append(path)
                elif unreadable:
                    images.append(path)
                else:
                    raise UserError(f"{entry.path}: its format cannot be read; convert it to PNG or JPEG, or remove it")
    return Listing(*(sorted(paths, key=lambda path: path.split("/")) for paths in (images, others)))


def entries(folder: Path) -> list[os.DirEntry]:
    """The entries of `folder` sorted by name, without hidden ones. Raises UserError if it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            kept = [entry for entry in found if not entry.name.startswith(".") and entry.name.lower() not in CLUTTER]
    except OSError as error:
        remedy = "add it" if isinstance(error, FileNotFoundError) else "make it readable, or remove it"
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); {remedy}") from error
    return sorted(kept, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry) -> bool:
    """Whether `entry` is a folder, or a link to one. Raises UserError as `scan` does."""
    try:
        if entry.is_dir():
            return True
        if entry.is_file():
            return False
    except OSError as error:
        if is_image(entry.name):  # as a link to nowhere
            return False
        raise UserError(f"{entry.path}: cannot be followed ({error.strerror}); mend or remove it") from error
    if entry.is_symlink() and not os.path.exists(entry.path):
        if is_image(entry.name):  # it fails when it is read, and then is named with all other broken images
            return False
        raise UserError(f"{entry.path}: a link to nowhere; mend or remove it")
    if is_image(entry.name):
        raise UserError(f"{entry.path}: named as an image, but no file; remove it")
    return False


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_suffixes()


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of all formats that the installed Pillow reads by itself, in lower case, with their dot."""
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in Image.OPEN and name not in NOT_BY_ITSELF) | {".mpo"}


def passed_over(*folders: tuple[Path, list[str]], what: str = "images") -> str:
    """A line that reports the files below each folder that are not `what` is expected there; "" if there are none."""
    named = [str(folder / path) for folder, others in folders for path in others]
    return f"odd files: {len(named):,} that are no {what} (passed over), first {named[0]}" if named else ""


def stamps(paths: Iterable[Path]) -> Int[np.ndarray, "files"]:
    """The size of each file, which nearly always changes with its content; -1 for a missing file."""
    return np.array([path.stat().st_size if path.is_file() else -1 for path in paths], np.int64)


def by_name(folder: Path, paths: Iterable[str]) -> dict[str, str]:
    """Maps each of `paths`, without its suffix, to the path. Raises UserError for two of one name below `folder`."""
    found: dict[str, str] = {}
    for path in paths:
        stem = os.path.splitext(path)[0]
        with skippable():
            if stem in found:
                raise UserError(f"{folder / path}: {found[stem]} has the same name; rename or remove one of them")
            found[stem] = path
    return found


def listed_path(text: str) -> str:
    r"""Normalises a path written in a dataset's file: ./a.jpg to a.jpg, and Windows' train\a.jpg to train/a.jpg."""
    return os.path.normpath(text.replace("\\", "/"))


def read_bytes(path: Path, remedy: str = "mend or remove it") -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def read_text(path: Path) -> str:
    r"""Reads UTF-8 with or without a byte order mark, or UTF-16 with one; all lines end with "\n".

    Raises UserError, naming file and line, for other bytes, and for NUL characters (UTF-16 without its mark).
    """
    encoded = read_bytes(path)
    marked = encoded.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = encoded.decode("utf-16" if marked else "utf-8-sig")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        where = text.find("\0")
        reason = "a NUL character"
    except UnicodeDecodeError as error:
        text = encoded[: error.start].decode("utf-16" if marked else "utf-8-sig", "ignore")
        where, reason = len(text), f"not {'UTF-16' if marked else 'UTF-8'}"
    if where >= 0:
        line = text.count("\n", 0, where) + 1
        raise UserError(f"{path}:{line}: {reason}; save the file as text in UTF-8")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a text, stripped; empty lines are kept, except at the end of the file."""
    return [line.strip() for line in read_text(path).rstrip().split("\n")]


def read_names(path: Path, known: Container[str]) -> list[str]:
    """The names in a file with one name per line; names may contain spaces.

    In VOC's lists of a single class a 1, 0 or -1 follows the name. It is dropped unless the whole line is in `known`.
    Raises UserError for a list without names, and for a name that occurs twice.
    """
    found: dict[str, None] = {}
    for line in filter(None, read_lines(path)):
        words = line.split()
        flagged = len(words) > 1 and words[-1] in ("1", "0", "-1") and line not in known
        name = line[: -len(words[-1])].rstrip() if flagged else line
        with skippable():
            if name in found:
                raise UserError(f"{path}: {name} occurs twice; remove one of its lines")
        found[name] = None
    if not found:
        raise UserError(f"{path}: names no image; write a name per line, or remove the file")
    return list(found)
