"""Panoptic segmentation, as fused from the results of two parts of a task: each pixel has a class and an object.

Evaluated by panoptic quality (tasks/panoptic_quality.py). The truth of an image is made of its objects and of the class
of each pixel (`truth_of`); results are also written in COCO's panoptic format.

Predictions, [B,...] of D detections, T classes of things and K classes of pixels:

    segments uint16 [B,H,W]     0 void, 1 + d for detection d, 1 + D + k for class k of pixels
    boxes, scores, classes      of the detections, as Detection predicts them
    pixels, true uint8 [B,H,W]  predicted and true class of each pixel, as Segmentation predicts them
    original_size [B,2]         what of H and W is the image
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Integer, UInt8, UInt16

from morphism.data import id_maps, outlines
from morphism.data.annotations import Annotations
from morphism.data.outlines import Outlines
from morphism.data.panoptic import THINGS
from morphism.data.records import Source
from morphism.tasks import coco, panoptic_files
from morphism.tasks.layers import VOID, Layer, Object, Objects, Regions
from morphism.tasks.panoptic_quality import Segments, means, qualities, sums_of
from morphism.tasks.task import File, Metrics, Predictions

NAMES = tuple(f"{name}{of}" for of in ("", "_things", "_stuff") for name in ("pq", "sq", "rq"))

Map = Integer[np.ndarray, "h w"]


@dataclass(frozen=True)
class Categories:
    """The categories of segments: classes of objects, then classes of pixels.

    things: the names of the classes of objects. pixels: of the classes of pixels.
    """

    things: tuple[str, ...]
    pixels: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.things + self.pixels

    @property
    def stuff(self) -> tuple[bool, ...]:
        """Whether each class of pixels is stuff: all but those of things."""
        return tuple(name not in self.things and name != THINGS for name in self.pixels)

    @property
    def same(self) -> tuple[int, ...]:
        """For each class of objects the class of pixels of its name, -1 if there is none."""
        return tuple(self.pixels.index(name) if name in self.pixels else -1 for name in self.things)


@dataclass(frozen=True)
class Panoptic:
    """How fused results are evaluated and shown. tasks/task.py describes the members.

    `classes`, and the `classes` of a source, are Categories.
    """

    headline: ClassVar[tuple[str, ...]] = ("pq", "sq", "rq", "pq_things", "pq_stuff")
    higher_is_better: ClassVar[tuple[str, ...]] = headline
    image_score: ClassVar[str] = "panoptic quality of the image"
    masks: ClassVar[tuple[str, ...]] = ("",)

    def init_metrics(self, source: Source) -> Metrics:
        return {"source": source, "sums": np.zeros((len(source.classes.names), 4)), "maps": [], "images": []}

    def update_metrics(self, metrics: Metrics, predictions: Predictions) -> Metrics:
        source, sums, maps = metrics["source"], metrics["sums"].copy(), list(metrics["maps"])
        images = []
        for row, index in enumerate(predictions["id"].tolist()):
            found, (height, width) = found_in(predictions, row, source.classes), predictions["original_size"][row]
            objects = source.annotations(index)
            read = getattr(source, "masks", None)
            known = read(index) if read else Outlines.of([None] * len(objects))
            true = truth_of(objects, known, predictions["true"][row, :height, :width], source.classes)
            own = sums_of(found, true, len(sums))
            images.append(_image_result(own, source.classes.names))
            sums += own
            maps.append(panoptic_files.stored(index, found))
        return metrics | {"sums": sums, "maps": maps, "images": images}

    def summarise(self, metrics: Metrics) -> dict[str, Any]:
        """PQ, SQ and RQ over all categories, over things and over stuff; -1 if none occurs. Shares in 0..1.

        `per_class` has the three, and the numbers of segments, for each category that occurs.
        """
        categories, sums = metrics["source"].classes, metrics["sums"]
        is_thing = np.arange(len(sums)) < len(categories.things)
        values = [value for of in (is_thing | True, is_thing, ~is_thing) for value in means(sums, of)]
        each = np.concatenate([qualities(sums), sums[:, 1:]], axis=1)
        names = ("pq", "sq", "rq", "right", "wrong", "missed")
        return dict(zip(NAMES, values, strict=True)) | {
            "examples": len(metrics["maps"]),
            "per_class": {
                name: dict(zip(names, row.tolist(), strict=True))
                for name, row in zip(categories.names, each, strict=True)
                if row[0] >= 0
            },
        }

    def table(self, summary: dict[str, Any]) -> dict[str, float]:
        """The nine numbers that are known, then PQ per category that occurs."""
        rows = {name: summary[name] for name in NAMES if summary[name] >= 0 or name == "pq"}
        return rows | {f"pq, {name}": each["pq"] for name, each in summary["per_class"].items()}

    def files(self, metrics: Metrics, source: Source) -> tuple[File, ...]:
        return (panoptic_files.written(metrics["maps"], source),)

    def plots(self, metrics: Metrics, summary: dict[str, Any]) -> dict[str, Any]:
        """PQ, SQ and RQ per category that occurs."""
        found = summary["per_class"]
        return {
            "per_class": {
                "classes": list(found),
                "bars": {name.upper(): [each[name] for each in found.values()] for name in ("pq", "sq", "rq")},
                "count": [round(each["right"] + each["missed"]) for each in found.values()],
                "of": "segments",
            }
        }

    def per_image(self, metrics: Metrics, predictions: Predictions) -> list[dict[str, Any]]:
        """Without cells: a segment that is not found is not one of another class."""
        return metrics["images"]

    def describe(self, predictions: Predictions, row: int, classes: Categories) -> dict[str, Any]:
        """The segments, things first and best first: id in the map, class, area and mask in COCO's run lengths.

        Things have a score, a box, `pixels`, the most frequent class of their pixels, and `agreement`, the share of
        their pixels whose class has their name or is that of all things.
        """
        found = found_in(predictions, row, classes)
        (height, width), slots = found.map.shape, len(predictions["classes"][row])
        areas = np.bincount(found.map.ravel(), minlength=len(found.classes) + 1)
        order = np.append(-predictions["scores"][row], np.arange(len(classes.pixels)) + 1.0)
        ids = [int(slot) + 1 for slot in np.argsort(order, kind="stable") if areas[slot + 1]]
        masks = id_maps.outlines_of(found.map, np.array(ids, np.int64))
        pixels = predictions["pixels"][row, :height, :width]
        segments = []
        for number, counts in zip(ids, masks, strict=True):
            each = {"id": number, "class": classes.names[found.classes[number - 1]], "area": int(areas[number])}
            if number <= slots:
                each |= _thing(predictions, row, number - 1, pixels[found.map == number], classes)
            segments.append(each | {"mask": coco.text_of({"size": [height, width], "counts": counts})})
        return {"segments": segments}

    def lines(self, described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
        """Of each thing its class, score and box, and the class of its pixels with the agreement; then of each stuff
        its class and area.
        """
        segments = described["segments"]
        things = [
            (each["class"], each["score"], each["box"], each["pixels"], each["agreement"])
            for each in shown(segments, threshold, most)
        ]
        return things + [(each["class"], each["area"]) for each in segments if "score" not in each]

    def counts(self, described: dict[str, Any], threshold: float, most: int) -> tuple[int, int]:
        things = [each for each in described["segments"] if "score" in each]
        return len(shown(things, threshold, most)), len(things)

    def mask(self, predictions: Predictions, row: int, name: str = "") -> UInt16[np.ndarray, "h w"]:
        """The ids of the segments that `describe` lists."""
        height, width = predictions["original_size"][row]
        return predictions["segments"][row, :height, :width]

    def found_layers(
        self, predictions: Predictions, row: int, classes: Categories, threshold: float, most: int
    ) -> Sequence[Layer]:
        """The segments, and labels of the things without their boxes."""
        things = shown(self.describe(predictions, row, classes)["segments"], threshold, most)
        numbers = {name: number for number, name in enumerate(classes.things)}
        objects = [Object(numbers[each["class"]], each["score"], each["box"], framed=False) for each in things]
        return _regions(found_in(predictions, row, classes), classes), Objects(classes.names, objects)

    def true_layers(self, source: Source, index: int) -> Sequence[Layer]:
        record, read = source[index], getattr(source, "masks", None)
        if "annotations" not in record or "segmentation" not in record:
            return ()
        objects = record["annotations"]
        known = read(index) if read else Outlines.of([None] * len(objects))
        segments = truth_of(objects, known, record["segmentation"], source.classes)
        rows = zip(objects.classes.tolist(), objects.boxes.tolist(), strict=True)
        marked = [Object(number, None, box, framed=False) for number, box in rows]
        return _regions(segments, source.classes), Objects(source.classes.names, marked)


def _image_result(sums: Float[np.ndarray, "k 4"], names: Sequence[str]) -> dict[str, Any]:
    """What `per_image` says of an image, from its sums (tasks/panoptic_quality.py)."""
    quality = means(sums, np.ones(len(sums), bool))[0]
    right, wrong, missed = sums[:, 1:].astype(int).T
    true, found = right + missed, right + wrong
    return {
        "score": None if quality < 0 else round(float(quality), 4),
        "true": {names[each]: int(true[each]) for each in np.flatnonzero(true)},
        "predicted": {names[each]: int(found[each]) for each in np.flatnonzero(found)},
        "cells": [],
    }


def shown(segments: list[dict[str, Any]], threshold: float, most: int) -> list[dict[str, Any]]:
    """The first `most` of `describe`'s things with a score of at least `threshold`, which people are shown."""
    return [each for each in segments if each.get("score", -1) >= threshold][:most]


