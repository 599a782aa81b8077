"""One class a picture: cross-entropy to train; top-1, top-5, confusion matrix and calibration error to evaluate."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from ops.losses import cross_entropy

HEADLINE = ("top1", "top5", "loss", "calibration_error")
HIGHER_IS_BETTER = ("top1", "top5")
MIN_CLASSES = 2
CALIBRATION_BINS = 15  # Guo et al. 2017, section 4

Batch = dict[str, Array]
Metrics = dict[str, Any]


def loss(logits: Float[Array, "b k"], batch: Batch, config: ConfigDict) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy over the valid examples; top-1 against the label, or a mixed label's heaviest class."""
    label, valid = batch["label"], batch["valid"]
    count = jnp.maximum(jnp.sum(valid), 1)
    each = cross_entropy(logits, label, config.loss.label_smoothing)
    target = label if label.ndim == 1 else jnp.argmax(label, axis=-1)
    correct = (jnp.argmax(logits, axis=-1) == target) & valid
    return jnp.sum(jnp.where(valid, each, 0)) / count, {"top1": jnp.sum(correct) / count}


def predict(logits: Float[Array, "b k"], batch: Batch) -> dict[str, Array]:
    """Of each example: its class, the confidence in it, and how the true label fared.

    class int32 [B]; confidence float32 [B] in 0..1; rank int32 [B], the number of classes scored above the label,
    where a tie counts for the class of the lower number, as argmax has it; loss float32 [B], without label smoothing.
    """
    logits = logits.astype(jnp.float32)
    label = batch["label"]
    score = jnp.take_along_axis(logits, label[:, None], axis=-1)
    before = jnp.arange(logits.shape[-1]) < label[:, None]
    return {
        "class": jnp.argmax(logits, axis=-1).astype(jnp.int32),
        "confidence": jnp.max(jax.nn.softmax(logits), axis=-1),
        "rank": jnp.sum((logits > score) | ((logits == score) & before), axis=-1),
        "loss": cross_entropy(logits, label),
        "label": label,
        "id": batch["id"],
    }


def init_metrics(classes: Sequence[str]) -> Metrics:
    bins = np.zeros((CALIBRATION_BINS, 3))  # a bin of confidence: examples, of them correct, sum of confidences
    return {"loss": 0.0, "top5": 0, "confusion": np.zeros((len(classes),) * 2, np.int64), "bins": bins}


def update_metrics(metrics: Metrics, predictions: dict[str, np.ndarray]) -> Metrics:
    """Adds a batch of `predict`'s arrays, of valid examples only."""
    confidence = predictions["confidence"].astype(np.float64)
    correct = predictions["rank"] == 0
    index = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    bins, confusion = metrics["bins"].copy(), metrics["confusion"].copy()
    np.add.at(bins, index, np.stack([np.ones_like(confidence), correct, confidence], axis=-1))
    np.add.at(confusion, (predictions["label"], predictions["class"]), 1)
    return {
        "loss": metrics["loss"] + float(np.sum(predictions["loss"], dtype=np.float64)),
        "top5": metrics["top5"] + int(np.sum(predictions["rank"] < 5)),
        "confusion": confusion,
        "bins": bins,
    }


def summarise(metrics: Metrics) -> dict[str, Any]:
    """Shares of the examples in 0..1. The confusion matrix's rows are true classes, its columns predicted ones.

    calibration_error is the expected calibration error: |accuracy - confidence| of each of 15 equal bins of
    confidence, weighted by its share of the examples (Guo et al. 2017, equation 5).
    """
    confusion, bins = metrics["confusion"], metrics["bins"]
    examples = int(confusion.sum())
    return {
        "top1": int(np.trace(confusion)) / examples,
        "top5": metrics["top5"] / examples,
        "loss": metrics["loss"] / examples,
        "calibration_error": float(np.abs(bins[:, 1] - bins[:, 2]).sum()) / examples,
        "examples": examples,
        "confusion": confusion.tolist(),
    }
