"""From record to example: decodes the image, draws a window, and passes the image and each target through it.

config.data.window_rule says how the window is drawn (data/canvases.py says which canvases each rule has):

    square    a square crop: random_resized or center, by config.data.train_crop; in evaluation the central one
    canvas    the image resized by config.data.resize onto a canvas, or at a jittered scale (config.augment.
              scale_jitter); optionally zoomed out and cropped as in SSD, and flipped
    crop      a random part of the image at a random scale, optionally flipped and deformed

In evaluation the last two show the whole image, resized. `_rendered` says how images are resampled.
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
from morphism.data.image import Croppable, Pixels
from morphism.data.odd import Odd
from morphism.data.records import Record, Source
from morphism.data.render import BLACK, IMAGENET_MEAN, render, render_classes, resize_and_cut
from morphism.data.targets import Placement
from morphism.data.windows import Size, Window, mapped, mirrored, whole
from morphism.labels import IGNORE

Truths = dict[str, Any]  # target -> the record's truth
Rows = Int[np.ndarray, "_"]

CROP_TRIALS = 10  # for config.data.cat_max_ratio
FIELDS = {  # window rule -> the config fields that it needs
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
    """The config fields that the window rule and the targets need."""
    return [*FIELDS[data.window_rule], *(field for name in data.targets for field in targets.get(name).FIELDS)]


def empty(rows: int, shape: Shape, config: ConfigDict, training: bool = True) -> dict[str, np.ndarray]:
    """The arrays of a batch besides its images, without any record.

    size int32 [rows,2]: height and width of the image on the canvas; original_size int32 [rows,2]: of the decoded
      image. Both only where a target IS_PLACED.
    image_box float32 [rows,4]: where on the canvas the whole image lies, possibly reaching beyond it. Only with the
      window rule `canvas`; in training the rest of the canvas is filled with the mean colour.
    judged bool [rows]: in evaluation, and only if batches have the truths of objects as in training, for the loss.
    has_<target> bool [rows]: per target of config.data.targets, whether the record carries that truth.
    """
    data, found = config.data, {}
    if _are_placed(data):
        found |= {"size": np.ones((rows, 2), np.int32), "original_size": np.ones((rows, 2), np.int32)}
    if data.window_rule == "canvas":
        found["image_box"] = np.zeros((rows, 4), np.float32)
    for name in data.targets:
        found[f"has_{name}"] = np.zeros(rows, bool)
        if training or targets.get(name).IN_EVALUATION or _is_judged(name, data):
            found |= targets.get(name).empty(rows, shape, data)
    if not training and any(_is_judged(name, data) for name in data.targets):
        found["judged"] = np.zeros(rows, bool)
    return found


def _is_judged(target: str, data: ConfigDict) -> bool:
    """Whether evaluation has a truth as training has it, for the loss of a detector: that of objects."""
    return data.eval_loss and targets.get(target).OF_OBJECTS


def train_example(
    source: Source, index: int, config: ConfigDict, shape: Shape, rng: np.random.Generator
) -> dict[str, Any]:
    """The image and all targets of config.data.targets, seen through one randomly drawn window."""
    record, data = source[index], config.data
    opened, size = _open(record, data, training=True)
    truths = _truths(source, index, record, size, data)
    boxes: Annotations = truths.get("boxes", NO_OBJECTS)
    learned = np.flatnonzero(~boxes.difficult)  # training ignores difficult objects
    window, kept = _RULES[data.window_rule](size, truths, learned, shape, config, rng)
    pixels, odd = _rendered(opened, record, window, config, training=True)
    example = {"image": pixels, "odd": odd, **_sizes(size, window, data), **_has(record, data)}
    if data.window_rule == "canvas":
        example["image_box"] = mirrored(mapped(whole(size), window), window)[0]
    for name, truth in truths.items():
        kept = targets.get(name).kept(truth, window, kept)
    placement = Placement(record["name"], window, kept)
    for name, truth in truths.items():
        example |= targets.get(name).train(truth, placement, data)
    return example


def train_window(size: Size, config: ConfigDict, shape: Shape, rng: np.random.Generator) -> Window:
    """The window that `train_example` draws for an image of `size`, if it depends on no truth."""
    return _RULES[config.data.window_rule](size, {}, np.zeros(0, int), shape, config, rng)[0]


def eval_example(source: Source, index: int, config: ConfigDict, shape: Shape) -> dict[str, Any]:
    """The central square or the whole image, and all targets as evaluation needs them."""
    record, data = source[index], config.data
    opened, size = _open(record, data, training=False)
    truths = _truths(source, index, record, size, data)
    window = _eval_window(size, shape[:2], data)
    pixels, odd = _rendered(opened, record, window, config, training=False)
    example = {"image": pixels, "odd": odd, **_sizes(size, window, data), **_has(record, data)}
    for name, truth in truths.items():
        example |= targets.get(name).evaluate(truth, shape, data)
    judged = {name: truth for name, truth in truths.items() if _is_judged(name, data)}
    kept = np.flatnonzero(~truths["boxes"].difficult) if judged else np.zeros(0, int)
    for name, truth in judged.items():
        kept = targets.get(name).kept(truth, window, kept)
    for name, truth in judged.items():
        placement = Placement(record["name"], window, kept)
        example |= targets.get(name).train(truth, placement, data) | {"judged": True}
    return example


def evaluated(record: Record, data: ConfigDict) -> Pixels:
    """The image as evaluation sees it with the window rule `square`."""
    (pixels, odd), size = _open(record, data, training=False)
    side = data.eval_size or data.image_size
    pixels = resize_and_cut(pixels, windows.center_crop(size, data.resize_size, side))
    return image.accept(pixels, odd, record["name"], data)[0]


Opened = Croppable | tuple[Pixels, Odd]


def _open(record: Record, data: ConfigDict, training: bool) -> tuple[Opened, Size]:
    """The image and its size. It is not decoded yet where only a crop will be seen."""
    if training and data.window_rule == "square" and data.train_crop == "random_resized":
        opened = image.croppable(record["image"], record["name"])
        return opened, opened.size
    pixels, odd = image.decode_record(record, data)
    return (pixels, odd), pixels.shape[:2]


def _truths(source: Source, index: int, record: Record, size: Size, data: ConfigDict) -> Truths:
    return {name: targets.get(name).read(record, size, source, index) for name in data.targets}


def _has(record: Record, data: ConfigDict) -> dict[str, bool]:
    return {f"has_{name}": targets.get(name).KEY in record for name in data.targets}


def _rendered(opened: Opened, record: Record, window: Window, config: ConfigDict, training: bool) -> tuple[Pixels, int]:
    """The image through the window, as batches hold pixels, and what was odd about it.

    The rule `square` resamples as Pillow does, with antialiasing; the others as torch does, with antialiasing only for
    config.data.antialias or a jittered scale.
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


# Each returns the window, and which of the objects given are still to be learned.
_RULES: dict[str, Callable[..., tuple[Window, Rows]]] = {"square": _square, "canvas": _canvas, "crop": _crop}


def largest_share(classes: UInt8[np.ndarray, "h w"]) -> float:
    """The share of the most frequent class among pixels that are not ignored; 0 where all are ignored."""
    counts = np.bincount(classes.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return counts.max() / max(1, counts.sum())
