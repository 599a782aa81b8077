"""`tfds_panoptic:coco/2017_panoptic`: COCO's panoptic truth from TensorFlow Datasets, read as `coco_panoptic:` reads
files.

A dataset needs the features `image`, `panoptic_image` (a PNG of ids, R + 256 G + 65536 B) and `panoptic_objects`, with
`id`, `label`, `bbox`, `area` and `is_crowd`. TFDS does not say which classes are things: of COCO's 133 classes, the
first 80 are. Boxes, areas and sizes read the whole split, once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8

from morphism.data import panoptic
from morphism.data.annotations import Store, check_size
from morphism.data.id_maps import read_ids
from morphism.data.outlines import Outlines
from morphism.data.panoptic import Categories, Segments
from morphism.data.records import Record
from morphism.data.sources.coco import CATEGORY_IDS
from morphism.data.sources.tfds import SLICES, TfdsBoxed, builder, prepared_builder, split_of, splits
from morphism.errors import UserError

__all__ = ["SLICES", "classes", "load", "splits"]

FIELD, MAP = "panoptic_objects", "panoptic_image"
CLASSES, THINGS = 133, 80  # of COCO; the things come first


@dataclass(frozen=True)
class TfdsPanoptic(TfdsBoxed):
    """A dataset with panoptic truth."""

    kind = "tfds_panoptic"
    field = FIELD

    kinds: Categories

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        return {"boxes": self.classes, "masks": self.classes, "segmentation": self.kinds.pixels}

    @property
    def category_ids(self) -> Sequence[int]:
        return CATEGORY_IDS

    @cached_property
    def _records(self) -> Any:
        decoders = {name: tfds.decode.SkipDecoding() for name in ("image", MAP)}
        try:
            return prepared_builder(self.name, self.data_dir).as_data_source(split=self.split, decoders=decoders)
        except Exception as error:  # ArrayRecord's readers raise whatever lost or cut files lead them to
            raise self._broken(error) from error

    def masks(self, index: int) -> Outlines:
        return self[index]["masks"]

    def segmentation(self, index: int) -> UInt8[np.ndarray, "h w"]:
        return self[index]["segmentation"]

    def __getitem__(self, index: int) -> Record:
        record, name = self._read(index, FIELD), self._name(index)
        segments, store, things = self._pack([index], [record])
        ids = read_ids(record[MAP], name, colours=True)
        check_size(name, self._size(index, record), ids.shape)
        found = panoptic.Truth.of(ids, segments, name, f"its {FIELD}")
        return {
            "image": record["image"],
            "name": name,
            "annotations": store.flat,
            "masks": found.outlines(segments.ids[things]),
            "segmentation": found.classes(self.kinds),
        }

    def _boxes(self, indices: Sequence[int], records: Sequence[dict[str, Any]], where: str = "") -> Store:
        return self._pack(indices, records, where)[1]

    def _pack(
        self, indices: Sequence[int], records: Sequence[dict[str, Any]], where: str = ""
    ) -> tuple[Segments, Store, Int[np.ndarray, "n"]]:
        """The segments of these records, the boxes of the things among them, and the segment of each box."""
        sizes = np.array([self._size(*each) for each in zip(indices, records, strict=True)], np.int32)
        held = [record[FIELD] for record in records]
        owner = np.repeat(np.arange(len(held)), [len(each["id"]) for each in held])

        def column(field: str, kind: type) -> np.ndarray:  # the columns of an image without segments are float
            return np.concatenate([each[field] for each in held]).astype(kind)

        boxes = np.concatenate([np.reshape(each["bbox"], (-1, 4)) for each in held]).astype(np.float64)
        segments = Segments.of(owner, column("id", np.int64), column("label", np.int64), len(held))
        store, things = panoptic.pack_things(
            segments,
            self.kinds,
            boxes=boxes[:, [1, 0, 3, 2]] * np.tile(sizes[owner][:, ::-1], 2),
            sizes=sizes,
            name=lambda position: self._name(indices[position]),
            where=where,
            crowd=column("is_crowd", bool),
            area=column("area", np.float64),
        )
        return segments, store, things


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return _kinds(argument, data_dir).boxes


def load(argument: str, split: str, data_dir: str) -> TfdsPanoptic:
    kinds = _kinds(argument, data_dir)
    return TfdsPanoptic(argument, split_of(argument, split, data_dir), data_dir, kinds.boxes, kinds)


def _kinds(name: str, data_dir: str) -> Categories:
    features = builder(name, data_dir).info.features
    labels = features[FIELD].feature["label"].names if {"image", MAP, FIELD} <= set(features) else ()
    if len(labels) != CLASSES:
        raise UserError(
            f"tfds_panoptic:{name}: has no 'image', {MAP!r} and {FIELD!r} of COCO's {CLASSES} classes, but "
            f"{', '.join(features)}; use tfds: or tfds_masks:"
        )
    return panoptic.separated(labels, np.arange(CLASSES) < THINGS)
