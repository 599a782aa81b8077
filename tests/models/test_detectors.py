"""torchvision's detectors and ours, with the same weights: goldens/make_detectors.py wrote what torch computes."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens.drawn import BOXES, SIZES, SUPPRESSION, detector_outputs, drawn, random_image, sample
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.models import cost
from morphism.models.layers import BatchNorm
from morphism.models.summary import layers
from morphism.runtime.mesh import AXIS
from morphism.weights.convert import from_torch, to_torch, torch_shapes

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "detectors.npz")
HEADS = sorted({tuple(key.split("/")[1:3]) for key in GOLDENS if key.startswith("heads/")})
DRAWN = {
    "ssd300_vgg16": (268, 268),
    "retinanet_resnet50_fpn": (128, 160),
    "retinanet_resnet50_fpn_v2": (128, 160),
}
OPTIONS = {  # torchvision's name -> ours
    "score_thresh": "score_threshold",
    "nms_thresh": "nms_threshold",
    "detections_per_img": "detections",
    "topk_candidates": "topk_candidates",
}


def make(name, classes, frozen_bn=False, **options):
    fields = {"name": name, "dtype": "float32", "remat": False, "sync_bn": False, "frozen_bn": frozen_bn}
    return models.create(ConfigDict(fields | {"options": options}), classes, AXIS)


def shapes(model, size):
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))


def drawn_variables(model, size):
    like = shapes(model, size)
    return from_torch({name: drawn(name, shape) for name, shape in torch_shapes(like).items()}, like)


@cache
def anchors_of(name):
    """Those that the model makes on the canvas of its drawn outputs."""
    model = make(name, 5)

    def anchors():
        variables = models.init(model, jax.random.key(0), DRAWN[name])
        return model.apply(variables, jnp.zeros((1, *DRAWN[name], 3)), train=False)["anchors"]

    return jax.jit(anchors)()


def outputs_of(name, batch):
    anchors = anchors_of(name)
    count = sum(map(len, anchors)) if isinstance(anchors, tuple) else len(anchors)
    return detector_outputs(name, batch, count, 6)


def padded(boxes_and_classes, slots=12):
    """Targets of a batch: besides the objects crowds, boxes without area and unused slots; and a row of padding."""
    rows = []
    for boxes, classes in [*boxes_and_classes, BOXES[1]]:
        odd = [[0, 0, 60, 60], [10, 10, 10, 50]]
        unused = slots - len(boxes) - len(odd)
        rows.append(
            {
                "boxes": np.array([*boxes, *odd, *[[0, 0, 0, 0]] * unused], np.float32),
                "classes": np.array([*classes, 1, 1, *[-1] * unused], np.int32),
                "crowd": np.arange(slots) == len(boxes),
                "valid": len(rows) < len(boxes_and_classes),
            }
        )
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def assert_close(ours, torchs, tolerance):
    """`tolerance` is relative to the largest of torch's values."""
    assert np.shape(ours) == np.shape(torchs)
    assert np.abs(np.asarray(ours) - torchs).max() <= tolerance * np.abs(torchs).max()


@pytest.mark.parametrize(
    ("name", "frozen_bn", "size", "parameters", "giga"),
    [
        ("ssd300_vgg16", False, 300, 35_641_826, 34.858),
        ("retinanet_resnet50_fpn", True, 800, 34_014_999, 151.540),
        ("retinanet_resnet50_fpn_v2", False, 800, 38_198_935, 152.238),
    ],
)
def test_parameters_and_multiply_accumulates_are_torchvisions(name, frozen_bn, size, parameters, giga):
    model = make(name, 90, frozen_bn)
    variables = shapes(model, size)
    assert cost.parameters(variables["params"]) == parameters
    assert sum(layer.parameters for layer in layers(model, variables, (size, size, 3))) == parameters
    assert round(cost.multiply_accumulates(model, variables, (size, size, 3)) / 1e9, 3) == giga


@pytest.mark.parametrize(("name", "canvas"), HEADS)
def test_heads_outputs_and_anchors_are_torchvisions(name, canvas):
    size = tuple(map(int, canvas.split("x")))
    model = make(name, 20)
    outputs = jax.jit(partial(model.apply, train=False))(drawn_variables(model, size), random_image(*size))
    if isinstance(outputs["anchors"], tuple):
        outputs["anchors"] = np.concatenate(outputs["anchors"])
    for key, value in outputs.items():
        assert value.dtype == jnp.float32
        assert value.shape == tuple(GOLDENS[f"shape/{name}/{canvas}/{key}"])
        tolerance = 1e-6 if key == "anchors" else 2e-5
        assert_close(sample(value, 1000), GOLDENS[f"heads/{name}/{canvas}/{key}"], tolerance)


