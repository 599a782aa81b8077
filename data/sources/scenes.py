"""`scenes:<count>[x<size>]`: synthetic images of several embedded garments, with boxes and masks.

"scenes:2000x128" has 2,000 images of 128 x 128 in train, made from the embedded train images, and a quarter as many in
val, from the embedded val images. The default size is 128. There are no files: a record is a pure function of its split
and index.

The ten garments of Fashion-MNIST are grouped into five kinds that can be distinguished in small images: T-shirts,
pullovers, coats and shirts are tops; sandals, sneakers and boots are shoes. All kinds are equally likely.

A scene is a background (four random corner colours, stripes, noise) with 1 to 6 garments. Each garment is tinted,
slightly stretched, possibly mirrored, and between a quarter and a half of the image high. Garments cover each other and
may be cut by the image's edge, but at least half of the pixels of each stay visible; if no such position is found,
there are fewer garments.

Boxes are tight around all pixels of a garment within the image, hidden ones included (amodal). Masks are of its visible
pixels. In `segmentation`, uint8 [H,W], visible pixels of a garment have its class + 1; 0 is background.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from morphism.data import id_maps
from morphism.data.annotations import Annotations
from morphism.data.outlines import Outlines
from morphism.data.records import Record
from morphism.data.sources import embedded
from morphism.errors import UserError

CLASSES = ("top", "trouser", "dress", "shoe", "bag")
PIXEL_CLASSES = ("background", *CLASSES)
KINDS = np.array([0, 1, 0, 2, 0, 3, 0, 3, 4, 3])  # the kind of each of embedded.CLASSES
SPLITS = ("train", "val")
MASKS = True
SEED = 20170825
SIZE, SMALLEST, LARGEST = 128, 32, 4096
MAX_GARMENTS = 6
TRIALS = 8  # for the position of each garment
HEIGHT = (1 / 4, 1 / 2)  # share of the image's height
SEEN = 0.5  # least visible share of a garment's pixels
STRIPES = 12  # at most, across the image
NOISE = 12  # grey levels
FAINT = 16  # grey level up to which pixels of Fashion-MNIST are background


class Garment(NamedTuple):
    """The part of a garment within the image, hidden or not; its top left corner is at row `top`, column `left`."""

    label: int
    top: int
    left: int
    grey: Float[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]


class Wardrobe(NamedTuple):
    greys: Float[np.ndarray, "n 28 28"]  # 0..1
    masks: Float[np.ndarray, "n 28 28"]  # 0 or 1
    of_kinds: list[np.ndarray]  # the positions of each kind


@dataclass(frozen=True)
class Scenes:
    split: str
    count: int
    size: int
    outlined: bool = False  # whether records have masks
    classes = CLASSES
    category_ids = range(1, len(CLASSES) + 1)
    oddities = ""

    @property
    def targets(self) -> Mapping[str, Sequence[str]]:
        own = {"masks": CLASSES} if self.outlined else {}
        return {"boxes": CLASSES, **own, "segmentation": PIXEL_CLASSES}

    def __len__(self) -> int:
        return self.count

    @property
    def image_ids(self) -> range:
        return range(self.count)

    @property
    def sizes(self) -> np.ndarray:
        return np.broadcast_to(np.int32(self.size), (self.count, 2))

    @property
    def box_counts(self) -> np.ndarray:
        """The most that a scene can have: counting would mean generating all of them."""
        return np.broadcast_to(MAX_GARMENTS, (self.count, 3))

    def annotations(self, index: int) -> Annotations:
        return _annotations(self._garments(index)[0], self.size)

    def masks(self, index: int) -> Outlines:
        return _outlines(*self._garments(index))

    def segmentation(self, index: int) -> UInt8[np.ndarray, "s s"]:
        return _classes(*self._garments(index))

    def __getitem__(self, index: int) -> Record:
        garments, owner = self._garments(index)
        own = {"masks": _outlines(garments, owner)} if self.outlined else {}
        return self._painted(index, garments, owner) | {"annotations": _annotations(garments, self.size)} | own

    def masked(self, index: int) -> Record:
        """The record without boxes."""
        return self._painted(index, *self._garments(index))

    def _painted(self, index: int, garments: list[Garment], owner: UInt8[np.ndarray, "s s"]) -> Record:
        rng = np.random.default_rng((SEED, SPLITS.index(self.split), index, 1))
        image, name = _paint(garments, owner, rng), f"scenes/{self.split}/{index}"
        return {"image": image, "name": name, "segmentation": _classes(garments, owner)}

    def _garments(self, index: int) -> tuple[list[Garment], UInt8[np.ndarray, "s s"]]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return _arrange(self.split, self.size, np.random.default_rng((SEED, SPLITS.index(self.split), index, 0)))


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    _parse(argument)
    return SPLITS


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return CLASSES


def load(argument: str, split: str, data_dir: str, masks: bool = False) -> Scenes:
    count, size = _parse(argument)
    return Scenes(split, count if split == "train" else max(1, count // 4), size, masks)


def _parse(argument: str) -> tuple[int, int]:
    count, _, size = argument.partition("x")
    try:
        found = int(count), int(size or SIZE)
    except ValueError:
        found = (0, 0)
    if found[0] < 1 or not SMALLEST <= found[1] <= LARGEST:
        raise UserError(
            f"config.data.source is 'scenes:{argument}'; write scenes:2000x128 for 2,000 images of 128 x 128, "
            f"with a size from {SMALLEST} to {LARGEST}"
        )
    return found


@cache
def _wardrobe(split: str) -> Wardrobe:
    """The embedded images of a split, with their masks.

    A pixel belongs to the garment if there are brighter pixels on both sides of it, in its row and in its column. This
    fills dark areas inside, and keeps the gap between two legs.
    """
    source = embedded.Embedded(split)
    records = [source[index] for index in range(len(source))]
    images = np.stack([record["image"] for record in records])
    lit = images > FAINT

    def spanned(axis: int) -> np.ndarray:
        ahead = np.logical_or.accumulate(lit, axis=axis)
        behind = np.flip(np.logical_or.accumulate(np.flip(lit, axis), axis=axis), axis)
        return ahead & behind

    mask = spanned(1) & spanned(2)
    kinds = KINDS[[record["label"] for record in records]]
    of_kinds = [np.flatnonzero(kinds == kind) for kind in range(len(CLASSES))]
    return Wardrobe(images.astype(np.float32) / 255, mask.astype(np.float32), of_kinds)


@cache
def _resampling(size: int) -> Float[np.ndarray, "size 28"]:
    """The matrix that resizes 28 pixels to `size`, bilinear."""
    middle = np.clip((np.arange(size) + 0.5) * 28 / size - 0.5, 0, 27)
    return np.maximum(0, 1 - np.abs(middle[:, None] - np.arange(28))).astype(np.float32)


def _arrange(split: str, size: int, rng: np.random.Generator) -> tuple[list[Garment], UInt8[np.ndarray, "s s"]]:
    """The garments of a scene, the last on top, and which one each pixel shows: 1, 2, ..., or 0 for none."""
    greys, masks, of_kinds = _wardrobe(split)
    garments: list[Garment] = []
    owner = np.zeros((size, size), np.uint8)
    all_pixels, seen_pixels = np.zeros(1), np.zeros(1)  # of nothing, then of each garment
    wanted = rng.integers(1, MAX_GARMENTS + 1)
    for _ in range(TRIALS * wanted):
        if len(garments) == wanted:
            break
        kind = int(rng.integers(len(CLASSES)))
        index = of_kinds[kind][rng.integers(len(of_kinds[kind]))]
        share, stretch, mirrored, y, x = rng.random(5)
        height = max(8, round(size * HEIGHT[0] * (HEIGHT[1] / HEIGHT[0]) ** share))
        width = max(8, round(height * (0.8 + 0.4 * stretch)))
        across = _resampling(width)[:, :: -1 if mirrored < 0.5 else 1]
        down = _resampling(height)
        whole = down @ masks[index] @ across.T >= 0.5
        top, left = round(y * size - height / 2), round(x * size - width / 2)
        part = (slice(max(0, -top), size - top), slice(max(0, -left), size - left))
        mask = whole[part]
        top, left = max(0, top), max(0, left)
        below = owner[top : top + mask.shape[0], left : left + mask.shape[1]]
        all_of_it, inside = np.count_nonzero(whole), np.count_nonzero(mask)
        left_over = seen_pixels - np.bincount(below[mask], minlength=len(seen_pixels))
        if inside < SEEN * all_of_it or not inside or (left_over[1:] < SEEN * all_pixels[1:]).any():
            continue
        grey = (down @ greys[index] @ across.T)[part]
        garments.append(Garment(kind, top, left, grey, mask))
        all_pixels, seen_pixels = np.append(all_pixels, all_of_it), np.append(left_over, inside)
        below[mask] = len(garments)
    return garments, owner


def _annotations(garments: list[Garment], size: int) -> Annotations:
    boxes = np.zeros((len(garments), 4), np.float32)
    for row, garment in enumerate(garments):
        rows, columns = np.flatnonzero(garment.mask.any(axis=1)), np.flatnonzero(garment.mask.any(axis=0))
        boxes[row] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        boxes[row] += (garment.left, garment.top, garment.left, garment.top)
    none = np.zeros(len(garments), bool)
    return Annotations(
        boxes=boxes,
        classes=np.array([garment.label for garment in garments], np.int32),
        crowd=none,
        difficult=none,
        area=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
    )


def _outlines(garments: list[Garment], owner: UInt8[np.ndarray, "s s"]) -> Outlines:
    return id_maps.outlines_of(owner, np.arange(1, len(garments) + 1))


def _classes(garments: list[Garment], owner: UInt8[np.ndarray, "s s"]) -> UInt8[np.ndarray, "s s"]:
    return np.array([0] + [garment.label + 1 for garment in garments], np.uint8)[owner]


def _paint(garments: list[Garment], owner: np.ndarray, rng: np.random.Generator) -> UInt8[np.ndarray, "s s 3"]:
    size = len(owner)
    scene = _background(size, rng)
    for number, garment in enumerate(garments, start=1):
        height, width = garment.mask.shape
        part = (slice(garment.top, garment.top + height), slice(garment.left, garment.left + width))
        shown = owner[part] == number
        tint = _tint(rng)
        scene[part][shown] = (0.25 + 0.75 * garment.grey[shown])[:, None] * tint
    noise = np.frombuffer(rng.bytes(size * size), np.uint8).reshape(size, size, 1)
    scene += np.float32(NOISE / 255) * noise
    return np.clip(scene, 0, 255, out=scene).astype(np.uint8)


def _background(size: int, rng: np.random.Generator) -> Float[np.ndarray, "s s 3"]:
    """A gradient between four random corner colours, with stripes of random direction, width and strength."""
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    ends = np.stack([1 - ramp, ramp], axis=1)
    corners = rng.uniform(30, 150, (2, 2, 3)).astype(np.float32)
    smooth = ends @ (ends @ corners).reshape(2, -1)
    turns, phase, strength = (
        rng.uniform(-2 * np.pi * STRIPES, 2 * np.pi * STRIPES, 2),
        rng.uniform(0, 6.3),
        rng.uniform(0, 25),
    )
    down, across = (ramp * turns[0] + phase).astype(np.float32), (ramp * turns[1]).astype(np.float32)
    waves = np.stack([np.cos(down), -np.sin(down)], axis=1) @ np.stack([np.cos(across), np.sin(across)])
    return smooth.reshape(size, size, 3) + np.float32(strength) * waves[..., None]


def _tint(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    tint = rng.uniform(0.3, 1, 3).astype(np.float32)
    return 255 * tint / tint.max()
