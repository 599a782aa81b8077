"""Objects in boxes: the detector's own losses to train; COCO's average precision to evaluate.

A detector (models/ssd.py, faster_rcnn.py, yolox.py, ...) brings loss(outputs, batch) -> {name: scalar}, whose sum is
trained, and detect(outputs, sizes) -> boxes, scores, classes and valid of a fixed number of detections.
"""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from morphism import augment as augmentation
from morphism.augment.colour import hsv_jitter, photometric_distortion
from morphism.augment.mosaic import GROUP, mosaic
from morphism.data.records import Source
from morphism.lengths import to_steps
from morphism.tasks import coco, detections, voc

HEADLINE = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
HIGHER_IS_BETTER = ("ap", "ap50", "ap75")
MIN_CLASSES = 1
VIEWS = ("center",)

Batch = dict[str, Array]
Metrics = dict[str, Any]


def resolve(config: ConfigDict, source: Source) -> ConfigDict:
    """`config` with augment.closing_from, the draw of an example from which on there is no mosaic, or -1."""
    epoch = len(source) / config.batch_size  # in steps
    lengths = {"duration": config.duration, "augment.closing": config.augment.closing}
    total, closing = (to_steps(length, epoch, field) for field, length in lengths.items())
    first = max(round((total - closing) / epoch), 0) * config.data.repeats  # an epoch counts so many draws of a record
    resolved = config.copy_and_resolve_references()
    with resolved.unlocked():
        resolved.augment.closing_from = first if closing else -1
    return resolved


def mixed(config: ConfigDict) -> int:
    return GROUP if config.mosaic > 0 else 1


def augment(key: Array, batch: Batch, config: ConfigDict, classes: int) -> Batch:
    """Mosaics, where the config says so, colours distorted, then `normalise`; other geometry is data/detection.py's.

    `closed` bool [B], beside what was there, marks the examples from draw config.closing_from on (`resolve`), which
    have neither mosaic nor mixup; none if that is -1. Whether one is closed depends on its own draw alone.
    """
    batch = batch | {"closed": (batch["draw"] >= config.closing_from) & (config.closing_from >= 0)}
    keys = partial(augmentation.example_keys, key, batch)
    if config.mosaic > 0:
        batch = mosaic(keys("mosaic"), keys("mixup"), keys("flip"), batch, batch["closed"], config)
    images = batch["image"].astype(jnp.float32)
    if config.photometric:
        # Colours change before a picture is zoomed out: the ground around it, which a mosaic has not, keeps its mean.
        ground = config.mosaic == 0
        inside = jax.vmap(partial(_within, images.shape[1:3]))(batch["picture"]) if ground else None
        images = jax.vmap(photometric_distortion)(keys("jitter"), images, inside)
    if any(config.hsv):
        images = jax.vmap(partial(hsv_jitter, gains=config.hsv))(keys("jitter"), images)
    return batch | {"image": normalise(batch | {"image": images}, config)}


def _within(canvas: tuple[int, int], box: Float[Array, "4"]) -> Bool[Array, "h w"]:
    """Which pixels' middles lie in the box."""
    rows, columns = (jnp.arange(side) + 0.5 for side in canvas)
    return ((rows > box[1]) & (rows < box[3]))[:, None] & ((columns > box[0]) & (columns < box[2]))[None, :]


def normalise(batch: Batch, config: ConfigDict) -> Float[Array, "b h w 3"]:
    """The normalised picture, and on the canvas around it config.fill, or zeros, as torchvision pads."""
    images = augmentation.normalise(batch["image"], config.mean, config.std)
    around = augmentation.normalise(jnp.full(3, config.fill), config.mean, config.std) if config.fill >= 0 else 0.0
    height, width = images.shape[1:3]
    rows = jnp.arange(height)[None, :] < batch["size"][:, :1]
    columns = jnp.arange(width)[None, :] < batch["size"][:, 1:]
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], images, around)


