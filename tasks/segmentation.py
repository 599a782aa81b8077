"""A class a pixel: losses over pixels to train; IoU, accuracy, Dice and boundary F1 to evaluate.

Evaluation is at the size of the masks as they are stored: logits are resized to it on the device (bilinear), and the
class of the highest is counted on the host, in integers, once a pixel. Pixels of class 255 count for nothing.
"""

import inspect
import itertools
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from morphism import augment as augmentation
from morphism.augment.colour import additive_distortion
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.labels import IGNORE
from morphism.ops import segmentation as ops
from morphism.ops.resize import argmax_of_parts, resize_bilinear
from morphism.tasks import boundaries

HEADLINE = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "dice")
HIGHER_IS_BETTER = HEADLINE
MIN_CLASSES = 2
VIEWS = ("center", "flip", "scales", "scales_flip")
FRACTION = 2 / 3  # of a window that the next one is further on: mmsegmentation's stride of its window

Batch = dict[str, Array]
Metrics = dict[str, Any]


def resolve(config: ConfigDict, source: Source) -> ConfigDict:
    """`config` with config.loss.class_weights as a number a class, where it says "median_frequency" of `source`.

    Class k weighs median(f) / f_k, f_k being its share of the pixels that count of those pictures that it is in (Eigen
    & Fergus 2015, section 6.3.2; Badrinarayanan et al. 2015, section 4.1). All masks are read for it. Raises UserError
    where a class has no pixel, and for other than K numbers.
    """
    weights, count = config.loss.class_weights, len(source.classes)
    if weights == "median_frequency":
        weights = tuple(_median_frequency(source, config).tolist())
    elif weights and len(weights) != count:
        raise UserError(
            f"config.loss.class_weights has {len(weights)} numbers, {config.data.source} {count} classes; "
            'write one for each, or "median_frequency"'
        )
    resolved = config.copy_and_resolve_references()
    with resolved.ignore_type():
        resolved.loss.class_weights = weights
    return resolved


def _median_frequency(source: Source, config: ConfigDict) -> Float[np.ndarray, "k"]:
    count = len(source.classes)
    pixels, around = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for index in range(len(source)):
        found = np.bincount(source[index]["segmentation"].ravel(), minlength=256)[:count]
        pixels += found
        around += (found > 0) * found.sum()
    if not pixels.all():
        raise UserError(
            f"config.loss.class_weights is 'median_frequency', but {source.classes[np.argmin(pixels)]} has no pixel "
            f"in {config.data.train_split}; write a number for each class"
        )
    frequency = pixels / around
    return np.median(frequency) / frequency


def mixed(config: ConfigDict) -> int:
    return 1


def augment(key: Array, batch: Batch, config: ConfigDict, classes: int) -> Batch:
    """Colours distorted as the config says, then `normalise`, with config.fill around it.

    Geometry is the host's (data/segmentation.py).
    """
    images = batch["image"].astype(jnp.float32)
    if config.photometric:
        images = jax.vmap(additive_distortion)(augmentation.example_keys(key, batch, "jitter"), images)
    around = augmentation.normalise(jnp.full(3, config.fill), config.mean, config.std) if config.fill >= 0 else 0.0
    return batch | {"image": normalise(batch | {"image": images}, config, around)}


def normalise(batch: Batch, config: ConfigDict, around: Float[Array, "3"] | float = 0.0) -> Float[Array, "b h w 3"]:
    """The normalised picture, and on the canvas around it `around`."""
    images = augmentation.normalise(batch["image"], config.mean, config.std)
    return jnp.where(_inside(images.shape[1:3], batch["size"])[..., None], images, around)


