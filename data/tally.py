"""What is counted of records, in columns that stay small for millions of them.

A `Tally` counts some records; `merged` adds up several. Truths as large as images are dropped once they are counted.
"""

import hashlib
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from morphism.data import image, targets
from morphism.data.annotations import Annotations
from morphism.data.odd import Odd
from morphism.data.prints import Print, print_of
from morphism.data.records import Source
from morphism.data.targets.masks import Shapes
from morphism.errors import UserError
from morphism.labels import IGNORE

Columns = dict[str, np.ndarray]
NO_PIXELS = np.zeros((0, 0), np.uint8)


class Look(NamedTuple):
    """What a record holds. `problem` says why training would refuse it, or is "".

    truths: one per target; an empty one for those of `lacking`, which the record does not carry.
    """

    size: tuple[int, int] | None
    odd: Odd
    problem: str
    truths: dict[str, Any]
    lacking: frozenset[str] = frozenset()
    print: Print | None = None


def look(source: Source, index: int) -> Look:
    try:
        record = source[index]
        pixels, odd = image.decode(record["image"], record["name"])
        size = pixels.shape[:2]
        truths = {name: targets.get(name).read(record, size, source, index) for name in source.targets}
    except UserError as error:
        return Look(None, Odd(0), " ".join(str(error).split()), {})
    lacking = frozenset(name for name in source.targets if targets.get(name).KEY not in record)
    return Look(size, odd, "", truths, lacking, print_of(pixels))


class Tally(NamedTuple):
    """Counts of some records.

    images: a row per image that can be read: row (of the source), size, odd, exact, look, thumb, plain, truth (a
      checksum of all its truths), boxes (how many; -1 where it is not annotated), slots (those without difficult ones).
    objects: a row per box: box, size (of its image), area, crowd, difficult, known (its mask), mask (its pixels).
    classes: for each target how often each class occurs. pixels: how many pixels each class has, and IGNORE.
    lacking: for each target the images that are not annotated with it.
    bad: why records cannot be read.
    """

    images: Columns
    objects: Columns
    classes: dict[str, Int[np.ndarray, "_"]]
    pixels: Int[np.ndarray, "256"]
    lacking: Counter
    bad: list[str]


def counted(looked: Look, index: int, source: Source) -> Tally:
    """The tally of one record."""
    classes = {name: np.zeros(len(names), np.int64) for name, names in source.targets.items()}
    tally = Tally({}, {}, classes, np.zeros(IGNORE + 1, np.int64), Counter(), [])
    if looked.problem:
        return tally._replace(bad=[looked.problem])
    for name, truth in looked.truths.items():
        found = np.array(targets.get(name).classes(truth), np.int64)
        classes[name] += np.bincount(found, minlength=len(source.targets[name]))
    boxes = looked.truths.get("boxes") if "boxes" not in looked.lacking else None
    masks = looked.truths.get("masks") if "masks" not in looked.lacking else None
    images = {
        "row": np.array([index], np.int64),
        "size": np.array([looked.size], np.int32),
        "odd": np.array([looked.odd], np.int32),
        "exact": np.frombuffer(looked.print.exact, np.uint8)[None],
        "look": np.array([looked.print.look], np.uint64),
        "thumb": looked.print.thumb.reshape(1, -1),
        "plain": np.array([looked.print.plain]),
        "truth": np.array([_checksum(looked.truths)], np.uint64),
        "boxes": np.array([-1 if boxes is None else len(boxes)], np.int32),
        "slots": np.array([-1 if boxes is None else np.count_nonzero(~boxes.difficult)], np.int32),
    }
    painted = looked.truths["segmentation"] if "segmentation" in looked.truths.keys() - looked.lacking else NO_PIXELS
    pixels = np.bincount(painted.ravel(), minlength=IGNORE + 1)
    objects = {} if boxes is None else _objects(boxes, masks, looked.size)
    return Tally(images, objects, classes, pixels, Counter(looked.lacking), [])


def merged(tallies: Sequence[Tally]) -> Tally:
    """The tally of all their records, in this order; there must be one."""
    return Tally(
        _joined(each.images for each in tallies),
        _joined(each.objects for each in tallies),
        {name: sum(each.classes[name] for each in tallies) for name in tallies[0].classes},
        sum(each.pixels for each in tallies),
        reduce(operator.add, (each.lacking for each in tallies)),
        [problem for each in tallies for problem in each.bad],
    )


def _joined(each: Iterable[Columns]) -> Columns:
    held = [columns for columns in each if columns]
    return {name: np.concatenate([columns[name] for columns in held]) for name in held[0]} if held else {}


def _objects(boxes: Annotations, masks: Shapes | None, size: tuple[int, int]) -> Columns:
    count = len(boxes)
    return {
        "box": boxes.boxes,
        "size": np.broadcast_to(np.array(size, np.int32), (count, 2)),
        "area": boxes.area,
        "crowd": boxes.crowd,
        "difficult": boxes.difficult,
        "known": np.zeros(count, bool) if masks is None else masks.outlines.known,
        "mask": np.zeros(count, np.int64) if masks is None else masks.runs.areas.astype(np.int64),
    }


def _checksum(truths: Mapping[str, Any]) -> int:
    """64 bits that are equal for equal truths."""
    digest = hashlib.blake2b(digest_size=8)
    for name, truth in truths.items():
        digest.update(name.encode())
        for part in _parts(truth):
            digest.update(np.ascontiguousarray(part))
    return int.from_bytes(digest.digest(), "little")


def _parts(truth: Any) -> list[Any]:
    if isinstance(truth, Annotations):
        return [truth.boxes, truth.classes, truth.crowd]
    if isinstance(truth, Shapes):
        return [np.frombuffer(truth.outlines.counts, np.uint8), truth.outlines.ends]
    return [np.asarray(truth)]
