"""Objects that a person has drawn with a labelling program: shapes of an image, as boxes and outlines."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from morphism.data import outlines
from morphism.data.annotations import pack, packed_names
from morphism.data.file_source import BoxedFiles
from morphism.data.outlines import Outlines

AROUND = 64  # corners of a polygon that stands for a circle or an ellipse


class Drawn(NamedTuple):
    """An object: its label, its box x0, y0, x1, y1 in pixels, its outline in an image of a size, None if unknown."""

    label: str
    box: tuple[float, float, float, float]
    outline: bytes | None = None


class Sheet(NamedTuple):
    """An image with its objects. file: below the root. name: of its annotations, for errors. size: height, width."""

    file: str
    name: str
    size: tuple[int, int]
    objects: Sequence[Drawn]


def polygons(label: str, parts: Sequence[Float[np.ndarray, "_ 2"]], size: tuple[int, int]) -> Drawn:
    """The object of one or several polygons [n, 2], x and y in pixels of an image of `size`."""
    corners = np.concatenate(parts)
    counts = outlines.read([part.ravel().tolist() for part in parts], size).counts
    return Drawn(label, (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()), counts)


def rectangle(label: str, corners: Float[np.ndarray, "n 2"]) -> Drawn:
    """The object of a box, around `corners`; its outline is unknown."""
    return Drawn(label, (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()))


def mask(label: str, inside: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> Drawn | None:
    """The object of the pixels `inside` [h, w], whose top left pixel is at `corner`, x and y; None without a pixel.

    What lies beyond the image is cut off.
    """
    whole = np.zeros(size, np.uint8)
    x, y = corner
    top, left = max(0, -y), max(0, -x)
    part = np.asarray(inside, np.uint8)[top : max(0, size[0] - y), left : max(0, size[1] - x)]
    whole[y + top : y + top + part.shape[0], x + left : x + left + part.shape[1]] = part
    if not whole.any():
        return None
    counts = outlines.of_mask(whole)
    return Drawn(label, outlines.box(counts, size), counts)


def ellipse(center: Float[np.ndarray, "2"], radii: Float[np.ndarray, "2"]) -> Float[np.ndarray, "n 2"]:
    """AROUND corners of an ellipse, with its leftmost, topmost, rightmost and lowest points."""
    angles = np.arange(AROUND) * (2 * np.pi / AROUND)
    return center + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def source(
    root: Path, sheets: Sequence[Sheet], classes: Sequence[str], where: str, masks: bool, notes: Sequence[str]
) -> BoxedFiles:
    """The source of `sheets`, in which areas are those of outlines, or of boxes without one. `notes` are oddities."""
    objects = [each for sheet in sheets for each in sheet.objects]
    owner = np.repeat(np.arange(len(sheets)), [len(sheet.objects) for sheet in sheets])
    sizes = np.array([sheet.size for sheet in sheets], np.int32).reshape(-1, 2)
    number = {name: index for index, name in enumerate(classes)}
    known = [_with_pixels(each.outline, sheets[row].size) for each, row in zip(objects, owner.tolist(), strict=True)]
    boxes = np.array([each.box for each in objects], np.float64).reshape(-1, 4)
    areas = [
        outlines.area(counts, sheets[row].size) if counts else (box[2] - box[0]) * (box[3] - box[1])
        for counts, row, box in zip(known, owner.tolist(), _clipped(boxes, sizes[owner]).tolist(), strict=True)
    ]
    store = pack(
        owner=owner,
        boxes=boxes,
        classes=np.array([number[each.label] for each in objects], np.int32),
        sizes=sizes,
        name=lambda index: sheets[index].name,
        where=where,
        area=np.array(areas, np.float64),
        outlines=Outlines.of(known) if masks and any(known) else None,
        notes=notes,
    )
    return BoxedFiles(
        root=root,
        files=packed_names([sheet.file for sheet in sheets]),
        classes=tuple(classes),
        category_ids=range(1, len(classes) + 1),
        image_ids=np.array([os.path.splitext(sheet.file)[0] for sheet in sheets]),
        sizes=sizes,
        store=store,
    )


def counted(found: Mapping[str, Sequence[str]], rule: Callable[[str], str]) -> list[str]:
    """A line for each kind of thing that is not an object, given where it occurs."""
    return [f"{len(names):,} {rule(kind)}, first in {names[0]}" for kind, names in found.items() if names]


def _with_pixels(counts: bytes | None, size: tuple[int, int]) -> bytes | None:
    return counts if counts and outlines.area(counts, size) else None


def _clipped(boxes: Float[np.ndarray, "n 4"], sizes: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 4"]:
    return np.clip(boxes, 0, np.tile(sizes[:, ::-1], 2)) if len(boxes) else boxes
