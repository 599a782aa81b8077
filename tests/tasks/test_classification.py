import json
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism import tasks
from morphism.data import sources
from morphism.errors import UserError
from morphism.experiments.base import get_base
from morphism.tasks.classification import combine

classification = tasks.get("classification")
MODEL = nn.Dense(6)  # which a classification does not read
GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "losses.npz")
LOGITS = jnp.array([[3.0, 1, 2, 0, -1, -2], [0, 5, 1, 2, 3, 4], [1, 1, 1, 1, 1, 1], [9, 0, 0, 0, 0, 0]])


def batch(labels, valid=(True,) * 4):
    return {"label": jnp.array(labels), "valid": jnp.array(valid), "id": jnp.arange(len(labels))}


def test_loss_ignores_rows_that_are_not_valid():
    config = get_base()
    whole, scalars = classification.loss(MODEL, LOGITS[:2], batch([0, 0], (True, True)), config)
    padded, padded_scalars = classification.loss(MODEL, LOGITS, batch([0, 0, 3, 3], (True, True, False, False)), config)
    assert padded == whole
    assert padded_scalars["top1"] == scalars["top1"] == 0.5


def loss_of(label, valid=None, **fields):
    """The task's loss of the goldens' logits."""
    config = get_base()
    config.loss.update(fields)
    valid = jnp.ones(len(label), bool) if valid is None else valid
    return classification.loss(
        MODEL, jnp.array(GOLDENS["logits"], jnp.float32), {"label": label, "valid": valid}, config
    )[0]


WEIGHTS = tuple(GOLDENS["weights"].tolist())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighting", ["plain", "weighted"])
@pytest.mark.parametrize("kind", ["class", "soft"])
def test_mean_cross_entropy_is_torchs(kind, weighting, smoothing):
    label = jnp.array(GOLDENS["labels" if kind == "class" else "soft"])
    found = loss_of(label, label_smoothing=smoothing, class_weights=WEIGHTS if weighting == "weighted" else ())
    assert found == pytest.approx(float(GOLDENS[f"cross_entropy/{kind}/{smoothing}/{weighting}/mean"]), rel=1e-6)


def test_rows_that_are_not_valid_have_no_share_in_the_weighted_mean():
    labels, valid = GOLDENS["labels"], np.array([True, False, True, True, False, True])
    each, weights = GOLDENS["cross_entropy/class/0.0/weighted/none"], GOLDENS["weights"][labels]
    found = loss_of(jnp.array(labels), jnp.array(valid), class_weights=WEIGHTS)
    assert found == pytest.approx(each[valid].sum() / weights[valid].sum(), rel=1e-6)
    assert loss_of(jnp.array(labels), jnp.zeros(6, bool), class_weights=WEIGHTS) == 0


def test_bce_is_the_mean_over_classes_and_thresholded_labels_are_0_or_1():
    soft = GOLDENS["soft"]
    assert loss_of(jnp.array(soft), name="bce") == pytest.approx(GOLDENS["bce/soft/plain"].mean(), rel=1e-6)
    found = loss_of(jnp.array(soft), name="bce", class_weights=WEIGHTS)
    assert found == pytest.approx(GOLDENS["bce/soft/weighted"].mean(), rel=1e-6)
    hard, logits = (soft > 0.2).astype(float), GOLDENS["logits"]
    expected = np.mean(hard * np.log1p(np.exp(-logits)) + (1 - hard) * np.log1p(np.exp(logits)))
    assert loss_of(jnp.array(soft), name="bce", bce_threshold=0.2) == pytest.approx(expected, rel=1e-6)


def test_focal_loss_is_the_sum_over_classes():
    found = loss_of(jnp.array(GOLDENS["soft"]), name="focal", focal_alpha=0.75, focal_gamma=0.5)
    assert found == pytest.approx(GOLDENS["focal/soft/0.75/0.5"].sum(-1).mean(), rel=1e-6)


@dataclass
class Labelled:
    labels: np.ndarray
    classes: Sequence[str] = ("cat", "dog", "owl")
    targets = property(lambda self: {"label": self.classes})

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        raise NotImplementedError


def of_classes(count):
    return Labelled(np.zeros(0, int), list(map(str, range(count))))


