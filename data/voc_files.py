"""Where Pascal VOC's XML files and their images lie: by lists, beside each other, or in two folders."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from morphism.data.files import read_names, scan
from morphism.data.layouts import Look

LISTED = ("train", "val", "trainval", "test")
UNNAMED = "default"  # CVAT's name of a list of everything
IMAGES = ("JPEGImages", "images", "image", "imgs", "img")
XMLS = ("Annotations", "annots", "annotation", "xmls", "xml", "labels")
LISTS = "ImageSets/Main"
ROOT_TAG = re.compile(rb"<annotation[\s>]")


class Place(NamedTuple):
    """The folders of images and XML files of a split, and its list, all as paths from the root; "": no list."""

    images: str
    xmls: str
    listed: str = ""

    def inside(self, folder: str) -> "Place":
        return Place(*(os.path.normpath(f"{folder}/{each}") for each in self[:2]))


def places(root: Path) -> dict[str, Place]:
    """For each split its place. Without lists and folders of splits, all is "train"."""
    lists = {split: f"{LISTS}/{split}.txt" for split in LISTED if (root / LISTS / f"{split}.txt").is_file()}
    if not lists and (root / LISTS / f"{UNNAMED}.txt").is_file():
        lists = {"train": f"{LISTS}/{UNNAMED}.txt"}
    if lists:
        return {split: Place("JPEGImages", "Annotations", path) for split, path in lists.items()}
    look = Look(root)
    outside = {
        split: place.inside(name) for split, name in look.splits().items() if (place := _place(look.below(name)))
    }
    if outside:
        return outside
    found = _place(look)
    if not found:
        return {}
    images, xmls = (look.below(name).splits() if name != "." else {} for name in found[:2])
    inside = {
        split: Place(f"{found.images}/{images[split]}", f"{found.xmls}/{name}")
        for split, name in xmls.items()
        if split in images
    }
    return inside or {"train": found}


def is_voc(path: Path) -> bool:
    """Whether the outermost element of an XML is <annotation>, from its beginning."""
    try:
        with path.open("rb") as file:
            return bool(ROOT_TAG.search(file.read(4096).replace(b"\0", b"")))
    except OSError:
        return False


def xml_files(root: Path, place: Place, images: dict[str, str]) -> dict[str, Path]:
    """Name -> the XML of each record: those in the list, or else all below the folder, sorted."""
    folder = root / place.xmls
    if place.listed:
        return {name: folder / f"{name}.xml" for name in read_names(root / place.listed, images)}
    found = [file for file in scan(folder).others if file.lower().endswith(".xml")]
    return {os.path.splitext(file)[0]: folder / file for file in found}


def _place(look: Look) -> Place | None:
    """The place of the images and XML files in a folder: both in it, or in folders of it."""
    if look.images and any(is_voc(look.path / name) for name in look.beside(".xml")):
        return Place(".", ".")
    images, xmls = look.folder(*IMAGES), look.folder(*XMLS)
    if not xmls or not any(map(is_voc, look.below(xmls).with_suffix(".xml", depth=1))):
        return None
    if images and look.below(images).holds_images(depth=1):
        return Place(images, xmls)
    return Place(".", xmls) if look.images else None