def inputs(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """A model that pools over the whole map reads what of each canvas is image: models/segmentation.py's sizes."""
    if "sizes" not in inspect.signature(type(model).__call__).parameters:
        return {}
    return {"sizes": jnp.asarray(batch["size"])}


def misfit(model: nn.Module, outputs: Any, classes: int) -> str:
    """What is wrong with the shapes of a model's outputs for so many classes, or ""."""
    if not isinstance(outputs, dict) or "out" not in outputs or len(outputs["out"].shape) != 4:
        return 'its outputs are no maps of logits {"out": [B,H,W,K]}, of which segmentation learns'
    wrong = [name for name in ("out", "aux") if name in outputs and outputs[name].shape[-1] != classes]
    return f"{wrong[0]!r} has {outputs[wrong[0]].shape[-1]} outputs, the data {classes} classes" if wrong else ""


def _inside(canvas: tuple[int, int], sizes: Int[Array, "b 2"]) -> Bool[Array, "b h w"]:
    """What of each canvas is picture."""
    rows, columns = (jnp.arange(side) < sizes[:, axis, None] for axis, side in enumerate(canvas))
    return rows[:, :, None] & columns[:, None, :]


def loss(
    model: nn.Module, outputs: dict[str, Array], batch: Batch, config: ConfigDict
) -> tuple[Array, dict[str, Array]]:
    """The loss of "out", and config.loss.aux_weight times that of "aux"; pixel accuracy of "out".

    A mean is over the pixels of the device's share of the batch that count.
    """
    labels = jnp.where(batch["valid"][:, None, None], batch["segmentation"], IGNORE).astype(jnp.int32)
    total = _loss(outputs["out"], labels, batch.get("weight"), config.loss)
    counted = labels != IGNORE
    correct = (jnp.argmax(outputs["out"], axis=-1) == labels) & counted
    scalars = {"pixel_accuracy": jnp.sum(correct) / jnp.maximum(jnp.sum(counted), 1)}
    if "aux" in outputs and config.loss.aux_weight > 0:
        scalars["aux"] = _loss(outputs["aux"], labels, batch.get("weight"), config.loss)
        total += config.loss.aux_weight * scalars["aux"]
    return total, scalars


def _loss(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w"],
    pixel_weights: Float[Array, "b h w"] | None,
    config: ConfigDict,
) -> Float[Array, ""]:
    weights = jnp.array(config.class_weights, float) if config.class_weights else None
    total = {
        "cross_entropy": lambda: ops.cross_entropy(logits, labels, weights, pixel_weights),
        "focal": lambda: ops.focal(logits, labels, config.focal_gamma, weights),
        "ohem": lambda: ops.hard_cross_entropy(logits, labels, config.ohem_threshold, config.ohem_pixels, weights),
        "lovasz": lambda: ops.lovasz_softmax(logits, labels),
        "dice": lambda: ops.dice(logits, labels),
    }[config.name]()
    return total + config.dice_weight * ops.dice(logits, labels) if config.dice_weight > 0 else total


def infer(
    apply: Callable[[Array, Array], dict[str, Array]],
    images: Float[Array, "b h w 3"],
    sizes: Int[Array, "b 2"],
    data: ConfigDict,
    views: str,
) -> dict[str, Float[Array, "b h w k"]]:
    """{"out": logits at the images' size}, of the whole images or by config.data.window, from `views` of them.

    apply(images, sizes) are the network's outputs; of each canvas `sizes` are image, at the top left. flip: they and
    their mirror images. scales: they at config.data.view_scales of their size. With several views the result is the
    logarithm of the mean of their softmax probabilities. Views and windows of one size run one after the other, so that
    a program holds the network once for each scale, and logits of two views at most.
    """

    def logits(images: Array, sizes: Array) -> Array:
        return _by_window(apply, images, sizes, tuple(data.window)) if data.window else apply(images, sizes)["out"]

    if views == "center":
        return {"out": logits(images, sizes)}
    canvas, found = images.shape[1:3], []
    for scale in data.view_scales if views.startswith("scales") else (1.0,):
        scaled_canvas = tuple(max(1, round(side * scale)) for side in canvas)
        x = resize_bilinear(images, *scaled_canvas)
        scaled = -(-sizes * jnp.array(scaled_canvas) // jnp.array(canvas))
        if views.endswith("flip"):
            pair = jax.lax.map(lambda x: logits(x, scaled), jnp.stack([x, mirrored(x, scaled)]))  # noqa: B023
            each = [pair[0], mirrored(pair[1], scaled)]
        else:
            each = [logits(x, scaled)]
        found += [jax.nn.log_softmax(resize_bilinear(x, *canvas)) for x in each]
    return {"out": reduce(jnp.logaddexp, found) - jnp.log(len(found))}


def mirrored(x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"]) -> Float[Array, "b h w c"]:
    """The part of `sizes` at the top left of each map mirrored where it is, left to right; the rest as it was."""
    columns, width = jnp.arange(x.shape[2]), sizes[:, 1:]
    columns = jnp.where(columns < width, width - 1 - columns, columns)
    return jnp.take_along_axis(x, columns[:, None, :, None], axis=2)


def _by_window(
    apply: Callable, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"], window: tuple[int, int]
) -> Float[Array, "b h w k"]:
    """Windows side by side, each two thirds on from the one before, the last ones at the end: the mean of their logits.

    They run one after the other, in a loop, so that the program holds the network once: written out it would hold 124
    of it for Cityscapes's windows, scales and mirror images. On CPU too, where convolutions as large as a window's use
    all threads within a loop. Source: mmsegmentation's slide_inference.
    """
    canvas = images.shape[1:3]
    window = tuple(min(side, length) for side, length in zip(window, canvas, strict=True))
    starts = list(itertools.product(*(window_starts(*each) for each in zip(canvas, window, strict=True))))
    if len(starts) == 1:
        return apply(images, sizes)["out"]
    count = np.zeros((*canvas, 1), np.float32)
    for top, left in starts:
        count[top : top + window[0], left : left + window[1]] += 1

    def logits(corner: Int[Array, "2"]) -> Array:
        part = jax.lax.dynamic_slice(images, (0, *corner, 0), (len(images), *window, images.shape[3]))
        return apply(part, jnp.clip(sizes - corner, 1, jnp.array(window)))["out"]

    def add(total: Array, corner: Int[Array, "2"]) -> tuple[Array, None]:
        found, where = logits(corner), (0, *corner, 0)
        before = jax.lax.dynamic_slice(total, where, found.shape)
        return jax.lax.dynamic_update_slice(total, before + found, where), None

    corners = jnp.array(starts)
    like = jax.eval_shape(logits, corners[0])
    total, _ = jax.lax.scan(add, jnp.zeros((*images.shape[:3], like.shape[-1]), like.dtype), corners)
    return total / count


def window_starts(length: int, side: int) -> list[int]:
    """Where windows of `side` begin along `length`, so that they cover it."""
    stride = max(1, int(side * FRACTION))
    count = max(0, -(-(length - side) // stride)) + 1
    return [min(index * stride, length - side) for index in range(count)]


def predict(model: nn.Module, outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
    """Of each example the class of every pixel of its image as decoded, beside the true ones.

    classes uint8 [B,H,W] and true uint8 [B,H,W] at the top left of canvases as large as the largest image, 255 beyond
    (true also where ignored); original_size [B,2]; id [B].
    """
    logits, true, to = outputs["out"], batch["segmentation"].astype(jnp.uint8), batch["original_size"]

    def resized() -> Array:
        return argmax_of_parts(logits, batch["size"], to, *true.shape[1:])

    if true.shape == logits.shape[:3]:  # nothing may have been resized
        whole = jnp.all(batch["size"] == to)
        classes = jax.lax.cond(whole, lambda: jnp.argmax(logits, axis=-1).astype(jnp.uint8), resized)
    else:
        classes = resized()
    return {
        "classes": jnp.where(_inside(true.shape[1:], to), classes, jnp.uint8(IGNORE)),
        "true": true,
        "original_size": to,
        "id": batch["id"],
    }


def init_metrics(source: Source) -> Metrics:
    count = len(source.classes)
    return {
        "classes": tuple(source.classes),
        "confusion": np.zeros((count, count), np.int64),
        "boundary": np.zeros((2, count)),  # of each class the sum of its F1 over pictures, and their number
        "examples": 0,
    }


def update_metrics(metrics: Metrics, predictions: dict[str, np.ndarray]) -> Metrics:
    """Adds a batch of `predict`'s arrays, of valid examples only."""
    count = len(metrics["classes"])
    confusion, boundary = metrics["confusion"].copy(), metrics["boundary"].copy()
    for found, true, (height, width) in zip(
        *(predictions[name] for name in ("classes", "true", "original_size")), strict=True
    ):
        found, true = found[:height, :width], true[:height, :width]
        confusion += confusion_of(found, true, count)
        boundary += boundaries.f1(found, true, count)
    return metrics | {
        "confusion": confusion,
        "boundary": boundary,
        "examples": metrics["examples"] + len(predictions["id"]),
    }


def confusion_of(
    found: UInt8[np.ndarray, "h w"], true: UInt8[np.ndarray, "h w"], classes: int
) -> Int[np.ndarray, "k k"]:
    """How many pixels of a true class (row) were found to be of a class (column), but those ignored."""
    counted = true != IGNORE
    pairs = true[counted] * np.intp(classes) + found[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def summarise(metrics: Metrics) -> dict[str, Any]:
    """Shares in 0..1, of all pixels of the split together but those ignored.

    A class's IoU is its pixels found over those found or true. miou, mean_accuracy and dice are means over the classes
    that are true or found somewhere; frequency_weighted_iou weighs by true pixels (Long et al. 2015, section 5).
    boundary_f1 is the mean over classes of their mean over pictures (tasks/boundaries.py). A class that is neither true
    nor found has None.
    """
    confusion = metrics["confusion"]
    true, found, right = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    pixels, union = max(1, int(true.sum())), true + found - right
    occurs = union > 0
    iou, accuracy = right / np.maximum(union, 1), right / np.maximum(true, 1)
    dice = 2 * right / np.maximum(true + found, 1)
    boundary = metrics["boundary"]
    f1 = boundary[0] / np.maximum(boundary[1], 1)

    def mean(values: np.ndarray, of: np.ndarray) -> float:
        return float(values[of].mean()) if of.any() else 0.0

    def per_class(values: np.ndarray, of: np.ndarray) -> dict[str, float | None]:
        numbers = zip(metrics["classes"], values, of, strict=True)
        return {name: float(value) if known else None for name, value, known in numbers}

    return {
        "miou": mean(iou, occurs),
        "pixel_accuracy": int(right.sum()) / pixels,
        "mean_accuracy": mean(accuracy, true > 0),
        "frequency_weighted_iou": float((true * iou).sum()) / pixels,
        "dice": mean(dice, occurs),
        "boundary_f1": mean(f1, boundary[1] > 0),
        "examples": metrics["examples"],
        "pixels": int(true.sum()),
        "per_class": per_class(iou, occurs),
        "boundary_per_class": per_class(f1, boundary[1] > 0),
        "confusion": confusion.tolist(),
    }


def table(summary: dict[str, Any]) -> dict[str, float]:
    """The headline and boundary F1, then the IoU of each class that occurs."""
    classes = {f"iou, {name}": value for name, value in summary["per_class"].items() if value is not None}
    return {name: summary[name] for name in (*HEADLINE, "boundary_f1")} | classes


def describe(predictions: dict[str, np.ndarray], row: int, classes: Sequence[str]) -> dict[str, Any]:
    """The classes found, each with its share of the image, largest first."""
    shares = np.bincount(mask(predictions, row).ravel(), minlength=len(classes)) / mask(predictions, row).size
    order = [index for index in np.argsort(-shares, kind="stable").tolist() if shares[index] > 0]
    return {"classes": [{"class": classes[index], "share": round(float(shares[index]), 4)} for index in order]}


def lines(described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
    return [(each["class"], each["share"]) for each in described["classes"]]


def mask(predictions: dict[str, np.ndarray], row: int) -> np.ndarray:
    """The class of every pixel of the picture, uint8 [h,w]."""
    height, width = predictions["original_size"][row]
    return predictions["classes"][row, :height, :width]
