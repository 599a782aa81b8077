"""Fused results in COCO's panoptic format: a JSON, and a PNG per image whose pixels are R + 256 G + 65536 B = id.

Source: cocodataset.org/#format-results, "4. Panoptic Segmentation"; panopticapi, id2rgb.
"""

import io
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt16
from PIL import Image

from morphism.data.id_maps import IdMap
from morphism.data.records import Source
from morphism.tasks.panoptic_quality import Segments
from morphism.tasks.task import File


class Stored(NamedTuple):
    """The segments of a record, small in memory. classes: the category of each segment."""

    index: int
    size: tuple[int, int]
    compressed: bytes
    classes: Int[np.ndarray, "n"]


def stored(index: int, found: Segments) -> Stored:
    return Stored(index, found.map.shape, zlib.compress(found.map.tobytes(), 1), found.classes)


def written(maps: Sequence[Stored], source: Source) -> File:
    """The JSON's annotations and categories, with the PNGs. `source.classes` are the Categories of the segments."""
    categories = source.classes
    ids = category_ids(source)
    is_thing = [True] * len(categories.things) + [False] * len(categories.pixels)
    kinds = zip(ids, categories.names, is_thing, [*is_thing[: len(categories.things)], *categories.stuff], strict=True)
    listed = [{"id": i, "name": name, "isthing": int(thing)} for i, name, thing, used in kinds if used]
    annotations = [
        {
            "image_id": image_id(source, each.index),
            "file_name": file_name(source, each.index),
            "segments_info": segments_info(restored(each), each.classes, ids),
        }
        for each in maps
    ]
    value = {"annotations": annotations, "categories": listed}
    return File("segments", "segments, in COCO's panoptic format,", value, _images(maps, source))


def restored(each: Stored) -> UInt16[np.ndarray, "h w"]:
    return np.frombuffer(zlib.decompress(each.compressed), np.uint16).reshape(each.size)


def id_image(segments: UInt16[np.ndarray, "h w"]) -> Image.Image:
    """An image whose pixels are ids in COCO's panoptic format."""
    wide = segments.astype(np.uint32)
    return Image.fromarray(np.stack([wide >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8))


def segments_info(segments: UInt16[np.ndarray, "h w"], classes: Int[np.ndarray, "n"], ids: Sequence[Any]) -> list[Any]:
    """COCO's record of each segment that has a pixel: id, category, area and box (x, y, width, height)."""
    found = IdMap.of(segments)
    each = zip(found.ids.tolist(), found.areas.tolist(), found.boxes.astype(int).tolist(), strict=True)
    return [
        {
            "id": number,
            "category_id": ids[classes[number - 1]],
            "area": area,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": 0,
        }
        for number, area, (x0, y0, x1, y1) in each
        if number
    ]


def category_ids(source: Source) -> list[Any]:
    """The dataset's id of each category. Stuff is numbered on from the largest if the dataset has no ids for it."""
    things = source.category_ids
    pixels = getattr(source, "pixel_category_ids", None)
    if pixels is None:
        first = 1 + max((each for each in things if isinstance(each, int)), default=0)
        pixels = range(first, first + len(source.classes.pixels))
    return [each if each is not None else 0 for each in (*things, *pixels)]


def image_id(source: Source, index: int) -> Any:
    found = source.image_ids[index]
    return found.item() if isinstance(found, np.generic) else found


def file_name(source: Source, index: int) -> str:
    """Twelve digits for a number, as COCO calls its images; an id of text without what no file name can hold."""
    found = image_id(source, index)
    return f"{found:012}.png" if isinstance(found, int) else f"{re.sub('[^A-Za-z0-9._-]+', '_', found)}.png"


def _images(maps: Sequence[Stored], source: Source) -> Iterator[tuple[str, bytes]]:
    for each in maps:
        content = io.BytesIO()
        id_image(restored(each)).save(content, "PNG")
        yield file_name(source, each.index), content.getvalue()