@pytest.mark.parametrize("name", DRAWN)
def test_losses_and_their_gradients_are_torchvisions(name):
    """Of a batch with an empty image; crowds, boxes without area and a row of padding, which torch has not, add 0."""
    model = make(name, 5)
    outputs, anchors = outputs_of(name, len(BOXES)), anchors_of(name)
    padding = {key: np.full((1, *value.shape[1:]), 3, np.float32) for key, value in outputs.items()}
    outputs = {key: np.concatenate([value, padding[key]]) for key, value in outputs.items()}

    def total(outputs):
        losses = model.loss(outputs | {"anchors": anchors}, padded(BOXES))
        return sum(losses.values()), losses

    gradients, losses = jax.jit(jax.grad(total, has_aux=True))(outputs)
    assert losses.keys() == {"classification", "bbox_regression"}
    for key, value in losses.items():
        np.testing.assert_allclose(value, GOLDENS[f"loss/{name}/{key}"], rtol=1e-5)
    for key, gradient in gradients.items():
        assert not np.any(gradient[-1])
        np.testing.assert_allclose(
            np.abs(gradient).sum(dtype=np.float64), GOLDENS[f"loss/{name}/gradient/{key}"], rtol=1e-5
        )
        strongest = np.ravel(gradient)[GOLDENS[f"loss/{name}/index/{key}"]]
        assert_close(strongest, GOLDENS[f"loss/{name}/strongest/{key}"], 1e-5)


@pytest.mark.parametrize("name", ["ssd300_vgg16", "retinanet_resnet50_fpn"])
def test_images_without_boxes_have_finite_losses_and_gradients(name):
    model = make(name, 5)
    outputs, anchors = outputs_of(name, 2), anchors_of(name)
    nothing = {key: value[:2] for key, value in padded([([], []), ([], [])]).items()}
    value, gradients = jax.jit(
        jax.value_and_grad(lambda outputs: sum(model.loss(outputs | {"anchors": anchors}, nothing).values()))
    )(outputs)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((value, gradients)))
    assert not np.any(gradients["bbox_regression"])
    assert bool(np.any(gradients["cls_logits"])) == (name != "ssd300_vgg16")  # SSD mines only where there are matches


@pytest.mark.parametrize("name", ["ssd300_vgg16", "retinanet_resnet50_fpn"])
@pytest.mark.parametrize("case", SUPPRESSION)
def test_detections_are_torchvisions(name, case):
    model = make(name, 5, **{OPTIONS[option]: value for option, value in SUPPRESSION[case].items()})
    found = jax.jit(model.detect)(outputs_of(name, len(BOXES)) | {"anchors": anchors_of(name)}, np.array(SIZES))
    for index in range(len(SIZES)):
        boxes, scores, labels = (
            GOLDENS[f"detect/{name}/{case}/{index}/{key}"] for key in ("boxes", "scores", "labels")
        )
        count = len(scores)
        assert found["scores"].shape[1] == model.post_process.detections
        assert found["valid"][index].tolist() == [True] * count + [False] * (model.post_process.detections - count)
        np.testing.assert_allclose(found["scores"][index, :count], scores, rtol=1e-5)
        np.testing.assert_array_equal(found["classes"][index, :count] + 1, labels)
        np.testing.assert_allclose(found["boxes"][index, :count], boxes, rtol=1e-5, atol=1e-3)
        assert not np.any(found["scores"][index, count:]) and np.all(found["classes"][index, count:] == -1)


def test_gradients_of_all_parameters_of_retinanet_are_torchs():
    """On ResNet-18, in float64 on both sides, but for targets and the focal loss: a ReLU beyond 0 would show."""
    with jax.enable_x64(True):
        model = make("retinanet_resnet50_fpn", 5, backbone="resnet18").clone(dtype=jnp.float64)
        model = model.clone(norm=partial(BatchNorm, frozen=True, dtype=jnp.float64))
        assert_step_is_torchs("retinanet_resnet18_fpn", model, (96, 128), jnp.float64, 1e-6)


def test_gradients_of_all_parameters_of_ssd_are_torchs():
    """In float32, where some of the millions of ReLUs fall on the other side of 0."""
    assert_step_is_torchs("ssd300_vgg16", make("ssd300_vgg16", 5), (268, 268), jnp.float32, 1e-2)


def assert_step_is_torchs(step, model, size, dtype, tolerance):
    variables = jax.tree.map(lambda x: x.astype(dtype), drawn_variables(model, size))
    targets = {key: value[:1] for key, value in padded(BOXES[2:]).items()}

    def total(params):
        outputs = model.apply(variables | {"params": params}, random_image(*size).astype(dtype), train=True)
        losses = model.loss(outputs, targets)
        return sum(losses.values()), losses

    gradients, losses = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    for key, value in losses.items():
        np.testing.assert_allclose(value, GOLDENS[f"step/{step}/{key}"], rtol=1e-5)
    gradients = to_torch({"": gradients})
    assert {f"step/{step}/gradient/{key}" for key in gradients} == {
        key for key in GOLDENS if key.startswith(f"step/{step}/gradient/")
    }
    for key, value in gradients.items():
        assert_close(sample(value, 32), GOLDENS[f"step/{step}/gradient/{key}"], tolerance)


def test_what_a_detector_cannot_take_is_named():
    with pytest.raises(UserError, match="images of 267x300 are too small for SSD300, which needs 268x268"):
        shapes(make("ssd300_vgg16", 5), (267, 300))
    with pytest.raises(UserError, match="config.model.options.backbone is 'resnet5'.*did you mean"):
        shapes(make("retinanet_resnet50_fpn", 5, backbone="resnet5"), 64)
    with pytest.raises(UserError, match="config.model.options.version is 3"):
        shapes(make("retinanet_resnet50_fpn", 5, version=3), 64)
