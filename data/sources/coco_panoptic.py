"""`coco_panoptic:<path>`: COCO's panoptic truth as boxes, masks and classes of pixels.

    <path>/annotations/panoptic_{train,val}2017.json
    <path>/annotations/panoptic_{train,val}2017/<name>.png      or this folder in <path>
    <path>/{train,val}2017/<name>.jpg                           and the other folders that `coco:` knows

A PNG holds R + 256 G + 65536 B, the id of the segment that each pixel belongs to; 0 is void, which is ignored. The JSON
has the category, box, area and iscrowd of each segment. Things have a box and a mask each, crowds included. In
`segmentation`, class 0 is "things", all of them, and each stuff category is a class: detectron2's "separated" form.
`coco_panoptic_all:` keeps all categories instead. Segments do not overlap, so the boxes and masks of things differ a
little from those of `coco:`, which detectron2 trains its instances on.

Boxes, areas and classes come from the JSON when the split is opened, by the rules of `coco:`. A PNG is read with its
record. An id that only the PNG or only the JSON has is an error then.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from morphism.data import coco_json, panoptic
from morphism.data.annotations import check_size, packed_ids, packed_names
from morphism.data.file_source import BoxedFiles
from morphism.data.files import listed_path, read_bytes, stamps
from morphism.data.id_maps import read_ids
from morphism.data.layouts import SPLITS, Layout, Look, Seen
from morphism.data.outlines import Outlines
from morphism.data.panoptic import Categories, Segments
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError

KIND = "coco_panoptic"
LAYOUT = Layout("COCO panoptic", "annotations/panoptic_train2017.json, its folder of PNGs, and train2017/", rank=1)


@dataclass(frozen=True, kw_only=True)
class CocoPanoptic(BoxedFiles):
    """Images with a PNG of segment ids each. things: the segment of each row of `store`."""

    pixel_category_ids: Sequence[int | str | None]  # the dataset's own id of each class of pixels, None for "things"
    map_folder: Path
    map_files: np.ndarray
    listed: str  # the JSON, for errors
    kinds: Categories
    segments: Segments
    things: Int[np.ndarray, "n"]

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"boxes": self.classes, "masks": self.classes, "segmentation": self.kinds.pixels}

    @property
    def mask_stamps(self) -> Int[np.ndarray, "records"]:
        return stamps(map(self._map_path, range(len(self))))

    def masks(self, index: int) -> Outlines:
        return self._outlines(index, self._segments(index))

    def segmentation(self, index: int) -> UInt8[np.ndarray, "h w"]:
        return self._segments(index).classes(self.kinds)

    def truth(self, index: int) -> dict[str, Any]:
        found = self._segments(index)
        return {
            "annotations": self.store[index],
            "masks": self._outlines(index, found),
            "segmentation": found.classes(self.kinds),
        }

    def _map_path(self, index: int) -> Path:
        return self.map_folder / os.fsdecode(self.map_files[index])

    def _segments(self, index: int) -> panoptic.Truth:
        """The PNG of a record. Raises UserError unless its ids are those of the JSON."""
        path = self._map_path(index)
        ids = read_ids(read_bytes(path), str(path), colours=True)
        check_size(str(path), ids.shape, self.sizes[index])
        return panoptic.Truth.of(ids, self.segments[index], str(path), self.listed)

    def _outlines(self, index: int, found: panoptic.Truth) -> Outlines:
        rows = slice(*self.store.offsets[index : index + 2].tolist())
        return found.outlines(self.segments.ids[self.things[rows]])


def seen(look: Look) -> Seen:
    held = [path for split in SPLITS if (path := _annotation_file(look.path, split))]
    return Seen.of(("annotations/panoptic_<split>.json", held)) if held else Seen((), (LAYOUT.needs,))


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    root = root_folder(argument, KIND)
    held = tuple(split for split in SPLITS if _annotation_file(root, split))
    if not held:
        raise UserError(f"{root}: no annotations; expected {root}/annotations/panoptic_train2017.json, for example")
    return held


def load(
    argument: str, split: str, data_dir: str, form: Callable[..., Categories] = panoptic.separated
) -> CocoPanoptic:
    """form: how categories become classes."""
    root = root_folder(argument, KIND)
    path = _annotation_file(root, split)
    read = coco_json.read_json(path)
    segments, maps = _flattened(read["annotations"], path)
    content = coco_json.content_of({**read, "annotations": segments}, path, root, split)
    files = _maps_of(content, maps, path)
    names, shared = coco_json.distinct(content.names, content.category_ids)
    is_thing = _is_thing(read["categories"], content.category_ids, path)
    kinds = form(names, is_thing)
    order = np.argsort(content.owner, kind="stable")
    segments = [content.objects[row] for row in order.tolist()]
    ids = np.array([each["segment"] for each in segments], np.int64)
    found = Segments.of(content.owner[order], ids, content.classes[order], len(content.sizes))
    boxes = coco_json.stated_boxes(segments, path)
    store, things = panoptic.pack_things(
        found,
        kinds,
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        sizes=content.sizes,
        name=lambda index: f"{path}: {content.file_names[index]}",
        where=str(path),
        crowd=np.array([coco_json.is_crowd(each, path) for each in segments], bool),
        area=np.array([coco_json.area(each) for each in segments], np.float64),
    )
    return CocoPanoptic(
        root=content.folder,
        files=packed_names(content.file_names),
        classes=kinds.boxes,
        category_ids=tuple(np.array(content.category_ids, object)[is_thing]),
        image_ids=packed_ids(content.image_ids),
        sizes=content.sizes,
        store=replace(store, oddities="; ".join(filter(None, (shared, content.oddities, store.oddities)))),
        pixel_category_ids=_pixel_ids(content.category_ids, kinds),
        map_folder=_map_folder(root, path),
        map_files=packed_names(files),
        listed=str(path),
        kinds=kinds,
        segments=found,
        things=things,
    )


def _annotation_file(root: Path, split: str) -> Path | None:
    names = (f"panoptic_{split}2017", f"panoptic_{split}")
    paths = [folder / f"{name}.json" for folder in (root / "annotations", root) for name in names]
    return next((path for path in paths if path.is_file()), None)


def _map_folder(root: Path, path: Path) -> Path:
    """The folder of PNGs that belongs to the JSON in `path`."""
    folders = (path.with_suffix(""), root / path.stem)
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(f"{path}: no folder of PNGs {folders[0]}; unpack {path.stem}.zip there")


def _flattened(annotations: list[Any], path: Path) -> tuple[list[dict[str, Any]], dict[Any, str]]:
    """The segments of all images as annotations of `coco:`, and the PNG of each image by the image's id.

    The id of such an annotation is <image>/<segment>, because only the two together are unique.
    """
    segments, maps = [], {}
    for annotation in annotations:
        try:
            image, file, held = (annotation[key] for key in ("image_id", "file_name", "segments_info"))
            ids = [int(each["id"]) for each in held]
            maps[image] = listed_path(file)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: annotation {str(annotation)!r:.60} is not in COCO's panoptic format; it needs image_id, "
                "file_name and segments_info, each with an id: export it again"
            ) from error
        if len(set(ids)) < len(ids):
            twice = next(each for each in ids if ids.count(each) > 1)
            raise UserError(f"{path}: {file} has two segments {twice}; give each an id of its own")
        segments += [
            {**each, "id": f"{image}/{number}", "segment": number, "image_id": image}
            for each, number in zip(held, ids, strict=True)
        ]
    return segments, maps


def _maps_of(content: coco_json.Content, maps: Mapping[Any, str], path: Path) -> list[str]:
    """The PNG of each image. Raises UserError for an image without one."""
    for image in content.image_ids:
        if image not in maps:
            raise UserError(f"{path}: image {image!r:.60} has no annotation; add it, or remove the image")
    return [maps[image] for image in content.image_ids]


def _pixel_ids(ids: Sequence[int | str], kinds: Categories) -> tuple[int | str | None, ...]:
    """The id of each class of pixels; None for one that stands for several categories."""
    classes = kinds.pixel_class.tolist()
    return tuple(ids[classes.index(k)] if classes.count(k) == 1 else None for k in range(len(kinds.pixels)))


def _is_thing(
    categories: Sequence[dict[str, Any]], ids: Sequence[int | str], path: Path
) -> Bool[np.ndarray, "categories"]:
    """Whether each of the categories in `ids` is of things."""
    flags = {each["id"]: each.get("isthing") for each in categories}
    for number, flag in flags.items():
        if flag not in (0, 1):
            raise UserError(f"{path}: category {number} has isthing {flag!r:.60}; write 1 for things, 0 for stuff")
    return np.array([flags[number] for number in ids], bool)
