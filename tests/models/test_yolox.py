"""The authors' YOLOX and ours, with the same weights: goldens/make_yolox.py wrote what torch computes."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens.drawn import BOXES, drawn_yolox, random_image, sample, yolox_outputs
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.models import cost, yolox
from morphism.models.detection import trainable
from morphism.models.layers import BatchNorm
from morphism.models.yolox_backbones import BaseConv
from morphism.ops.simota import simota
from morphism.runtime.mesh import AXIS
from morphism.weights.convert import from_torch, to_torch, torch_shapes

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "yolox.npz")
HEADS = sorted({tuple(key.split("/")[1:3]) for key in GOLDENS if key.startswith("heads/")})
CANVAS = (96, 128)


def make(name, classes, **options):
    fields = {"name": name, "dtype": "float32", "remat": False, "sync_bn": False, "frozen_bn": False}
    return models.create(ConfigDict(fields | {"options": options}), classes, AXIS)


def shapes(model, size):
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))


def drawn_variables(model, size):
    like = shapes(model, size)
    return from_torch({name: drawn_yolox(name, shape) for name, shape in torch_shapes(like).items()}, like)


def padded(boxes_and_classes, slots=12):
    """Targets of a batch: besides the objects crowds, boxes without area and unused slots; and a row of padding."""
    rows = []
    for boxes, classes in [*boxes_and_classes, BOXES[1]]:
        odd = [[0, 0, 60, 60], [10, 10, 10, 50]]
        unused = slots - len(boxes) - len(odd)
        rows.append(
            {
                "boxes": np.array([*odd, *boxes, *[[0, 0, 0, 0]] * unused], np.float32),
                "classes": np.array([1, 1, *classes, *[-1] * unused], np.int32),
                "crowd": np.arange(slots) == 0,
                "valid": len(rows) < len(boxes_and_classes),
                "closed": True,
            }
        )
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def drawn_outputs():
    """With a row of padding, and what the model knows of its places."""
    made = yolox_outputs(len(BOXES), 252, 5)
    outputs = {
        key: np.concatenate([value, np.full((1, *value.shape[1:]), 3, np.float32)]) for key, value in made.items()
    }
    corners, strides = yolox.cells(*CANVAS)
    return outputs, {"corners": corners, "strides": strides}


@pytest.mark.parametrize(
    ("name", "size", "classes", "parameters", "giga"),
    [
        ("yolox_nano", 416, 80, 912_159, 0.523),  # README: 0.91 M, 1.08 GFLOPs, which count other layers too, twice
        ("yolox_tiny", 416, 80, 5_055_855, None),  # 5.06, 6.45
        ("yolox_s", 640, 80, 8_968_255, 13.343),  # 9.0, 26.8
        ("yolox_s", 640, 1, 8_937_682, None),
        ("yolox_m", 640, 80, 25_326_495, None),  # 25.3, 73.8
        ("yolox_l", 640, 80, 54_208_895, None),  # 54.2, 155.6
        ("yolox_x", 640, 80, 99_071_455, None),  # 99.1, 281.9
        ("yolox_darknet53", 640, 80, 63_724_767, 92.340),  # 63.7, 185.3
    ],
)
def test_parameters_and_multiply_accumulates(name, size, classes, parameters, giga):
    model = make(name, classes)
    variables = shapes(model, size)
    assert cost.parameters(variables["params"]) == parameters
    if giga:
        assert round(cost.multiply_accumulates(model, variables, (size, size, 3)) / 1e9, 3) == giga
    if classes == 80 and f"parameters/{name}" in GOLDENS:
        assert parameters == GOLDENS[f"parameters/{name}"]


@pytest.mark.parametrize(("name", "canvas"), HEADS)
def test_head_outputs_and_decoded_boxes_are_the_authors(name, canvas):
    height, width = map(int, canvas.split("x"))
    model = make(name, 20)
    outputs = jax.jit(partial(model.apply, train=False))(
        drawn_variables(model, (height, width)), random_image(height, width)
    )
    raw = np.concatenate(
        [
            outputs["bbox_regression"],
            jax.nn.sigmoid(outputs["objectness"])[..., None],
            jax.nn.sigmoid(outputs["cls_logits"]),
        ],
        axis=-1,
    )
    key = f"heads/{name}/{canvas}"
    assert raw.shape == tuple(GOLDENS[f"{key}/shape"])
    expected = GOLDENS[f"{key}/outputs"]
    assert np.abs(sample(raw, 2000) - expected).max() <= 2e-5 * np.abs(expected).max()
    boxes = yolox.decode(outputs["bbox_regression"], outputs["corners"], outputs["strides"])
    boxes = np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)
    np.testing.assert_allclose(sample(boxes, 1000), GOLDENS[f"{key}/boxes"], rtol=2e-4, atol=2e-3)


def test_simota_assigns_what_the_authors_assigns():
    outputs, known = jax.tree.map(jnp.asarray, drawn_outputs())
    targets = jax.tree.map(jnp.asarray, padded(BOXES))
    used, assign = trainable(targets), jax.jit(simota)
    for index in (1, 2):
        predicted = yolox.decode(outputs["bbox_regression"][index], known["corners"], known["strides"])
        centers = (known["corners"] + 0.5) * known["strides"][:, None]
        each = (outputs["cls_logits"][index], outputs["objectness"][index], predicted, centers, known["strides"])
        matches, overlap = assign(*each, targets["boxes"][index], targets["classes"][index], used[index])
        expected = GOLDENS[f"assigned/{index}/matches"]
        np.testing.assert_array_equal(np.where(matches >= 0, matches - 2, -1), expected)  # two odd slots come before
        np.testing.assert_allclose(np.asarray(overlap)[expected >= 0], GOLDENS[f"assigned/{index}/iou"], rtol=1e-4)
        assert not np.any(np.asarray(overlap)[expected < 0])


def test_every_term_of_the_loss_and_its_gradient_are_the_authors():
    """Of a batch with an empty image; crowds, boxes without area and a row of padding, which torch has not, add 0."""
    model = make("yolox_s", 5)
    outputs, known = drawn_outputs()

    def total(outputs):
        losses = model.loss(outputs | jax.tree.map(jnp.asarray, known), padded(BOXES))
        return sum(losses.values()), losses

    gradients, losses = jax.jit(jax.grad(total, has_aux=True))(outputs)
    assert losses.keys() == {"box", "objectness", "classification", "l1"}
    for key, value in losses.items():
        np.testing.assert_allclose(value, GOLDENS[f"loss/{key}"], rtol=1e-5)
    for key, gradient in gradients.items():
        assert not np.any(gradient[-1])
        np.testing.assert_allclose(gradient[:-1], GOLDENS[f"loss/gradient/{key}"], rtol=1e-3, atol=1e-6)


def test_l1_is_of_closed_images_alone():
    model = make("yolox_s", 5)
    outputs, known = drawn_outputs()
    targets = padded(BOXES)
    loss = jax.jit(model.loss)
    of = {
        closed: loss(outputs | known, targets | {"closed": np.array(closed)})
        for closed in [(True,) * 4, (False,) * 4, (False, True, False, False), (False, False, True, False)]
    }
    whole, none, one, other = (float(terms["l1"]) for terms in of.values())
    assert none == 0 < one < whole and one + other == pytest.approx(whole)
    assert len({float(terms["box"]) for terms in of.values()}) == 1


def test_infinite_sides_and_an_empty_batch_have_a_finite_gradient():
    model = make("yolox_s", 5)
    outputs, known = drawn_outputs()
    outputs["bbox_regression"] = outputs["bbox_regression"].copy()
    outputs["bbox_regression"][:, ::3, 2:] = 1e4
    known = jax.tree.map(jnp.asarray, known)
    gradient = jax.jit(jax.grad(lambda outputs, targets: sum(model.loss(outputs | known, targets).values())))
    for targets in (padded(BOXES), padded([([], [])] * 3)):
        assert all(np.isfinite(each).all() for each in gradient(outputs, targets).values())


def test_detections_are_the_best_of_each_class_within_the_image():
    """Against a plain loop: the likeliest class of each place, its score, and no two of a class that overlap."""
    model = make("yolox_s", 5, score_threshold=0.3, detections=20)
    outputs, known = drawn_outputs()
    sizes = np.array([[96, 128], [96, 128], [80, 101], [64, 128]])
    found = jax.tree.map(np.asarray, jax.jit(model.detect)(outputs | known, sizes))
    sigmoid = lambda x: 1 / (1 + np.exp(-x.astype(np.float64)))  # noqa: E731
    for index in range(4):
        regression = outputs["bbox_regression"][index].astype(np.float64)
        center = (regression[:, :2] + known["corners"]) * known["strides"][:, None]
        half = np.exp(regression[:, 2:]) * known["strides"][:, None] / 2
        boxes = np.concatenate([center - half, center + half], axis=1)
        best = np.argmax(outputs["cls_logits"][index], axis=1)
        scores = sigmoid(outputs["objectness"][index]) * sigmoid(np.max(outputs["cls_logits"][index], axis=1))
        kept = []
        for place in np.argsort(-scores, kind="stable"):
            if scores[place] > 0.3 and all(
                best[place] != best[other] or overlap(boxes[place], boxes[other]) <= 0.65 for other in kept
            ):
                kept.append(place)
        kept = kept[:20]
        assert found["valid"][index].sum() == len(kept)
        limit = np.tile(sizes[index][::-1], 2)
        np.testing.assert_array_equal(found["classes"][index, : len(kept)], best[kept])
        np.testing.assert_allclose(found["scores"][index, : len(kept)], scores[kept], rtol=1e-5)
        np.testing.assert_allclose(
            found["boxes"][index, : len(kept)], np.clip(boxes[kept], 0, limit), rtol=1e-4, atol=1e-4
        )


def overlap(a, b):
    inner = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return inner / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner)


def test_a_training_step_is_the_authors():
    """Losses, gradients and running statistics of a batch of two."""
    model = make("yolox_s", 5, width=0.125)
    variables = drawn_variables(model, CANVAS)
    targets = {key: value[:2] for key, value in padded(BOXES[1:]).items()}

    def total(params):
        outputs, updates = model.apply(
            {**variables, "params": params}, random_image(*CANVAS, 2), train=True, mutable=["batch_stats"]
        )
        losses = model.loss(outputs, targets)
        return sum(losses.values()), (losses, updates["batch_stats"])

    gradients, (losses, statistics) = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    for key, value in losses.items():
        np.testing.assert_allclose(value, GOLDENS[f"step/{key}"], rtol=1e-4)
    gradients = to_torch({"": gradients})
    assert {f"step/gradient/{key}" for key in gradients} == {k for k in GOLDENS if k.startswith("step/gradient/")}
    for key, value in gradients.items():
        expected = GOLDENS[f"step/gradient/{key}"]
        assert np.abs(sample(value, 16) - expected).max() <= 2e-3 * np.abs(expected).max() + 1e-6, key
    statistics = to_torch({"": statistics})
    for key in ("backbone.backbone.dark2.0.bn", "head.reg_convs.2.1.bn"):
        for name in ("running_mean", "running_var"):
            np.testing.assert_allclose(statistics[f"{key}.{name}"], GOLDENS[f"step/{key}.{name}"], rtol=1e-4, atol=1e-5)


def test_sides_that_are_no_multiple_of_32_are_refused():
    with pytest.raises(UserError, match="images of 96x100: YOLOX needs sides that are multiples of 32"):
        shapes(make("yolox_nano", 5), (96, 100))


def test_training_begins_with_the_prior_for_objects_and_classes():
    block = partial(BaseConv, norm=partial(BatchNorm), dtype=jnp.float32)
    head = yolox.Head(num_classes=3, channels=8, block=block, wide=block, dtype=jnp.float32)
    params = jax.jit(partial(head.init, train=False))(jax.random.key(0), [jnp.zeros((1, 2, 2, 8))])["params"]
    for name in ("cls_preds.0", "obj_preds.0"):
        np.testing.assert_allclose(jax.nn.sigmoid(params[name]["bias"]), 0.01, rtol=1e-5)
    assert np.any(params["reg_preds.0"]["bias"])
