"""Semantic segmentation: one class per pixel. Evaluated by IoU, accuracy and Dice; `morphism eval` adds boundary F1.

With config.metrics.medical also image by image: Dice and distances of surfaces (tasks/surfaces.py).

Evaluation is at the size of the stored masks: the device resizes logits to it (bilinear), takes the argmax and counts
every pixel once, in integers. Pixels of class 255 do not count. So while a run trains, only the confusion matrix of a
batch and a few numbers per image reach the host; boundaries and surfaces need the maps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8
from ml_collections import ConfigDict

from morphism import augment as augmentation
from morphism.augment.colour import additive_distortion
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.labels import IGNORE
from morphism.ops import segmentation as ops
from morphism.ops.platform import per_example
from morphism.ops.resize import argmax_of_parts
from morphism.tasks import boundaries, canvas, class_weights, layers, segmentation_views, surfaces
from morphism.tasks.layers import Layer
from morphism.tasks.task import Apply, Batch, File, Metrics, Predictions, SingleTask, Totals, check_count, ratios
from morphism.threads import in_threads

WRONG = 20  # most cells of the confusion matrix that are listed per image


@dataclass(frozen=True)
class Segmentation(SingleTask):
    """The task of a model whose outputs are {"out": logits [B,H,W,K]}. tasks/task.py describes the members.

    compares_boundaries: whether `summarise` has boundary F1, for which the host needs the maps of all images.
    surface_options: how surfaces are compared; None: they are not.
    """

    compares_boundaries: bool = False
    surface_options: surfaces.Options | None = None
    name: ClassVar[str] = "segmentation"
    targets: ClassVar[tuple[str, ...]] = ("segmentation",)
    higher_is_better: ClassVar[tuple[str, ...]] = (
        *("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "dice"),
    )
    headline: ClassVar[tuple[str, ...]] = (*higher_is_better, "loss")
    image_score: ClassVar[str] = "mean IoU of the classes that are true or predicted in the image"
    views: ClassVar[tuple[str, ...]] = segmentation_views.VIEWS
    masks: ClassVar[tuple[str, ...]] = ("",)

    def check(self, config: ConfigDict) -> None:
        data, loss = config.data, config.loss
        if data.balanced:
            raise UserError("config.data.balanced: an image of several classes has no single one; set it to False")
        if loss.class_weights and loss.name in ("lovasz", "dice"):
            raise UserError(f"config.loss.class_weights: {loss.name} has no use for it; set it to ()")
        if data.border_weight > 0 and loss.name != "cross_entropy":
            raise UserError(
                f"config.data.border_weight: {loss.name} has no use for it; set it to 0.0, or loss.name to "
                "'cross_entropy'"
            )
        if loss.dice_weight > 0 and loss.name == "dice":
            raise UserError("config.loss.dice_weight: the loss is Dice's already; set it to 0.0")

    def check_classes(self, source: str, classes: Sequence[str]) -> None:
        check_count(self, 2, source, classes)

    def resolve(self, config: ConfigDict, source: Source) -> ConfigDict:
        """Class weights "median_frequency" become numbers, for which all masks are read.

        Class k weighs median(f) / f_k, where f_k is its share of the counted pixels of the images that it occurs in
        (Eigen & Fergus 2015, section 6.3.2; Badrinarayanan et al. 2015, section 4.1). Raises UserError if a class has
        no pixel, and if there are not K numbers.
        """
        return class_weights.resolved(config, source, "median_frequency", lambda: _median_frequency(source, config))

    def misfit(self, model: nn.Module, outputs: Any, classes: int) -> str:
        if not isinstance(outputs, dict) or "out" not in outputs or len(outputs["out"].shape) != 4:
            return 'its outputs are not maps of logits {"out": [B,H,W,K]}, which segmentation needs'
        wrong = [name for name in ("out", "aux") if name in outputs and outputs[name].shape[-1] != classes]
        return f"{wrong[0]!r} has {outputs[wrong[0]].shape[-1]} outputs, the data {classes} classes" if wrong else ""

    def mixed(self, config: ConfigDict) -> int:
        return 1

    def augment(self, key: Key[Array, ""], batch: Batch, config: ConfigDict, classes: int) -> Batch:
        """Distorted colours, as configured, then normalised images with config.fill around; geometry is the host's."""
        images = batch["image"].astype(jnp.float32)
        if config.photometric:
            images = jax.vmap(additive_distortion)(augmentation.example_keys(key, batch, "jitter"), images)
        return batch | {"image": canvas.normalise(batch | {"image": images}, config, canvas.fill(config))}

    def loss(
        self, model: nn.Module, outputs: dict[str, Array], batch: Batch, config: ConfigDict
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss of "out" plus config.loss.aux_weight times that of "aux"; the pixel accuracy of "out".

        Means are over the counted pixels of a device's share of the batch.
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

    def prepared(self, config: ConfigDict, views: str) -> ConfigDict:
        return config

    def normalise(self, batch: Batch, config: ConfigDict) -> Float[Array, "b h w 3"]:
        """The normalised images; the rest of each canvas is zero."""
        return canvas.normalise(batch, config, 0.0)

    def infer(
        self, apply: Apply, images: Float[Array, "b h w 3"], batch: Batch, data: ConfigDict, views: str
    ) -> dict[str, Float[Array, "b h w k"]]:
        """{"out": logits at the images' size}, by tasks/segmentation_views.py."""

        def sized(images: Array, sizes: Array) -> dict[str, Array]:
            return apply(images, batch | {"size": sizes})

        return segmentation_views.infer(sized, images, batch["size"], data, views)

    def predict(self, model: nn.Module, outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
        """The predicted and the true class of every pixel of the decoded images.

        Returns:
          classes uint8 [B,H,W]: at the top left of canvases as large as the largest image, 255 elsewhere;
          true uint8 [B,H,W]: the same; 255 also where ignored;
          loss float32 [B]: the sum of the cross-entropy over the counted pixels of the network's input, without class
          weights; the true class of such a pixel is that at its centre. counted int32 [B]: their number;
          original_size [B,2], height and width; id [B].
        """
        logits, true, to = outputs["out"], batch["segmentation"].astype(jnp.uint8), batch["original_size"]

        def resized() -> Array:
            return argmax_of_parts(logits, batch["size"], to, *true.shape[1:])

        if true.shape == logits.shape[:3]:  # perhaps no image was resized
            whole = jnp.all(batch["size"] == to)
            classes = jax.lax.cond(whole, lambda: jnp.argmax(logits, axis=-1).astype(jnp.uint8), resized)
        else:
            classes = resized()
        return {
            "classes": jnp.where(canvas.inside(true.shape[1:], to), classes, jnp.uint8(IGNORE)),
            "true": true,
            "original_size": to,
            "id": batch["id"],
            **_judged(logits, true, batch["size"], to),
        }

    def totals(self, outputs: dict[str, Array], predictions: dict[str, Array], batch: Batch) -> dict[str, Array]:
        """confusion int32 [K,K]: pixels by true (row) and predicted class."""
        true = jnp.where(batch["valid"][:, None, None], predictions["true"], jnp.uint8(IGNORE))
        return {"confusion": ops.confusion(predictions["classes"], true, outputs["out"].shape[-1])}

    @property
    def only_drawn(self) -> Sequence[str]:
        return () if self.compares_boundaries else ("classes", "true")

    @property
    def exports(self) -> Mapping[str, str]:
        return {
            "classes": f"[B,H,W], the class of each pixel of the input; {IGNORE} beyond the image",
            "confidence": "[B,H,W], its probability, by softmax; 0 beyond the image",
        }

    def exported(self, model: nn.Module, outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
        probabilities = jax.nn.softmax(outputs["out"].astype(jnp.float32))
        classes = jnp.argmax(outputs["out"], axis=-1).astype(jnp.uint8)
        inside = canvas.inside(classes.shape[1:], batch["size"])
        return {
            "classes": jnp.where(inside, classes, jnp.uint8(IGNORE)),
            "confidence": jnp.where(inside, jnp.max(probabilities, axis=-1), 0),
        }

    def measured(self, config: ConfigDict, least: float) -> "Segmentation":
        options = surfaces.Options(tuple(config.data.spacing), config.metrics.tolerance)
        return replace(self, compares_boundaries=True, surface_options=options if config.metrics.medical else None)

    def init_metrics(self, source: Source) -> Metrics:
        count = len(source.classes)
        return {
            "classes": tuple(source.classes),
            "confusion": np.zeros((count, count), np.int64),
            "boundary": np.zeros((2, count)),  # per class the sum of its F1 over images, and their number
            "surfaces": surfaces.empty(count),
            "loss": 0.0,
            "counted": 0,  # pixels of the loss
            "examples": 0,
        }

    def update_metrics(self, metrics: Metrics, predictions: Predictions) -> Metrics:
        count = len(metrics["classes"])
        boundary, distances = (metrics[name].copy() for name in ("boundary", "surfaces"))

        def compared(row: int) -> tuple[Float[np.ndarray, "2 k"], surfaces.Sums]:
            maps, options = (self.mask(predictions, row), self._true(predictions, row)), self.surface_options
            of_surfaces = surfaces.measure(*maps, count, options) if options else surfaces.empty(count)
            return boundaries.f1(*maps, count), of_surfaces

        for f1, of_surfaces in in_threads(compared, range(len(predictions["id"])) if self.compares_boundaries else ()):
            # Sums of float32 values in float64 are exact, whatever the order of batches and processes.
            boundary += f1.astype(np.float32)
            distances += of_surfaces.astype(np.float32)
        return metrics | {
            "boundary": boundary,
            "surfaces": distances,
            "loss": metrics["loss"] + float(np.sum(predictions["loss"], dtype=np.float64)),
            "counted": metrics["counted"] + int(np.sum(predictions["counted"], dtype=np.int64)),
            "examples": metrics["examples"] + len(predictions["id"]),
        }

    def add_totals(self, metrics: Metrics, totals: Totals) -> Metrics:
        return metrics | {"confusion": metrics["confusion"] + totals["confusion"]}

    def summarise(self, metrics: Metrics) -> dict[str, Any]:
        """Shares in 0..1 of all pixels of the split that are not ignored.

        The IoU of a class is the number of its correct pixels over the number that are predicted or true. miou,
        mean_accuracy and dice are means over the classes that occur; frequency_weighted_iou weighs by true pixels (Long
        et al. 2015, section 5). loss is the mean of `predict`'s cross-entropy over all its pixels. boundary_f1, if
        measured, is the mean over classes of their mean over images (tasks/boundaries.py).
        A class that neither is true nor predicted anywhere has None. "surfaces", if measured: tasks/surfaces.py.
        """
        confusion = metrics["confusion"]
        true, found, right = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
        pixels, union = max(1, int(true.sum())), true + found - right
        occurs = union > 0
        iou, accuracy = right / np.maximum(union, 1), right / np.maximum(true, 1)
        dice = 2 * right / np.maximum(true + found, 1)

        def mean(values: np.ndarray, of: np.ndarray) -> float:
            return float(values[of].mean()) if of.any() else 0.0

        def per_class(values: np.ndarray, of: np.ndarray) -> dict[str, float | None]:
            numbers = zip(metrics["classes"], values, of, strict=True)
            return {name: float(value) if known else None for name, value, known in numbers}

        further: dict[str, Any] = {}
        if self.compares_boundaries:
            total, images = metrics["boundary"]
            f1 = total / np.maximum(images, 1)
            further["boundary_f1"] = mean(f1, images > 0)
            further["boundary_per_class"] = per_class(f1, images > 0)
        if self.surface_options:
            further["surfaces"] = surfaces.summarise(metrics["surfaces"], metrics["classes"], self.surface_options)
        return {
            "miou": mean(iou, occurs),
            "pixel_accuracy": int(right.sum()) / pixels,
            "mean_accuracy": mean(accuracy, true > 0),
            "frequency_weighted_iou": float((true * iou).sum()) / pixels,
            "dice": mean(dice, occurs),
            "loss": metrics["loss"] / max(metrics["counted"], 1),
            "examples": metrics["examples"],
            "pixels": int(true.sum()),
            "per_class": per_class(iou, occurs),
            "confusion": confusion.tolist(),
            **further,
        }

    def table(self, summary: dict[str, Any]) -> dict[str, float | int]:
        """The headline, boundary F1 if measured, the IoU per class that occurs, the surface measures if measured."""
        rows = {name: summary[name] for name in (*self.headline, "boundary_f1") if name in summary}
        rows |= {f"iou, {name}": value for name, value in summary["per_class"].items() if value is not None}
        return rows | surfaces.table(summary["surfaces"]) if "surfaces" in summary else rows

    def files(self, metrics: Metrics, source: Source) -> tuple[File, ...]:
        return ()

    def plots(self, metrics: Metrics, summary: dict[str, Any]) -> dict[str, Any]:
        """Confusion of pixels; per class IoU, recall and, if measured, boundary F1."""
        confusion, classes = metrics["confusion"], list(metrics["classes"])
        true = confusion.sum(axis=1)
        bars = {"IoU": list(summary["per_class"].values()), "recall": ratios(np.diag(confusion), true)}
        if self.compares_boundaries:
            bars["boundary F1"] = list(summary["boundary_per_class"].values())
        return {
            "confusion": {"classes": classes, "counts": confusion.tolist(), "of": "pixels"},
            "per_class": {"classes": classes, "bars": bars, "count": true.tolist(), "of": "pixels"},
        }

    def per_image(self, metrics: Metrics, predictions: Predictions) -> list[dict[str, Any]]:
        """The cells are the WRONG largest that are wrong; true and predicted are shares of the counted pixels."""
        classes = metrics["classes"]

        def result(row: int) -> dict[str, Any]:
            found, true = self.mask(predictions, row), self._true(predictions, row)
            return _image_result(confusion_of(found, true, len(classes)), classes)

        return list(in_threads(result, range(len(predictions["id"]))))

    def describe(self, predictions: Predictions, row: int, classes: Sequence[str]) -> dict[str, Any]:
        """The predicted classes, each with its share of the image, largest first."""
        found = self.mask(predictions, row)
        shares = np.bincount(found.ravel(), minlength=len(classes)) / found.size
        order = [index for index in np.argsort(-shares, kind="stable").tolist() if shares[index] > 0]
        return {"classes": [{"class": classes[index], "share": round(float(shares[index]), 4)} for index in order]}

    def lines(self, described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
        return [(each["class"], each["share"]) for each in described["classes"]]

    def counts(self, described: dict[str, Any], threshold: float, most: int) -> tuple[int, int]:
        return 0, 0

    def mask(self, predictions: Predictions, row: int, name: str = "") -> UInt8[np.ndarray, "h w"]:
        height, width = predictions["original_size"][row]
        return predictions["classes"][row, :height, :width]

    def _true(self, predictions: Predictions, row: int) -> UInt8[np.ndarray, "h w"]:
        height, width = predictions["original_size"][row]
        return predictions["true"][row, :height, :width]

    def found_layers(
        self, predictions: Predictions, row: int, classes: Sequence[str], threshold: float, most: int
    ) -> Sequence[Layer]:
        return (layers.of_mask(classes, self.mask(predictions, row)),)

    def true_layers(self, source: Source, index: int) -> Sequence[Layer]:
        found = source[index].get("segmentation")
        return () if found is None else (layers.of_mask(source.classes, found),)


def _judged(
    logits: Float[Array, "b h w k"],
    true: UInt8[Array, "b h2 w2"],
    sizes: Int[Array, "b 2"],
    original: Int[Array, "b 2"],
) -> dict[str, Array]:
    """The loss and the counted pixels of each example, as `predict` returns them."""

    def example(logits: Array, true: Array, size: Array, original: Array) -> tuple[Array, Array]:
        rows, columns = (
            jnp.clip((jnp.arange(count) + 0.5) * (original[axis] / size[axis]), 0, original[axis] - 1).astype(jnp.int32)
            for axis, count in enumerate(logits.shape[:2])
        )
        within = canvas.inside(logits.shape[:2], size[None])[0]
        labels = jnp.where(within, true[rows[:, None], columns[None, :]], IGNORE).astype(jnp.int32)
        counted = jnp.sum(labels != IGNORE)
        return counted * ops.cross_entropy(logits[None], labels[None]), counted.astype(jnp.int32)

    loss, counted = per_example(example)(logits, true, sizes, original)
    return {"loss": loss.astype(jnp.float32), "counted": counted}


def confusion_of(
    found: UInt8[np.ndarray, "h w"], true: UInt8[np.ndarray, "h w"], classes: int
) -> Int[np.ndarray, "k k"]:
    """How many pixels of each true class (row) are predicted as each class (column), without ignored ones."""
    counted = true != IGNORE
    pairs = true[counted] * np.intp(classes) + found[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _image_result(confusion: Int[np.ndarray, "k k"], classes: Sequence[str]) -> dict[str, Any]:
    true, found, right = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    union, pixels = true + found - right, int(true.sum())
    occurs = union > 0
    wrong = confusion - np.diag(right)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:WRONG]
    a, b = np.unravel_index(largest[wrong.flat[largest] > 0], wrong.shape)

    def shares(of: Int[np.ndarray, "k"]) -> dict[str, float]:
        order = (each for each in np.argsort(-of, kind="stable") if of[each])
        return {classes[each]: round(int(of[each]) / pixels, 4) for each in order}

    return {
        "score": round(float((right[occurs] / union[occurs]).mean()), 4) if pixels else None,
        "true": shares(true),
        "predicted": shares(found),
        "cells": np.stack([a, b, wrong[a, b]], axis=-1).tolist(),
    }


def _median_frequency(source: Source, config: ConfigDict) -> Float[np.ndarray, "k"]:
    count = len(source.classes)
    pixels = np.zeros(count, np.int64)
    pixels_around = np.zeros(count, np.int64)  # of the images that the class occurs in
    for index in range(len(source)):
        record = source[index]
        if "segmentation" not in record:
            continue
        found = np.bincount(record["segmentation"].ravel(), minlength=256)[:count]
        pixels += found
        pixels_around += (found > 0) * found.sum()
    if not pixels.all():
        raise UserError(
            f"config.loss.class_weights is 'median_frequency', but {source.classes[np.argmin(pixels)]} has no pixel "
            f"in {config.data.train_split}; write a number for each class"
        )
    frequency = pixels / pixels_around
    return np.median(frequency) / frequency


def _loss(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w"],
    pixel_weights: Float[Array, "b h w"] | None,
    config: ConfigDict,
) -> Float[Array, ""]:
    weights = class_weights.of(config)
    total = {
        "cross_entropy": lambda: ops.cross_entropy(logits, labels, weights, pixel_weights),
        "focal": lambda: ops.focal(logits, labels, config.focal_gamma, weights),
        "ohem": lambda: ops.hard_cross_entropy(logits, labels, config.ohem_threshold, config.ohem_pixels, weights),
        "lovasz": lambda: ops.lovasz_softmax(logits, labels),
        "dice": lambda: ops.dice(logits, labels),
    }[config.name]()
    return total + config.dice_weight * ops.dice(logits, labels) if config.dice_weight > 0 else total
