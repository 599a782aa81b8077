"""Detection's examples on the host: a record becomes a canvas of pixels and the boxes on it."""

from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism.data import boxes, image
from morphism.data.annotations import Annotations, check_size
from morphism.data.canvases import check_held, listed, others_note, smallest, with_others
from morphism.data.records import Record, Source, name_of
from morphism.errors import UserError

Shape = tuple[int, int]  # height, width of what a batch holds

SCALE_EVERY = 10  # training steps
SCALING = 10  # in the seed, beside those of examples and epochs


def canvases(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Int[np.ndarray, "records"]]:
    """The shapes of batches, and which of them each record is put into: the smallest that holds it resized.

    What none holds gets one of its own (data/canvases.py), but is an error where training is given its canvases.
    """
    shapes = listed(data)
    if data.resize != "shorter":  # every image becomes as large as its canvas, or is fitted into it
        return shapes, np.zeros(len(source), np.int32)
    largest = max((data.image_size, *(data.train_sizes if training else ())))
    sizes, first, which = np.unique(source.sizes, axis=0, return_index=True, return_inverse=True)
    resized = _all_resized(sizes, largest, data)
    if training and data.canvases:
        check_held(shapes, sizes, resized, lambda position: name_of(source, int(first[position])))
    else:
        shapes = with_others(shapes, resized)
    return shapes, smallest(shapes, resized)[which.ravel()].astype(np.int32)


def eval_note(source: Source, data: ConfigDict) -> str:
    """What a person must know of how evaluation sees the images of `source`, or ""."""
    if data.resize != "shorter":
        return ""
    return others_note(listed(data), _all_resized(np.unique(source.sizes, axis=0), data.image_size, data))


def shape_at(shape: Shape, step: int, config: ConfigDict) -> Shape:
    """The canvas of training batch `step`: `shape`, or with config.data.multi_scale a square of one of these sides.

    It is drawn anew every ten steps, from the seed and the step alone. Source: yolox/core/trainer.py, after_iter.
    """
    if not config.data.multi_scale:
        return shape
    rng = np.random.default_rng((config.seed, SCALING, step // SCALE_EVERY))
    return (int(rng.choice(config.data.multi_scale)),) * 2


def empty(rows: int, data: ConfigDict, shape: Shape) -> dict[str, np.ndarray]:
    """What a batch holds beside pictures.

    boxes float32 [rows,N,4], x0, y0, x1, y1 in pixels of the canvas; classes int32 [rows,N], -1 in unused slots; crowd
    bool [rows,N]; size int32 [rows,2], height and width of what of the canvas is picture, and original_size of the
    picture as decoded; picture float32 [rows,4] the box of the canvas where the picture is, which may reach beyond: in
    training, what is not mean-coloured ground. N is config.data.max_boxes.
    """
    return {
        "boxes": np.zeros((rows, data.max_boxes, 4), np.float32),
        "classes": np.full((rows, data.max_boxes), -1, np.int32),
        "crowd": np.zeros((rows, data.max_boxes), bool),
        "size": np.ones((rows, 2), np.int32),
        "original_size": np.ones((rows, 2), np.int32),
        "picture": np.zeros((rows, 4), np.float32),
    }


def train_example(
    source: Source, index: int, config: ConfigDict, shape: Shape, rng: np.random.Generator
) -> dict[str, Any]:
    """The record cropped, resized and flipped at random as the config says; difficult boxes are not learnt from."""
    data, augment = config.data, config.augment
    record = source[index]
    pixels, odd = _decoded(record, source.sizes[index], data)
    size, objects = pixels.shape[:2], record["annotations"]
    objects = objects[~objects.difficult]
    if augment.scale_jitter:
        window = boxes.scale_jitter(size, shape, rng, augment.scale_jitter)
    else:
        part = boxes.zoom_out(size, rng, augment.zoom_out) if augment.zoom_out > 0 else boxes.whole(size)
        if augment.iou_crop:
            crop = boxes.iou_crop(objects.boxes[~objects.crowd], part, rng)
            if crop != part:
                part, objects = crop, objects[boxes.kept_by_crop(objects.boxes, crop)]
        target = int(rng.choice(data.train_sizes)) if data.train_sizes else data.image_size
        window = _window(part, shape, target, data)
    fill = boxes.IMAGENET_MEAN if augment.zoom_out > 0 else boxes.BLACK
    pixels = boxes.render(pixels, window, fill, antialias=bool(augment.scale_jitter))
    objects = boxes.place(objects, window)
    shown, picture = _shown(window), boxes.mapped(boxes.whole(size), window)
    if rng.uniform() < augment.flip_probability and augment.mosaic == 0:  # mosaics are flipped whole, on the device
        pixels[:, : shown[1]] = pixels[:, : shown[1]][:, ::-1].copy()
        objects = Annotations(boxes.flip(objects.boxes, shown[1]), *_rest(objects))
        picture = boxes.flip(picture, shown[1])
    slots = _slots(objects, record["name"], data.max_boxes)
    return {"image": pixels, "size": shown, "original_size": size, "odd": odd, "picture": picture[0], **slots}


def eval_example(source: Source, index: int, config: ConfigDict, shape: Shape) -> dict[str, Any]:
    """The whole picture, resized. What it is judged by are the source's own annotations."""
    pixels, odd = _decoded(source[index], source.sizes[index], config.data)
    size = pixels.shape[:2]
    window = _window(boxes.whole(size), shape, config.data.image_size, config.data)
    return {"image": boxes.render(pixels, window), "size": _shown(window), "original_size": size, "odd": odd}


def _decoded(record: Record, annotated: Int[np.ndarray, "2"], data: ConfigDict) -> tuple[image.Pixels, int]:
    pixels, odd = image.decode_record(record, data)
    check_size(record["name"], pixels.shape, annotated)
    return image.accept(pixels, odd, record["name"], data)


def _window(part: boxes.Rect, shape: Shape, target: int, data: ConfigDict) -> boxes.Window:
    """`part` of a picture on a canvas, by config.data.resize."""
    size = part[3] - part[1], part[2] - part[0]
    return boxes.Window(part, _resized(size, shape, target, data), shape)


def _resized(size: boxes.Size, shape: Shape, target: int, data: ConfigDict) -> boxes.Size:
    if data.resize == "shorter":
        return boxes.shorter(size, target, data.max_size)
    return shape if data.resize == "stretch" else boxes.fit(size, shape)


def _all_resized(sizes: Int[np.ndarray, "n 2"], target: int, data: ConfigDict) -> Int[np.ndarray, "n 2"]:
    """Of images whose shorter side is resized."""
    return np.array([boxes.shorter(tuple(size), target, data.max_size) for size in sizes.tolist()]).reshape(-1, 2)


def _shown(window: boxes.Window) -> Shape:
    """Height and width of what of the canvas is picture: its part at the top left."""
    return min(window.size[0], window.canvas[0]), min(window.size[1], window.canvas[1])


def _rest(objects: Annotations) -> tuple[np.ndarray, ...]:
    return objects.classes, objects.crowd, objects.difficult, objects.area


def _slots(objects: Annotations, name: str, slots: int) -> dict[str, np.ndarray]:
    """The objects in the first of so many slots. Raises UserError where there are more."""
    if len(objects) > slots:
        raise UserError(f"{name}: {len(objects)} boxes, more than config.data.max_boxes={slots}; raise that")
    spare = slots - len(objects)
    return {
        "boxes": np.pad(objects.boxes, ((0, spare), (0, 0))),
        "classes": np.pad(objects.classes, (0, spare), constant_values=-1),
        "crowd": np.pad(objects.crowd, (0, spare)),
    }
