"""YOLOv3 against its cfg's arithmetic, and its decoding and losses against cases worked by hand in float64."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.models import cost, yolov3
from morphism.runtime.mesh import AXIS
from morphism.weights.convert import torch_shapes
from morphism.weights.darknet import _arrays

CLASSES = 3


def make(classes=CLASSES, **options):
    fields = {"name": "yolov3_darknet53", "dtype": "float32", "remat": False, "sync_bn": False, "frozen_bn": False}
    return models.create(ConfigDict(fields | {"options": options}), classes, AXIS)


def shapes(model, size):
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def test_parameters_arrays_and_multiply_accumulates_are_the_cfgs():
    model = make(80)
    variables = shapes(model, 64)
    assert cost.parameters(variables["params"]) == 61_949_149
    assert sum(np.prod(s) for layer in yolov3.backbone() for _, s in _arrays(layer)) == 40_620_640  # with statistics
    for size, giga in ((320, 19.486), (608, 70.346)):
        assert round(cost.multiply_accumulates(model, variables, (size, size, 3)) / 1e9, 3) == giga
    listed = dict(each for layer in yolov3.convolutions(80) for each in _arrays(layer))
    assert torch_shapes(variables) == listed
    numbers = [layer.number for layer in yolov3.convolutions(80)]
    assert all(a < b for a, b in pairwise(numbers))
    assert [n.number for n in yolov3.convolutions(80) if not n.normalised] == [81, 93, 105]


def test_sides_that_are_no_multiple_of_32_are_refused():
    with pytest.raises(UserError, match="images of 64x72: YOLOv3 needs sides that are multiples of 32"):
        shapes(make(), (64, 72))


def at(height, width, stride, row, column, anchor):
    """The number of a place, counted."""
    before = sum(3 * (height // s) * (width // s) for s in (8, 16, 32) if s < stride)
    return before + 3 * (row * (width // stride) + column) + anchor


def test_a_place_is_a_cell_and_an_anchor_and_decodes_by_the_papers_equations():
    corners, strides, anchors = yolov3.anchors_of(64, 96)
    assert len(corners) == 3 * (8 * 12 + 4 * 6 + 2 * 3)
    place = at(64, 96, 16, 2, 5, 1)
    assert (corners[place].tolist(), strides[place], anchors[place].tolist()) == ([5, 2], 16, [62, 45])
    regression = np.zeros((len(corners), 4), np.float32)
    regression[place] = [0.3, -1.2, 0.5, -0.25]
    box = np.asarray(yolov3.decode(*map(jnp.asarray, (regression, corners, strides, anchors))))[place]
    x, y = 16 * (5 + sigmoid(0.3)), 16 * (2 + sigmoid(-1.2))
    w, h = 62 * np.exp(0.5), 45 * np.exp(-0.25)
    np.testing.assert_allclose(box, [x - w / 2, y - h / 2, x + w / 2, y + h / 2], rtol=1e-5)


def boxed(x, y, w, h):
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def test_an_object_is_trained_where_its_center_lies_by_the_anchor_of_its_shape():
    boxes = np.array([boxed(50, 33, 60, 50), boxed(95.9, 63.9, 12, 11), boxed(10, 10, 300, 400), boxed(96, 64, 30, 30)])
    expected = [
        *(at(64, 96, 16, 2, 3, 1), at(64, 96, 8, 7, 11, 0), at(64, 96, 32, 0, 0, 2)),
        at(64, 96, 8, 7, 11, 2),  # on the edge: 33 x 23 has 690 / 969 in common, 16 x 30 only 480 / 900
    ]
    size = yolov3.extent(*map(jnp.asarray, yolov3.anchors_of(64, 96)[:2]))
    np.testing.assert_array_equal(size, (96, 64))
    np.testing.assert_array_equal(yolov3.anchor_of(jnp.asarray(boxes), size), expected)


def known():
    return dict(zip(("corners", "strides", "anchors"), map(jnp.asarray, yolov3.anchors_of(64, 96)), strict=True))


def case():
    """One object at a place, one of another class at the same, a crowd, an unused slot; and a row of padding."""
    first, second = boxed(50, 33, 60, 50), boxed(52, 35, 64, 44)
    boxes = np.array([first, second, boxed(20, 20, 16, 30), [0, 0, 0, 0]], np.float32)
    targets = {
        "boxes": np.stack([boxes, boxes]),
        "classes": np.tile(np.array([0, 2, 1, -1], np.int32), (2, 1)),
        "crowd": np.tile(np.array([False, False, True, False]), (2, 1)),
        "valid": np.array([True, False]),
    }
    rng = np.random.default_rng(0)
    predictions = rng.standard_normal((2, len(known()["corners"]), 5 + CLASSES)).astype(np.float32)
    predictions[..., 2:4] -= 4  # small boxes, which overlap nothing
    place, other = at(64, 96, 16, 2, 3, 1), at(64, 96, 16, 2, 3, 2)
    predictions[:, other, :4] = [0.1, 0.1, np.log(60 / 59), np.log(50 / 119)]  # one that overlaps, and is not assigned
    return targets, predictions, place, other


def test_losses_are_those_worked_by_hand():
    targets, predictions, place, other = case()
    losses = jax.jit(make().loss)(known() | {"predictions": predictions}, targets)
    p = predictions[0].astype(np.float64)

    def entropy(logit, target):
        return -(target * np.log(sigmoid(logit)) + (1 - target) * np.log(1 - sigmoid(logit)))

    weight = 2 - 64 * 44 / (96 * 64)  # the last object gives the box
    expected = {
        "center": weight * (entropy(p[place, 0], 52 / 16 - 3) + entropy(p[place, 1], 35 / 16 - 2)),
        "size": weight * 0.5 * ((p[place, 2] - np.log(64 / 62)) ** 2 + (p[place, 3] - np.log(44 / 45)) ** 2),
        "objectness": sum(entropy(row[4], float(i == place)) for i, row in enumerate(p) if i != other),
        "classification": sum(entropy(p[place, 5 + k], float(k in (0, 2))) for k in range(CLASSES)),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-5, err_msg=name)


def test_gradients_are_those_that_darknet_writes():
    """delta of src/yolo_layer.c: truth - prediction, times the box's weight; of the ignored, none."""
    targets, predictions, place, other = case()

    def total(predictions):
        return sum(make().loss(known() | {"predictions": predictions}, targets).values())

    gradient = np.asarray(jax.jit(jax.grad(total))(predictions))
    assert not gradient[1].any()
    p, weight = predictions[0].astype(np.float64), 2 - 64 * 44 / (96 * 64)
    target = [52 / 16 - 3, 35 / 16 - 2, np.log(64 / 62), np.log(44 / 45), 1, 1, 0, 1]
    made = [*sigmoid(p[place, :2]), *p[place, 2:4], *sigmoid(p[place, 4:])]
    weights = np.array([weight] * 4 + [1] * 4)
    np.testing.assert_allclose(-gradient[0, place], weights * (np.array(target) - made), rtol=1e-4, atol=1e-6)
    assert not gradient[0, other].any()
    elsewhere = np.delete(np.arange(len(p)), [place, other])
    np.testing.assert_allclose(gradient[0, elsewhere, 4], sigmoid(p[elsewhere, 4]), rtol=1e-4)
    assert not np.delete(gradient[0, elsewhere], 4, axis=1).any()


