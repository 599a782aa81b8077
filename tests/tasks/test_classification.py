import jax.numpy as jnp
import numpy as np
import pytest

from experiments.base import get_base
from tasks import classification

LOGITS = jnp.array([[3.0, 1, 2, 0, -1, -2], [0, 5, 1, 2, 3, 4], [1, 1, 1, 1, 1, 1], [9, 0, 0, 0, 0, 0]])


def batch(labels, valid=(True,) * 4):
    return {"label": jnp.array(labels), "valid": jnp.array(valid), "id": jnp.arange(len(labels))}


def test_loss_ignores_rows_that_are_not_valid():
    config = get_base()
    whole, scalars = classification.loss(LOGITS[:2], batch([0, 0], (True, True)), config)
    padded, padded_scalars = classification.loss(LOGITS, batch([0, 0, 3, 3], (True, True, False, False)), config)
    assert padded == whole
    assert padded_scalars["top1"] == scalars["top1"] == 0.5


def test_rank_counts_classes_above_the_label_and_breaks_ties_as_argmax():
    found = classification.predict(LOGITS, batch([2, 0, 4, 0]))
    assert found["rank"].tolist() == [1, 5, 4, 0]
    assert found["class"].tolist() == [0, 1, 0, 0]
    assert np.all((np.asarray(found["rank"]) == 0) == (found["class"] == found["label"]))


def test_metrics_equal_a_plain_computation():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 8)) * 2, rng.integers(0, 8, 200)
    metrics = classification.init_metrics(range(8))
    for rows in np.array_split(np.arange(200), 7):
        one = {"label": jnp.array(labels[rows]), "id": jnp.array(rows)}
        predictions = classification.predict(jnp.array(logits[rows], jnp.float32), one)
        metrics = classification.update_metrics(metrics, {k: np.asarray(v) for k, v in predictions.items()})
    found = classification.summarise(metrics)

    order = np.argsort(-logits, axis=1)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found["examples"] == 200
    assert found["top1"] == np.mean(order[:, 0] == labels)
    assert found["top5"] == np.mean([label in row[:5] for label, row in zip(labels, order, strict=True)])
    assert found["loss"] == pytest.approx(-np.log(p[np.arange(200), labels]).mean(), rel=1e-6)
    confusion = np.zeros((8, 8), int)
    for label, predicted in zip(labels, order[:, 0], strict=True):
        confusion[label, predicted] += 1
    assert found["confusion"] == confusion.tolist()
    error = 0
    for low in np.arange(15) / 15:
        rows = (p.max(1) > low) & (p.max(1) <= low + 1 / 15)
        if rows.any():
            error += rows.mean() * abs(np.mean(order[rows, 0] == labels[rows]) - p.max(1)[rows].mean())
    assert found["calibration_error"] == pytest.approx(error, rel=1e-5)


def test_certain_and_right_has_no_calibration_error():
    sure = {"confidence": np.ones(3), "rank": np.zeros(3, int), "label": np.arange(3), "class": np.arange(3)}
    metrics = classification.update_metrics(classification.init_metrics(range(3)), sure | {"loss": np.zeros(3)})
    assert classification.summarise(metrics)["calibration_error"] == 0
