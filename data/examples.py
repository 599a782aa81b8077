"""From a record to an example: its image is decoded, a window is drawn by the recipe's rule, and the image and each
target go through that same window.

The rules, of config.data.window_rule (data/canvases.py says which canvases each has):

    square    a square crop: random_resized or center, by config.data.train_crop; evaluation has the central one
    canvas    the image resized by config.data.resize onto a canvas, or with a jittered scale (config.augment.
              scale_jitter); before that perhaps zoomed out and cropped as SSD's are; perhaps flipped
    crop      a random part of the image at a random scale, perhaps flipped and deformed

In evaluation the last two have the whole image, resized. `_rendered` says how images are resampled.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from morphism.data import image, targets, windows
from morphism.data.annotations import NO_OBJECTS, Annotations
from morphism.data.canvases import Shape, resized
from morphism.data.image import Croppable, Odd, Pixels
from morphism.data.records import Record, Source
from morphism.data.render import BLACK, IMAGENET_MEAN, render, render_classes, resize_and_cut
from morphism.data.targets import Placement
from morphism.data.windows import Size, Window, mapped, mirrored, whole
from morphism.labels import IGNORE

Truths = dict[str, Any]  # of each target
Rows = Int[np.ndarray, "n"]

CROP_TRIALS = 10  # for config.data.cat_max_ratio
FIELDS = {  # of a configuration, that each rule needs
    "square": ("data.train_crop", "data.crop_scale", "data.crop_ratio", "data.resize_size", "data.eval_size"),
    "canvas": (
        *("data.resize", "data.max_size", "data.train_sizes", "data.canvases", "data.multi_scale"),
        *("augment.zoom_out", "augment.iou_crop", "augment.scale_jitter", "augment.mosaic"),
    ),
    "crop": (
        *("data.resize", "data.max_size", "data.scale", "data.crop", "data.cat_max_ratio", "data.antialias"),
        *("data.exact", "data.canvases", "augment.elastic"),
    ),
}


def needed_fields(data: ConfigDict) -> list[str]:
    """The fields of a configuration that its window rule and its targets need."""
    return [*FIELDS[data.window_rule], *(field for name in data.targets for field in targets.get(name).FIELDS)]


def empty(rows: int, shape: Shape, config: ConfigDict) -> dict[str, np.ndarray]:
    """What a batch holds besides images, without any record.

    For targets with a place in the image size int32 [rows,2], height and width of what of the canvas is image, and
    original_size, of the image as decoded. By the rule `canvas` image_box float32 [rows,4], the box of the canvas
    where the image is, which may reach beyond: in training, what is not mean-coloured ground.
    """
    data, found = config.data, {}
    if _are_placed(data):
        found |= {"size": np.ones((rows, 2), np.int32), "original_size": np.ones((rows, 2), np.int32)}
    if data.window_rule == "canvas":
        found["image_box"] = np.zeros((rows, 4), np.float32)
    for name in data.targets:
        found |= targets.get(name).empty(rows, shape, data)
    return found


def train_example(
    source: Source, index: int, config: ConfigDict, shape: Shape, rng: np.random.Generator
) -> dict[str, Any]:
    """The image and every target of config.data.targets, as they are seen through one window drawn at random."""
    record, data = source[index], config.data
    opened, size = _open(record, data, training=True)
    truths = _truths(source, index, record, size, data)
    boxes: Annotations = truths.get("boxes", NO_OBJECTS)
    learned = np.flatnonzero(~boxes.difficult)  # difficult objects are not learned from
    window, kept = _RULES[data.window_rule](size, truths, learned, shape, config, rng)
    pixels, odd = _rendered(opened, record, window, config, training=True)
    example = {"image": pixels, "odd": odd, **_sizes(size, window, data)}
    if data.window_rule == "canvas":
        example["image_box"] = mirrored(mapped(whole(size), window), window)[0]
    seen = kept[windows.is_seen(boxes.boxes[kept], window)] if len(kept) else kept
    placement = Placement(record["name"], window, seen)
    for name, truth in truths.items():
        example |= targets.get(name).train(truth, placement, data)
    return example


def eval_example(source: Source, index: int, config: ConfigDict, shape: Shape) -> dict[str, Any]:
    """The central square or the whole image, and of each target what evaluation has of it."""
    record, data = source[index], config.data
    opened, size = _open(record, data, training=False)
    truths = _truths(source, index, record, size, data)
    window = _eval_window(size, shape[:2], data)
    pixels, odd = _rendered(opened, record, window, config, training=False)
    example = {"image": pixels, "odd": odd, **_sizes(size, window, data)}
    for name, truth in truths.items():
        example |= targets.get(name).evaluate(truth, shape, data)
    return example


def evaluated(record: Record, data: ConfigDict) -> Pixels:
    """The image as evaluation sees it by the rule `square`."""
    (pixels, odd), size = _open(record, data, training=False)
    side = data.eval_size or data.image_size
    pixels = resize_and_cut(pixels, windows.center_crop(size, data.resize_size, side))
    return image.accept(pixels, odd, record["name"], data)[0]


Opened = Croppable | tuple[Pixels, Odd]


def _open(record: Record, data: ConfigDict, training: bool) -> tuple[Opened, Size]:
    """The image, decoded unless a crop of it is all that will be seen, and its size."""
    if training and data.window_rule == "square" and data.train_crop == "random_resized":
        opened = image.croppable(record["image"], record["name"])
        return opened, opened.size
    pixels, odd = image.decode_record(record, data)
    return (pixels, odd), pixels.shape[:2]


def _truths(source: Source, index: int, record: Record, size: Size, data: ConfigDict) -> Truths:
    return {name: targets.get(name).read(record, size, source, index) for name in data.targets}


def _rendered(opened: Opened, record: Record, window: Window, config: ConfigDict, training: bool) -> tuple[Pixels, int]:
    """The image through the window, as batches hold pixels, and what was odd about it.

    The rule `square` resamples as Pillow does, antialiased; the others as torch, unless config.data.antialias, or a
    jittered scale, asks for it.
    """
    data, augment, name = config.data, config.augment, record["name"]
    if isinstance(opened, Croppable):
        pixels, odd = image.crop(opened, window.rect, window.size[0], tuple(data.intensity) or None)
        return image.accept(pixels, odd, name, data)
    if data.window_rule == "square":
        pixels, odd = opened
        return image.accept(resize_and_cut(pixels, window), odd, name, data)
    pixels, odd = image.accept(*opened, name, data)
    if data.window_rule == "crop":
        return render(pixels, window, antialias=data.antialias), odd
    fill = IMAGENET_MEAN if training and augment.zoom_out > 0 else BLACK
    return render(pixels, window, fill, antialias=training and bool(augment.scale_jitter)), odd


def _sizes(size: Size, window: Window, data: ConfigDict) -> dict[str, Size]:
    return {"size": window.shown, "original_size": size} if _are_placed(data) else {}


def _are_placed(data: ConfigDict) -> bool:
    return any(targets.get(name).IS_PLACED for name in data.targets)


def _eval_window(size: Size, canvas: Size, data: ConfigDict) -> Window:
    if data.window_rule == "square":
        return windows.center_crop(size, data.resize_size, canvas[0])
    return Window(whole(size), resized(size, canvas, data), canvas)


def _square(
    size: Size, truths: Truths, kept: Rows, canvas: Size, config: ConfigDict, rng: np.random.Generator
) -> tuple[Window, Rows]:
    data = config.data
    if data.train_crop == "random_resized":
        window = Window(windows.random_resized_crop(size, data.crop_scale, data.crop_ratio, rng), canvas, canvas)
    else:
        window = _eval_window(size, canvas, data)
    return window, kept


def _canvas(
    size: Size, truths: Truths, kept: Rows, canvas: Size, config: ConfigDict, rng: np.random.Generator
) -> tuple[Window, Rows]:
    data, augment = config.data, config.augment
    if augment.scale_jitter:
        window = windows.scale_jitter(size, canvas, rng, augment.scale_jitter)
    else:
        part = windows.zoom_out(size, rng, augment.zoom_out) if augment.zoom_out > 0 else whole(size)
        if augment.iou_crop:
            objects = truths.get("boxes", NO_OBJECTS)[kept]
            crop = windows.iou_crop(objects.boxes[~objects.crowd], part, rng)
            if crop != part:
                part, kept = crop, kept[windows.kept_by_crop(objects.boxes, crop)]
        shortest = int(rng.choice(data.train_sizes)) if data.train_sizes else data.image_size
        height, width = part[3] - part[1], part[2] - part[0]
        window = Window(part, resized((height, width), canvas, data, shortest), canvas)
    flip = rng.uniform() < augment.flip_probability and augment.mosaic == 0  # mosaics are flipped whole, on the device
    return replace(window, flip=bool(flip)), kept


def _crop(
    size: Size, truths: Truths, kept: Rows, canvas: Size, config: ConfigDict, rng: np.random.Generator
) -> tuple[Window, Rows]:
    data, augment = config.data, config.augment
    to = resized(size, canvas, data, scale=rng.uniform(*data.scale))
    mask = truths.get("segmentation") if data.cat_max_ratio < 1 else None
    for _ in range(CROP_TRIALS):
        window = windows.random_crop(size, to, canvas, rng)
        if mask is None or largest_share(render_classes(mask, window)) <= data.cat_max_ratio:
            break
    window = replace(window, flip=bool(rng.uniform() < augment.flip_probability))
    if augment.elastic > 0:
        window = replace(window, origins=windows.elastic(window.shown, augment.elastic, rng))
    return window, kept


# Each returns the window, and which of the objects that it is given are still to be learned from.
_RULES: dict[str, Callable[..., tuple[Window, Rows]]] = {"square": _square, "canvas": _canvas, "crop": _crop}


def largest_share(classes: UInt8[np.ndarray, "h w"]) -> float:
    """Of the commonest class in the pixels that count; 0 where there are none, which another crop would not mend."""
    counts = np.bincount(classes.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return counts.max() / max(1, counts.sum())
