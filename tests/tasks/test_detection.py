import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism import tasks
from morphism.data.sources.scenes import load
from morphism.experiments.base import get_base
from morphism.models.detection import Detector
from morphism.tasks import coco
from morphism.tasks.detection import shown

detection = tasks.get("detection")


class Finds(Detector):
    """A detector that finds what its outputs say, within the image."""

    def detect(self, outputs, sizes):
        return outputs


def perfect(source, ids, scale):
    """The annotations of scenes as a detector would find them in a canvas that shows them `scale` times as large."""
    slots = 8
    found = {
        "boxes": np.zeros((len(ids), slots, 4), np.float32),
        "scores": np.zeros((len(ids), slots), np.float32),
        "classes": np.full((len(ids), slots), -1, np.int32),
    }
    for row, index in enumerate(ids):
        truth = source.annotations(int(index))
        found["boxes"][row, : len(truth)] = truth.boxes * np.tile(scale[::-1], 2)
        found["scores"][row, : len(truth)] = 0.9
        found["classes"][row, : len(truth)] = truth.classes
    return found | {"valid": found["classes"] >= 0}


@pytest.mark.parametrize("scale", [(1.0, 1.0), (2.0, 0.5)])
def test_a_detector_that_finds_everything_has_an_average_precision_of_1(scale):
    source = load("40x64", "train", "")
    metrics = detection.init_metrics(source)
    for ids in np.arange(40).reshape(8, 5):
        size = np.tile(np.int32([64 * scale[0], 64 * scale[1]]), (5, 1))
        batch = {"id": ids, "size": size, "original_size": np.full((5, 2), 64, np.int32)}
        predictions = detection.predict(Finds(), *jax.tree.map(jnp.asarray, (perfect(source, ids, scale), batch)))
        metrics = detection.update_metrics(metrics, {key: np.asarray(value) for key, value in predictions.items()})
    summary = detection.summarise(metrics)
    assert summary["examples"] == 40
    for name in ("ap", "ap50", "ap75", "voc10_ap50", "voc07_ap50"):
        assert summary[name] == pytest.approx(1.0)
    assert set(summary["per_class"]) == set(source.classes)


def test_what_is_not_there_to_find_has_no_line_in_the_table():
    names = (*coco.NAMES, "voc10_ap50", "voc07_ap50")
    summary = dict.fromkeys(names, 0.5) | {"ap_large": -1.0, "per_class": {"cat": 0.0, "objects": -1.0}}
    rows = detection.table(summary)
    assert set(rows) == {*names, "ap, cat"} - {"ap_large"} and min(rows.values()) == 0
    nothing = detection.table(dict.fromkeys(names, -1.0) | {"per_class": {"cat": -1.0}})
    assert nothing == {"ap": -1}


def test_the_canvas_around_an_image_is_zero_after_normalising():
    config = get_base("detection").augment
    batch = {"image": np.full((2, 6, 8, 3), 200, np.uint8), "size": np.array([[4, 8], [6, 5]], np.int32)}
    images = np.asarray(detection.normalise(jax.tree.map(jnp.asarray, batch), config))
    assert not images[0, 4:].any() and not images[1, :, 5:].any()
    expected = (200 / 255 - np.array(config.mean)) / np.array(config.std)
    np.testing.assert_allclose(images[0, :4], np.broadcast_to(expected, (4, 8, 3)), rtol=1e-5)


def test_the_canvas_around_an_image_may_be_grey():
    config = get_base("detection").augment
    config.update(fill=114, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    batch = {"image": np.full((2, 6, 8, 3), 200, np.uint8), "size": np.array([[4, 8], [6, 5]], np.int32)}
    images = np.asarray(detection.normalise(jax.tree.map(jnp.asarray, batch), config))
    np.testing.assert_allclose(images[0, 4:], 114, rtol=1e-6)
    np.testing.assert_allclose(images[1, :, 5:], 114, rtol=1e-6)
    np.testing.assert_allclose(images[0, :4], 200, rtol=1e-6)


def test_colours_change_and_the_ground_around_an_image_does_not():
    config = detection.resolve(get_base("detection"), load("16x32", "train", "")).augment
    config.update(photometric=True, zoom_out=0.5, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    image = np.full((16, 8, 8, 3), (123, 117, 104), np.uint8)
    image[:, 2:6, 1:7] = np.random.default_rng(0).integers(0, 256, (16, 4, 6, 3))
    batch = {
        **{"image": image, "id": np.arange(16, dtype=np.int32), "draw": np.zeros(16, np.int32)},
        **{"size": np.full((16, 2), 8, np.int32), "image_box": np.tile(np.float32([1, 2, 7, 6]), (16, 1))},
    }
    found = np.asarray(detection.augment(jax.random.key(0), jax.tree.map(jnp.asarray, batch), config, 2)["image"])
    ground = np.ones((8, 8), bool)
    ground[2:6, 1:7] = False
    np.testing.assert_allclose(found[:, ground], np.broadcast_to([123, 117, 104], (16, 40, 3)), rtol=1e-5)
    assert (np.abs(found - image).max(axis=(1, 2, 3)) > 1).sum() > 12


def test_mosaics_are_of_four_rows():
    config = get_base("detection").augment
    assert detection.mixed(config) == 1
    config.mosaic = 0.5
    assert detection.mixed(config) == 4


def test_all_detections_are_described_best_first_and_those_above_the_threshold_shown():
    predictions = {
        "boxes": np.float32([[[5, 6, 7, 8.26], [1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 1, 1]]]),
        "scores": np.float32([[0.25, 0.9, 0.0, 0.2]]),
        "classes": np.int32([[0, 1, -1, 0]]),
    }
    (found,) = detection.describe(predictions, 0, ("cat", "dog")).values()
    assert found == [
        {"class": "dog", "score": 0.9, "box": [1, 2, 3, 4]},
        {"class": "cat", "score": 0.25, "box": [5, 6, 7, 8.3]},
        {"class": "cat", "score": 0.2, "box": [0, 0, 1, 1]},
    ]
    assert shown(found, 0.25, 50) == found[:2]
    assert shown(found, 0.0, 1) == found[:1]