def test_balanced_weights_are_inverse_to_how_many_examples_a_class_has():
    config = get_base()
    config.loss.class_weights = "balanced"
    resolved = classification.resolve(config, Labelled(np.array([0] * 6 + [1] * 3 + [2], np.int32)))
    odd = classification.resolve(config, Labelled(np.array([0] * 4 + [1] * 3 + [2, 3, -1], np.int32)))
    assert len(odd.loss.class_weights) == 3
    assert resolved.loss.class_weights == pytest.approx((10 / 18, 10 / 9, 10 / 3), rel=1e-12)
    assert config.loss.class_weights == "balanced"


def test_balanced_weights_are_of_what_is_trained_with_alone():
    config = get_base()
    config.data.val_fraction = 0.3
    config.loss.class_weights = "balanced"
    source = sources.load(config.data, "train")
    weights = classification.resolve(config, source).loss.class_weights
    examples = np.bincount([source[index]["label"] for index in range(len(source))])
    assert len(set(examples)) > 1
    assert weights == pytest.approx(len(source) / (10 * examples), rel=1e-12)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("balanced", "owl has no example in train"),
        ((1.0, 2.0), "config.loss.class_weights has 2 numbers, embedded 3 classes"),
    ],
)
def test_class_weights_that_do_not_fit_the_data_are_an_error(weights, message):
    config = get_base()
    config.loss.class_weights = weights
    with pytest.raises(UserError, match=message):
        classification.resolve(config, Labelled(np.array([0, 1, 1])))


def test_rank_counts_classes_above_the_label_and_breaks_ties_as_argmax():
    found = classification.predict(MODEL, LOGITS, batch([2, 0, 4, 0]))
    assert found["rank"].tolist() == [1, 5, 4, 0]
    assert found["class"].tolist() == [0, 1, 0, 0]
    assert np.all((np.asarray(found["rank"]) == 0) == (found["class"] == found["label"]))


def test_views_are_combined_as_the_mean_of_their_probabilities():
    views = np.stack([GOLDENS["logits"], GOLDENS["logits"][::-1] / 2, GOLDENS["logits"] + 40])
    p = np.exp(views) / np.exp(views).sum(-1, keepdims=True)
    combined = combine(jnp.array(views, jnp.float32))
    np.testing.assert_allclose(jax.nn.softmax(combined), p.mean(0), rtol=1e-5)


def test_metrics_equal_a_plain_computation():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 8)) * 2, rng.integers(0, 8, 200)
    metrics = classification.init_metrics(of_classes(8))
    for rows in np.array_split(np.arange(200), 7):
        one = {"label": jnp.array(labels[rows]), "id": jnp.array(rows)}
        predictions = classification.predict(MODEL, jnp.array(logits[rows], jnp.float32), one)
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


def test_many_classes_take_no_matrix_of_all_pairs():
    classes, rng = 20_000, np.random.default_rng(1)
    label = rng.integers(0, classes, 3000)
    found = np.where(np.arange(3000) % 3, label, label[::-1])
    one = {"confidence": np.ones(3000), "rank": (found != label).astype(int), "label": label, "class": found}
    tracemalloc.start()
    metrics = classification.init_metrics(of_classes(classes))
    for rows in np.array_split(np.arange(3000), 5):
        batch = {name: values[rows] for name, values in (one | {"loss": np.zeros(3000)}).items()}
        metrics = classification.update_metrics(metrics, batch)
    summary = classification.summarise(metrics)
    assert tracemalloc.get_traced_memory()[1] < 8e6  # the matrix would take 3.2e9
    tracemalloc.stop()
    assert summary["top1"] == np.mean(found == label)
    counts = Counter(zip(label.tolist(), found.tolist(), strict=True))
    assert {(true, predicted): count for true, predicted, count in summary["confusion"]} == counts
    assert len(json.dumps(summary, indent=2)) < 3e5


def test_certain_and_right_has_no_calibration_error():
    sure = {"confidence": np.ones(3), "rank": np.zeros(3, int), "label": np.arange(3), "class": np.arange(3)}
    metrics = classification.update_metrics(classification.init_metrics(of_classes(3)), sure | {"loss": np.zeros(3)})
    assert classification.summarise(metrics)["calibration_error"] == 0