def inputs(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """A two-stage detector reads the pictures' sizes, and in training the boxes: models/detection.py's targets."""
    if "targets" not in inspect.signature(type(model).__call__).parameters:
        return {}
    return {"targets": {name: value for name, value in batch.items() if name != "image"}}


def misfit(model: nn.Module, outputs: Any, classes: int) -> str:
    """What is wrong with the shapes of a model's outputs for so many classes, or "".

    Logits may count the background as well, and YOLOv3's predictions hold five numbers of the box before the classes.
    """
    if not (hasattr(model, "loss") and hasattr(model, "detect")):
        return "it is no detector, with a loss and detect of its own"
    spare = {"cls_logits": (0, 1), "class_logits": (0, 1), "predictions": (5,)}
    for name in spare.keys() & outputs.keys():
        width = outputs[name].shape[-1]
        if width - classes not in spare[name]:
            return f"its {name} are {width} per box, the data has {classes} classes"
    return ""


def loss(
    model: nn.Module, outputs: dict[str, Array], batch: Batch, config: ConfigDict
) -> tuple[Array, dict[str, Array]]:
    """The sum of the detector's terms; and, where there are mosaics, how many boxes a picture had no slot for."""
    terms = model.loss(outputs, batch)
    told = {"boxes_left_out": jnp.mean(batch["left_out"].astype(jnp.float32))} if "left_out" in batch else {}
    return sum(terms.values()), terms | told


def predict(model: nn.Module, outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
    """boxes [B,D,4] in pixels of the picture as decoded; scores [B,D]; classes [B,D], -1 in unused slots; id [B]."""
    found = model.detect(outputs, batch["size"])
    scale = (batch["original_size"] / batch["size"])[:, ::-1]
    return {
        "boxes": found["boxes"] * jnp.tile(scale, 2)[:, None],
        "scores": found["scores"],
        "classes": jnp.where(found["valid"], found["classes"], -1),
        "id": batch["id"],
    }


def init_metrics(source: Source) -> Metrics:
    return {"source": source, "gathered": detections.init_metrics()}


def update_metrics(metrics: Metrics, predictions: dict[str, np.ndarray]) -> Metrics:
    """Adds a batch of `predict`'s arrays, of valid examples only, beside the source's annotations of its pictures."""
    true = [metrics["source"].annotations(int(index)) for index in predictions["id"]]
    slots = max(map(len, true))

    def padded(name: str, fill: float = 0) -> np.ndarray:
        columns = [getattr(each, name) for each in true]
        spare = [[(0, slots - len(column))] + [(0, 0)] * (column.ndim - 1) for column in columns]
        return np.stack([np.pad(*each, constant_values=fill) for each in zip(columns, spare, strict=True)])

    truth = {
        "true_boxes": padded("boxes"),
        "true_classes": padded("classes", -1),
        "true_area": padded("area"),
        "true_crowd": padded("crowd"),
        "true_difficult": padded("difficult"),
    }
    return metrics | {"gathered": detections.update_metrics(metrics["gathered"], predictions | truth)}


def summarise(metrics: Metrics) -> dict[str, Any]:
    """COCO's twelve numbers and its AP of each class; voc10_ap50, the area, and voc07_ap50, the eleven points, of VOC.

    In 0..1, -1 where there is nothing to find.
    """
    classes = metrics["source"].classes
    found = coco.summarise(metrics["gathered"], classes)
    pascal = voc.summarise(metrics["gathered"], classes)
    examples = found.pop("pictures")
    return found | {"voc10_ap50": pascal["map"], "voc07_ap50": pascal["map_07"], "examples": examples}


def table(summary: dict[str, Any]) -> dict[str, float]:
    """COCO's twelve numbers and VOC's two, then the AP of each class; without those for which there is nothing to find.

    Numbers that average over classes and sizes without objects would be -1. The AP itself is always there.
    """
    names = (*coco.NAMES, "voc10_ap50", "voc07_ap50")
    rows = {name: summary[name] for name in names} | {f"ap, {k}": value for k, value in summary["per_class"].items()}
    return {name: value for name, value in rows.items() if value >= 0 or name == "ap"}


def describe(predictions: dict[str, np.ndarray], row: int, classes: Sequence[str]) -> dict[str, Any]:
    """All detections that evaluation counts, best first; box is x0, y0, x1, y1 in pixels of the image as decoded."""
    numbers, scores, boxes = (predictions[name][row] for name in ("classes", "scores", "boxes"))
    order = [index for index in np.argsort(-scores, kind="stable") if numbers[index] >= 0]
    return {
        "detections": [
            {
                "class": classes[numbers[index]],
                "score": round(float(scores[index]), 4),
                "box": np.round(boxes[index].astype(float), 1).tolist(),
            }
            for index in order
        ]
    }


def shown(detections: list[dict[str, Any]], threshold: float, most: int) -> list[dict[str, Any]]:
    """What a person is shown of `describe`'s detections: at most `most`, of those that score `threshold` or more."""
    return [each for each in detections if each["score"] >= threshold][:most]


def lines(described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
    """Class, score and box of each detection that is `shown`, or that there is none."""
    found = shown(described["detections"], threshold, most)
    return [(each["class"], each["score"], each["box"]) for each in found] or [("no detections",)]
