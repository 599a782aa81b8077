"""Segmentation's examples on the host: a record becomes a canvas of pixels and a class for each of them.

Training: resized by a random scale, a random crop of config.data.crop, with ignored pixels where the picture ends.
Evaluation: the whole picture resized, on a canvas of its own size or one that it shares with others, and its mask as it
is stored: predictions are brought to that size.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict
from scipy import ndimage

from morphism.data import boxes, image, orientation
from morphism.data.boxes import IGNORE, Size
from morphism.data.canvases import listed, others_note, smallest, with_others
from morphism.data.sources import Source
from morphism.errors import UserError

# Height and width of what a batch holds, in evaluation followed by those of the masks.
Shape = tuple[int, int] | tuple[int, int, int, int]
Mask = UInt8[np.ndarray, "h w"]

CROP_TRIALS = 10
FEW = 8  # sizes of images for which evaluation has a program each, unless config.data.exact says otherwise
LEAST = 32  # pixels a side that the deepest of the networks needs
GRID = 3  # points each way at which an elastic deformation is drawn


def canvases(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Int[np.ndarray, "records"]]:
    """The shapes of batches, and which of them each record is put into.

    In training the crop. In evaluation by config.data.exact: each image at its own size, as torchvision and
    mmsegmentation evaluate, which is a shape for every size of image, and at least LEAST a side unless training crops
    are smaller. Or the smallest of config.data.canvases that holds the image resized (data/canvases.py adds one where
    none does), or without them one that holds every image; its masks are as large as the largest image on it.
    """
    if training:
        return [tuple(data.crop)], np.zeros(len(source), np.int32)
    stored = np.asarray(source.sizes)
    sizes, which = np.unique(stored, axis=0, return_inverse=True)
    resized = _all_resized(sizes, data)
    if _exact(len(sizes), data):
        own = np.maximum(resized, np.minimum(LEAST, data.crop))
        return list(map(tuple, np.hstack([own, sizes]).tolist())), which.ravel().astype(np.int32)
    shapes = with_others(listed(data), resized) if data.canvases else [tuple(resized.max(axis=0).tolist())]
    held = smallest(shapes, resized)
    groups = held[which.ravel()].astype(np.int32)
    masks = [tuple(stored[groups == group].max(axis=0, initial=1).tolist()) for group in range(len(shapes))]
    return [(*shape, *mask) for shape, mask in zip(shapes, masks, strict=True)], groups


def _exact(sizes: int, data: ConfigDict) -> bool:
    """Whether images of so many sizes are evaluated each at its own."""
    return data.exact == "always" or (data.exact == "auto" and sizes <= FEW)


def eval_note(source: Source, data: ConfigDict) -> str:
    """What a person must know of how evaluation sees the images of `source`, or ""."""
    sizes = np.unique(np.asarray(source.sizes), axis=0)
    if _exact(len(sizes), data) or (len(sizes) == 1 and not data.canvases):
        return ""
    others = others_note(listed(data), _all_resized(sizes, data)) if data.canvases else ""
    return "; ".join(
        [
            f"images of {len(sizes):,} sizes share {max(1, len(data.canvases))} canvas(es), which changes what is "
            "found near their borders; --config.data.exact=always evaluates each at its own size, as publications do, "
            "with a program compiled for each size",
            *([others] if others else []),
        ]
    )


def shape_at(shape: Shape, step: int, config: ConfigDict) -> Shape:
    """The canvas of training batch `step`: `shape`."""
    return shape


def empty(rows: int, data: ConfigDict, shape: Shape) -> dict[str, np.ndarray]:
    """What a batch holds beside pictures.

    segmentation uint8 [rows,h,w], 0..K-1 or IGNORE: in training h and w are the canvas's, in evaluation those of the
    largest mask, each mask at the top left. size int32 [rows,2], height and width of what of the canvas is picture, and
    original_size of the picture as decoded. In training with config.data.border_weight also weight float32 [rows,h,w].
    """
    found = {
        "segmentation": np.full((rows, *shape[-2:]), IGNORE, np.uint8),
        "size": np.ones((rows, 2), np.int32),
        "original_size": np.ones((rows, 2), np.int32),
    }
    if len(shape) == 2 and data.border_weight > 0:
        found["weight"] = np.ones((rows, *shape), np.float32)
    return found


def train_example(
    source: Source, index: int, config: ConfigDict, shape: Shape, rng: np.random.Generator
) -> dict[str, Any]:
    """The record resized, cropped, flipped and deformed at random as the config says."""
    data, augment = config.data, config.augment
    pixels, mask, odd = _decoded(source, index, data)
    size = pixels.shape[:2]
    to = _resized(size, data, rng.uniform(*data.scale))
    for _ in range(CROP_TRIALS):
        window = _crop(size, to, shape, rng)
        segmentation = boxes.render_classes(mask, window)
        if _largest_share(segmentation) <= data.cat_max_ratio:
            break
    shown = tuple(min(a, b) for a, b in zip(to, shape, strict=True))
    maps = {"image": boxes.render(pixels, window, antialias=data.antialias), "segmentation": segmentation}
    if data.border_weight > 0:
        weights = border_weights(mask.tobytes(), mask.shape, data.border_weight, data.border_sigma)
        maps["weight"] = _render_weights(weights, window)
    if rng.uniform() < augment.flip_probability:
        for each in maps.values():
            each[:, : shown[1]] = each[:, : shown[1]][:, ::-1].copy()
    if augment.elastic > 0:
        places = elastic(shown, augment.elastic, rng)
        for name, each in maps.items():
            each[: shown[0], : shown[1]] = deform(each[: shown[0], : shown[1]], places, nearest=name == "segmentation")
    return {**maps, "size": shown, "original_size": size, "odd": odd}


def eval_example(source: Source, index: int, config: ConfigDict, shape: Shape) -> dict[str, Any]:
    """The whole picture, resized, and its mask as it is stored; of a record without one all is ignored."""
    data = config.data
    pixels, mask, odd = _decoded(source, index, data)
    size = pixels.shape[:2]
    window = boxes.resized(size, _resized(size, data), shape[:2])
    padded = np.full(shape[2:], IGNORE, np.uint8)
    padded[: size[0], : size[1]] = mask
    rendered = boxes.render(pixels, window, antialias=data.antialias)
    return {"image": rendered, "segmentation": padded, "size": window.size, "original_size": size, "odd": odd}


def _decoded(source: Source, index: int, data: ConfigDict) -> tuple[image.Pixels, Mask, int]:
    record = source[index]
    pixels, odd = image.decode_record(record, data)
    mask = record["segmentation"] if "segmentation" in record else np.full(pixels.shape[:2], IGNORE, np.uint8)
    check_mask(record["name"], pixels.shape, mask, len(source.classes))
    pixels, odd = image.accept(pixels, odd, record["name"], data)
    return np.ascontiguousarray(pixels), mask, odd


def check_mask(name: str, decoded: tuple[int, ...], mask: Mask, classes: int) -> None:
    """Raises UserError where a mask has another size than its picture, `name`, or a class that does not exist."""
    if mask.shape != tuple(decoded[:2]):
        raise UserError(
            f"{name} is {decoded[1]} x {decoded[0]} but its mask is {mask.shape[1]} x {mask.shape[0]}: masks must have "
            f"their picture's size{orientation.hint(decoded, mask.shape)}"
        )
    wrong = (mask >= classes) & (mask != IGNORE)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise UserError(
            f"{name}: its mask has class {mask[row, column]} at row {row}, column {column}, outside the {classes} "
            f"classes, 0 to {classes - 1}; mend it"
        )


def _resized(size: Size, data: ConfigDict, scale: float = 1.0) -> Size:
    """What the whole picture is resized to, by config.data.resize and a random scale."""
    if data.resize == "none":
        return tuple(max(1, round(side * scale)) for side in size)
    return boxes.shorter(size, max(1, round(data.image_size * scale)), max(1, round(data.max_size * scale)))


def _all_resized(sizes: Int[np.ndarray, "n 2"], data: ConfigDict) -> Int[np.ndarray, "n 2"]:
    return np.array([_resized(tuple(size), data) for size in sizes.tolist()]).reshape(-1, 2)


def _crop(size: Size, to: Size, shape: Size, rng: np.random.Generator) -> boxes.Window:
    """The whole picture resized to `to`, of which a random part is seen; one that is smaller stands at the top left."""
    top, left = (int(rng.integers(0, max(0, a - b) + 1)) for a, b in zip(to, shape, strict=True))
    return boxes.Window(boxes.whole(size), to, shape, (-top, -left))


def _largest_share(segmentation: Mask) -> float:
    """Of the commonest class in the pixels that count; 0 where there are none, which another crop would not mend."""
    counts = np.bincount(segmentation.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return counts.max() / max(1, counts.sum())


def _render_weights(weights: Float[np.ndarray, "h w"], window: boxes.Window) -> Float[np.ndarray, "H W"]:
    """The canvas of a weight a pixel, nearest as the classes are; 1 where there is no picture."""
    coarse = np.clip(weights * WEIGHT_STEPS, 0, 255).astype(np.uint8)
    return np.maximum(boxes.render_classes(coarse, window, fill=WEIGHT_STEPS).astype(np.float32) / WEIGHT_STEPS, 1)


WEIGHT_STEPS = 16  # a unit of weight, while a map of weights moves with its picture


@lru_cache(maxsize=64)
def border_weights(
    mask: bytes, size: Size, weight: float, sigma: float, reach: float = 5.0
) -> Float[np.ndarray, "h w"]:
    """1 + weight exp(-(d1 + d2)^2 / (2 sigma^2)) on pixels of class 0, d1 and d2 being how far the two nearest objects
    are; 1 on all others.

    Objects are the connected parts of all other classes together; from d1 + d2 of about `reach` sigmas on there is
    nothing to add. Source: Ronneberger et al. 2015, equation 2, with weight 10 and sigma 5.
    """
    classes = np.frombuffer(mask, np.uint8).reshape(size)
    objects, _ = ndimage.label((classes != 0) & (classes != IGNORE))
    first = np.full(size, np.inf)
    second = first.copy()
    margin = int(np.ceil(reach * sigma))
    for number, (rows, columns) in enumerate(ndimage.find_objects(objects), start=1):
        part = tuple(slice(max(0, span.start - margin), span.stop + margin) for span in (rows, columns))
        distance = ndimage.distance_transform_edt(objects[part] != number)
        farther = np.maximum(first[part], distance)
        second[part] = np.minimum(second[part], farther)
        first[part] = np.minimum(first[part], distance)
    near = weight * np.exp(-((first + second) ** 2) / (2 * sigma**2))
    return np.where(classes == 0, 1 + near, 1).astype(np.float32)


def elastic(size: Size, std: float, rng: np.random.Generator) -> Float[np.ndarray, "2 h w"]:
    """Where each pixel of a deformed map comes from: displaced by N(0, std) pixels on a coarse grid, smooth between.

    Source: Ronneberger et al. 2015, section 3.1: a grid of 3 by 3, std 10, bicubic between.
    """
    coarse = rng.normal(0, std, (2, GRID, GRID))
    steps = np.meshgrid(*(np.linspace(0, GRID - 1, side) for side in size), indexing="ij")
    smooth = [ndimage.map_coordinates(each, steps, order=3, mode="nearest") for each in coarse]
    return np.stack(smooth) + np.indices(size)


def deform(x: np.ndarray, places: Float[np.ndarray, "2 h w"], nearest: bool) -> np.ndarray:
    """x [h,w] or [h,w,c], each pixel taken from its place, mirrored at the border; bilinear unless `nearest`."""
    if nearest:
        return ndimage.map_coordinates(x, places, order=0, mode="reflect")
    channels = np.atleast_3d(x).astype(np.float32)
    moved = [
        ndimage.map_coordinates(channels[..., c], places, order=1, mode="reflect") for c in range(channels.shape[2])
    ]
    moved = np.stack(moved, axis=-1).reshape(x.shape)
    return (moved + 0.5).astype(x.dtype) if x.dtype == np.uint8 else moved
