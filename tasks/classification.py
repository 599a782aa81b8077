"""Classification: one class per image. Evaluated by top-1, top-5, confusion matrix and calibration error."""

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
from morphism.augment.views import view
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.ops.losses import binary_cross_entropy, cross_entropy, sigmoid_focal, smooth
from morphism.ops.platform import scan
from morphism.tasks import class_weights, curves
from morphism.tasks.layers import Layer, Tag
from morphism.tasks.task import Apply, Batch, File, Metrics, Predictions, SingleTask, check_count, ratios

CALIBRATION_BINS = 15  # Guo et al. 2017, section 4
ONE_VS_REST = 100  # most classes for which each class's probabilities are counted
PROBABILITIES = 1001  # thresholds at which they are counted: 0, 0.001, ..., 1
WHOLE_MATRIX = 1000  # most classes for which the whole confusion matrix is written


@dataclass(frozen=True)
class Classification(SingleTask):
    """The task of a model whose outputs are logits [B,K]. tasks/task.py describes the members.

    top: how many classes are named per image.
    """

    top: int = 1
    name: ClassVar[str] = "classification"
    targets: ClassVar[tuple[str, ...]] = ("label",)
    headline: ClassVar[tuple[str, ...]] = ("top1", "top5", "loss", "calibration_error")
    higher_is_better: ClassVar[tuple[str, ...]] = ("top1", "top5")
    image_score: ClassVar[str] = "probability of the true class"
    views: ClassVar[tuple[str, ...]] = ("center", "flip", "ten_crop")
    masks: ClassVar[tuple[str, ...]] = ()

    def check(self, config: ConfigDict) -> None:
        data, loss = config.data, config.loss
        if data.window_rule == "square":
            _check_sizes(data)
        if loss.class_weights and loss.name == "focal":
            raise UserError("config.loss.class_weights: focal has no use for it, it has focal_alpha; set it to ()")
        if loss.bce_threshold > 0 and loss.name != "bce":
            raise UserError(
                f"config.loss.bce_threshold: {loss.name} has no use for it; set it to 0.0, or name to 'bce'"
            )

    def naming(self, top: int) -> "Classification":
        return replace(self, top=top)

    def check_classes(self, source: str, classes: Sequence[str]) -> None:
        check_count(self, 2, source, classes)

    def resolve(self, config: ConfigDict, source: Source) -> ConfigDict:
        """Class weights "balanced" become numbers: class k of K weighs n / (K n_k), where n_k of n examples have it.

        Every class then has the same total weight. Raises UserError if a class has no example, and if there are not K
        numbers.
        """

        def balanced() -> Float[np.ndarray, "k"]:
            labels, count = source.labels, len(source.classes)
            known = (labels >= 0) & (labels < count)  # others raise an error that names their record when it is loaded
            examples = np.bincount(labels[known], minlength=count)
            if not examples.all():
                raise UserError(
                    f"config.loss.class_weights is 'balanced', but {source.classes[np.argmin(examples)]} has no "
                    f"example in {config.data.train_split}; add one, or write a number for each class"
                )
            return examples.sum() / (count * examples)

        return class_weights.resolved(config, source, "balanced", balanced)

    def misfit(self, model: nn.Module, outputs: Any, classes: int) -> str:
        shape = getattr(outputs, "shape", None)
        if shape is None or len(shape) != 2:
            return "its outputs are not logits [B,K], which classification needs"
        return "" if shape[1] == classes else f"it has {shape[1]} outputs, the data {classes} classes"

    def mixed(self, config: ConfigDict) -> int:
        return 2 if config.mixup_alpha > 0 or config.cutmix_alpha > 0 else 1

    def augment(self, key: Key[Array, ""], batch: Batch, config: ConfigDict, classes: int) -> Batch:
        return augmentation.augment(key, batch, config, classes)

    def loss(
        self, model: nn.Module, logits: Float[Array, "b k"], batch: Batch, config: ConfigDict
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean loss over the valid examples; top-1 accuracy, for mixed labels by their heaviest class.

        cross_entropy: with class weights the sum is divided by the sum of the labels' weights, or by the number of
        examples if labels are mixed, as in torch; each device and micro-batch divides by its own, as in torch's
        DistributedDataParallel.
        bce: K binary problems; an example's loss is their mean (Wightman et al. 2021, "ResNet strikes back"). Class
        weights multiply the positives' terms.
        focal: K binary problems; an example's loss is their sum, which is thus normalised per positive as in RetinaNet.
        bce and focal smooth labels as cross_entropy does.
        """
        label, valid = batch["label"], batch["valid"]
        count = jnp.maximum(jnp.sum(valid), 1)
        each, share = _each(logits, label, config.loss)
        target = label if label.ndim == 1 else jnp.argmax(label, axis=-1)
        correct = (jnp.argmax(logits, axis=-1) == target) & valid
        total = jnp.sum(jnp.where(valid, each, 0))
        weight = count if share is None else jnp.sum(jnp.where(valid, share, 0))
        return total / jnp.where(weight > 0, weight, 1), {"top1": jnp.sum(correct) / count}

    def prepared(self, config: ConfigDict, views: str) -> ConfigDict:
        """For ten crops, images are loaded at resize_size: the device cuts the crops."""
        if views != "ten_crop":
            return config
        data = config.data
        if data.resize_size == (data.eval_size or data.image_size):
            raise UserError(
                f"--views ten_crop: images are resized to config.data.resize_size={data.resize_size}, the size of the "
                "network's input, so that all crops would be the same; train with a larger resize_size, or choose flip"
            )
        wider = config.copy_and_resolve_references()
        with wider.unlocked():
            wider.data.eval_size = data.resize_size
        return wider

    def normalise(self, batch: Batch, config: ConfigDict) -> Float[Array, "b h w 3"]:
        return augmentation.normalise(batch["image"], config.mean, config.std)

    def infer(
        self, apply: Apply, images: Float[Array, "b h w 3"], batch: Batch, data: ConfigDict, views: str
    ) -> Float[Array, "b k"]:
        """Logits. Several views (augment/views.py) run one after the other, and `combine` averages them."""
        if views == "center":
            return apply(images, batch)
        each = view(images, views, data.eval_size or data.image_size)
        _, logits = scan(lambda _, x: (None, apply(x, batch)), None, each, len(each))
        return combine(logits)

    def predict(self, model: nn.Module, logits: Float[Array, "b k"], batch: Batch) -> dict[str, Array]:
        """The predicted class of each example, its confidence, and the rank and loss of the true label.

        Returns:
          class int32 [B]; label int32 [B]; id [B];
          confidence float32 [B]: the class's softmax probability, whatever the loss of the training;
          rank int32 [B]: the number of classes that score above the label; ties go to the lower class, as in argmax;
          loss float32 [B]: the cross-entropy without label smoothing or class weights;
          probabilities float32 [B,K]: softmax, of at most ONE_VS_REST classes;
          others int32 [B,top - 1], others_confidence float32: the next best classes, if more than one is named.
        """
        logits = logits.astype(jnp.float32)
        label = batch["label"]
        score = jnp.take_along_axis(logits, label[:, None], axis=-1)
        before = jnp.arange(logits.shape[-1]) < label[:, None]
        probabilities = jax.nn.softmax(logits)
        further = {"probabilities": probabilities} if logits.shape[-1] <= ONE_VS_REST else {}
        if self.top > 1:
            scores, ranked = jax.lax.top_k(probabilities, min(self.top, logits.shape[-1]))
            further |= {"others": ranked[:, 1:].astype(jnp.int32), "others_confidence": scores[:, 1:]}
        return further | {
            "class": jnp.argmax(logits, axis=-1).astype(jnp.int32),
            "confidence": jnp.max(probabilities, axis=-1),
            "rank": jnp.sum((logits > score) | ((logits == score) & before), axis=-1),
            "loss": cross_entropy(logits, label),
            "label": label,
            "id": batch["id"],
        }

    @property
    def exports(self) -> Mapping[str, str]:
        return {"probabilities": "[B,K], of each class, by softmax"}

    def exported(self, model: nn.Module, logits: Float[Array, "b k"], batch: Batch) -> dict[str, Array]:
        return {"probabilities": jax.nn.softmax(logits.astype(jnp.float32))}

    def init_metrics(self, source: Source) -> Metrics:
        names, bins = tuple(source.classes), np.zeros((CALIBRATION_BINS, 3))
        return {
            "names": names,
            "loss": 0.0,
            "top5": 0,
            "pairs": [],
            "bins": bins,  # per bin of confidence: examples, correct ones, sum of confidences
            # Per class and probability: examples, and those of the class.
            "scores": np.zeros((2, len(names) if len(names) <= ONE_VS_REST else 0, PROBABILITIES), np.int64),
        }

    def update_metrics(self, metrics: Metrics, predictions: Predictions) -> Metrics:
        confidence = predictions["confidence"].astype(np.float64)
        correct = predictions["rank"] == 0
        index = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
        bins = metrics["bins"].copy()
        np.add.at(bins, index, np.stack([np.ones_like(confidence), correct, confidence], axis=-1))
        # Pairs rather than a matrix of K x K, which would mostly hold zeros where there are many classes.
        pairs = predictions["label"].astype(np.int64) * len(metrics["names"]) + predictions["class"]
        return metrics | {
            "loss": metrics["loss"] + float(np.sum(predictions["loss"], dtype=np.float64)),
            "top5": metrics["top5"] + int(np.sum(predictions["rank"] < 5)),
            "pairs": [*metrics["pairs"], pairs],
            "bins": bins,
            "scores": metrics["scores"] + _scores(predictions, len(metrics["names"])),
        }

    def summarise(self, metrics: Metrics) -> dict[str, Any]:
        """Shares of the examples in 0..1, and the confusion matrix: rows are true classes, columns predicted ones.

        With more than WHOLE_MATRIX classes "confusion" lists the cells that are not 0: [true, predicted, examples].

        calibration_error is the expected calibration error: |accuracy - confidence| of 15 equal bins of confidence,
        each weighted by its share of the examples (Guo et al. 2017, equation 5).
        """
        classes, bins = len(metrics["names"]), metrics["bins"]
        pairs = np.concatenate(metrics["pairs"])
        examples = len(pairs)
        true, predicted = np.divmod(pairs, classes)
        return {
            "top1": int(np.sum(true == predicted)) / examples,
            "top5": metrics["top5"] / examples,
            "loss": metrics["loss"] / examples,
            "calibration_error": float(np.abs(bins[:, 1] - bins[:, 2]).sum()) / examples,
            "examples": examples,
            "confusion": _confusion(pairs, classes),
        }

    def table(self, summary: dict[str, Any]) -> dict[str, float]:
        return {name: summary[name] for name in self.headline}

    def files(self, metrics: Metrics, source: Source) -> tuple[File, ...]:
        return ()

    def plots(self, metrics: Metrics, summary: dict[str, Any]) -> dict[str, Any]:
        """Confusion, recall and precision per class, calibration; one-vs-rest curves of at most ONE_VS_REST classes.

        The curves count an example at the largest of the thresholds 0, 0.001, ..., 1 that its probability reaches.
        """
        names, bins, scores = (metrics[name] for name in ("names", "bins", "scores"))
        true, predicted = np.divmod(np.concatenate(metrics["pairs"]), len(names))
        per_true, per_predicted = (np.bincount(each, minlength=len(names)) for each in (true, predicted))
        right = np.bincount(true[true == predicted], minlength=len(names))
        form = "counts" if len(names) <= WHOLE_MATRIX else "cells"
        return {
            "confusion": {"classes": list(names), form: summary["confusion"], "of": "examples"},
            "per_class": {
                "classes": list(names),
                "bars": {"recall": ratios(right, per_true), "precision": ratios(right, per_predicted)},
                "count": per_true.tolist(),
                "of": "examples",
            },
            "reliability": {
                "examples": bins[:, 0].astype(int).tolist(),
                "accuracy": ratios(bins[:, 1], bins[:, 0]),
                "confidence": ratios(bins[:, 2], bins[:, 0]),
                "calibration_error": summary["calibration_error"],
            },
        } | curves.curves(names[: scores.shape[1]], _decisions(scores), "one class against the rest")

    def per_image(self, metrics: Metrics, predictions: Predictions) -> list[dict[str, Any]]:
        names, score = metrics["names"], np.exp(-predictions["loss"].astype(np.float64))
        columns = (each.tolist() for each in (score, predictions["confidence"], predictions["label"]))
        return [
            {
                "score": round(min(score, 1.0), 4),
                "true": names[true],
                "predicted": names[found],
                "confidence": round(confidence, 4),
                "cells": [[true, found, 1]],
            }
            for score, confidence, true, found in zip(*columns, predictions["class"].tolist(), strict=True)
        ]

    def describe(self, predictions: Predictions, row: int, classes: Sequence[str]) -> dict[str, Any]:
        """The class and its confidence; with `top` classes also these, best first."""
        found = [{"class": name, "confidence": round(score, 4)} for name, score in _ranked(predictions, row, classes)]
        return found[0] if self.top == 1 else found[0] | {"top": found}

    def lines(self, described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
        return [(each["class"], each["confidence"]) for each in described.get("top", [described])]

    def counts(self, described: dict[str, Any], threshold: float, most: int) -> tuple[int, int]:
        return 0, 0

    def mask(self, predictions: Predictions, row: int, name: str = "") -> UInt8[np.ndarray, "h w"]:
        raise KeyError(name)

    def found_layers(
        self, predictions: Predictions, row: int, classes: Sequence[str], threshold: float, most: int
    ) -> Sequence[Layer]:
        return (Tag(classes, _ranked(predictions, row, classes)),)

    def true_layers(self, source: Source, index: int) -> Sequence[Layer]:
        label = source[index].get("label")
        return () if label is None else (Tag(source.classes, [(source.classes[label], None)]),)


def _check_sizes(data: ConfigDict) -> None:
    evaluated = "eval_size" if data.eval_size else "image_size"
    for size in {evaluated, "image_size"} if data.train_crop == "center" else {evaluated}:
        if data[size] > data.resize_size:
            raise UserError(
                f"config.data.{size} is {data[size]}, larger than config.data.resize_size={data.resize_size}, "
                "from whose middle it is cut; enlarge resize_size"
            )


def _ranked(predictions: Predictions, row: int, classes: Sequence[str]) -> list[tuple[str, float]]:
    """The named classes of an image with their confidences, best first."""
    ranked = [(predictions["class"][row], predictions["confidence"][row])]
    if "others" in predictions:
        ranked += zip(predictions["others"][row], predictions["others_confidence"][row], strict=True)
    return [(classes[number], float(score)) for number, score in ranked]


def combine(logits: Float[Array, "v b k"]) -> Float[Array, "b k"]:
    """The logarithm of the mean of the views' softmax probabilities (Krizhevsky et al. 2012, section 4.1)."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jax.nn.logsumexp(log_p, axis=0) - jnp.log(len(logits))


def _each(logits: Array, label: Array, config: ConfigDict) -> tuple[Float[Array, "b"], Float[Array, "b"] | None]:
    """The loss of each example, and its weight in the mean; None if all weigh the same."""
    weights = class_weights.of(config)
    if config.name == "cross_entropy":
        share = weights[label] if weights is not None and label.ndim == 1 else None
        return cross_entropy(logits, label, config.label_smoothing, weights), share
    target = smooth(label, logits.shape[-1], config.label_smoothing)
    if config.name == "focal":
        return jnp.sum(sigmoid_focal(logits, target, config.focal_alpha, config.focal_gamma), axis=-1), None
    if config.bce_threshold > 0:
        target = (target > config.bce_threshold).astype(jnp.float32)
    return jnp.mean(binary_cross_entropy(logits, target, 1.0 if weights is None else weights), axis=-1), None


def _scores(predictions: Predictions, classes: int) -> Int[np.ndarray, "2 k thresholds"] | int:
    """How many examples, and how many of the class, have each probability of each class; 0 if that is not predicted."""
    if "probabilities" not in predictions:
        return 0
    # Exact: the product of a float32 and 1000 fits a float64.
    cells = np.floor(predictions["probabilities"].astype(np.float64) * (PROBABILITIES - 1)).astype(np.int64)
    cells = np.clip(cells, 0, PROBABILITIES - 1) + PROBABILITIES * np.arange(classes)
    own = cells[np.arange(len(cells)), predictions["label"]]
    counts = [np.bincount(each.ravel(), minlength=classes * PROBABILITIES) for each in (cells, own)]
    return np.stack(counts).reshape(2, classes, PROBABILITIES)


def _decisions(scores: Int[np.ndarray, "2 k thresholds"]) -> list[curves.Decisions]:
    every, own = np.cumsum(scores[..., ::-1], axis=-1)
    falling = np.linspace(1, 0, PROBABILITIES)
    rows = zip(own, every, strict=True)
    return [curves.Decisions(falling, right, accepted, int(right[-1])) for right, accepted in rows]


def _confusion(pairs: Int[np.ndarray, "n"], classes: int) -> list[list[int]]:
    if classes <= WHOLE_MATRIX:
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist()
    cells, counts = np.unique(pairs, return_counts=True)
    return np.stack([*np.divmod(cells, classes), counts], axis=-1).tolist()