def _regions(segments: Segments, categories: Categories) -> Regions:
    return Regions(categories.names, segments.map, np.append(VOID, segments.classes))


def found_in(predictions: Predictions, row: int, categories: Categories) -> Segments:
    """The predicted segments of an image: detections, then classes of pixels."""
    classes = np.concatenate(
        [predictions["classes"][row], len(categories.things) + np.arange(len(categories.pixels))]
    ).astype(np.int64)
    return Segments(Panoptic().mask(predictions, row), classes, np.zeros(len(classes), bool))


def truth_of(
    objects: Annotations, known: Outlines, pixels: UInt8[np.ndarray, "h w"], categories: Categories
) -> Segments:
    """The true segments of an image: objects, then classes of stuff.

    Where outlines share pixels, the smaller object has them. An object of unknown outline has, of the pixels that are
    left, those in its box whose class has its name; the smallest box first. Pixels that are then of things, but of no
    object, are void. Difficult objects are like crowds.
    """
    things = len(objects)
    numbers = np.zeros(256, np.int32)
    numbers[: len(categories.pixels)] = np.where(categories.stuff, things + 1 + np.arange(len(categories.pixels)), 0)
    segments = numbers[pixels]
    areas = np.prod(objects.boxes[:, 2:] - objects.boxes[:, :2], axis=1)
    rows = np.argsort(-objects.area, kind="stable")
    for row in rows[known.known[rows]].tolist():
        segments[outlines.mask(known[row], pixels.shape) > 0] = 1 + row
    rows = np.argsort(areas, kind="stable")
    for row in rows[~known.known[rows]].tolist():
        x0, y0, x1, y1 = np.ceil(objects.boxes[row] - 0.5).astype(int).tolist()  # pixels whose middle is in the box
        part = segments[y0:y1, x0:x1]
        own = pixels[y0:y1, x0:x1] == categories.same[objects.classes[row]]
        part[own & (part == 0)] = 1 + row
    classes = np.concatenate([objects.classes, len(categories.things) + np.arange(len(categories.pixels))])
    crowd = np.concatenate([objects.crowd | objects.difficult, np.zeros(len(categories.pixels), bool)])
    return Segments(segments, classes.astype(np.int64), crowd)


def _thing(
    predictions: Predictions, row: int, slot: int, pixels: UInt8[np.ndarray, "n"], categories: Categories
) -> dict[str, Any]:
    """What `describe` says of a thing besides what it says of stuff; `pixels` are the classes of its pixels."""
    shares = np.bincount(pixels, minlength=len(categories.pixels)) / len(pixels)
    name = categories.things[predictions["classes"][row, slot]]
    agreeing = [index for index, each in enumerate(categories.pixels) if each in (name, THINGS)]
    return {
        "score": round(float(predictions["scores"][row, slot]), 4),
        "box": np.round(predictions["boxes"][row, slot].astype(float), 1).tolist(),
        "pixels": categories.pixels[int(np.argmax(shares))],
        "agreement": round(float(shares[agreeing].sum()), 4),
    }