def test_a_place_detects_each_class_that_is_likely_enough():
    predictions = np.full((1, len(known()["corners"]), 5 + CLASSES), -9, np.float32)
    place, overlapping, weak = at(64, 96, 16, 2, 3, 1), at(64, 96, 16, 2, 3, 0), at(64, 96, 8, 0, 0, 0)
    predictions[0, place] = [0, 0, 0, 0, 3, 2, 1, -9]
    predictions[0, overlapping] = [0, 0, np.log(62 / 30), np.log(45 / 61), 3, 1, -9, -9]  # the same box, less likely
    predictions[0, weak] = [0, 0, 0, 0, -2, 0, -9, -9]
    found = jax.jit(partial(make(detections=8, score_threshold=0.05).detect))(
        known() | {"predictions": predictions}, jnp.array([[64, 80]])
    )
    scores = [sigmoid(3) * sigmoid(2), sigmoid(3) * sigmoid(1), sigmoid(-2) * sigmoid(0)]
    assert found["valid"][0].sum() == 3
    np.testing.assert_allclose(found["scores"][0, :3], scores, rtol=1e-5)
    np.testing.assert_array_equal(found["classes"][0, :4], [0, 1, 0, -1])
    box = np.clip(boxed(56, 40, 62, 45), 0, [80, 64, 80, 64])
    np.testing.assert_allclose(found["boxes"][0, :2], [box, box], rtol=1e-5)


def test_outputs_of_a_small_image_are_finite_and_float32():
    model = make()
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.01), shapes(model, 32))
    outputs = jax.jit(partial(model.apply, train=False))(variables, jnp.ones((1, 32, 64, 3)))
    assert outputs["predictions"].shape == (1, 3 * (4 * 8 + 2 * 4 + 2), 8)
    assert outputs["predictions"].dtype == jnp.float32 and np.isfinite(outputs["predictions"]).all()
