"""torchvision's Faster R-CNN and ours, with the same weights: goldens/make_faster_rcnn.py wrote what torch computes."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens.drawn import BOXES, CANVAS, SIZES, SMALL, drawn_calm, random_image, sample
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.models import cost
from morphism.models.faster_rcnn import FasterRCNN, image_keys
from morphism.models.layers import BatchNorm
from morphism.models.summary import layers
from morphism.ops import sampling
from morphism.runtime.mesh import AXIS
from morphism.weights.convert import from_torch, to_torch, torch_shapes

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "faster_rcnn.npz")
SAMPLES = {1: (100_000, 100_000), 2: (64, 32)}  # all of them; the first of each kind


def make(name, classes, frozen_bn=False, **options):
    fields = {"name": name, "dtype": "float32", "remat": False, "sync_bn": False, "frozen_bn": frozen_bn}
    return models.create(ConfigDict(fields | {"options": options}), classes, AXIS)


def shapes(model, size):
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))


def drawn_variables(model, size=CANVAS, dtype=np.float32):
    like = shapes(model, size)
    variables = from_torch({name: drawn_calm(name, shape) for name, shape in torch_shapes(like).items()}, like)
    return jax.tree.map(lambda x: x.astype(dtype), variables)


def small(version):
    """The goldens' detector on ResNet-18, which computes in float64."""
    rpn, (anchors, boxes) = SMALL["rpn"], SAMPLES[version]
    return FasterRCNN(
        num_classes=5,
        dtype=jnp.float64,
        norm=partial(BatchNorm, frozen=version == 1, dtype=jnp.float64),
        version=version,
        backbone="resnet18",
        head_width=SMALL["head_width"],
        train_candidates=rpn["pre_nms_top_n_train"],
        candidates=rpn["pre_nms_top_n_test"],
        train_proposals=rpn["post_nms_top_n_train"],
        proposals=rpn["post_nms_top_n_test"],
        anchor_samples=anchors,
        box_samples=boxes,
    )


def targets_of(slots=12, rows=BOXES):
    """Targets of a batch: besides the objects a crowd, a box without area and unused slots."""
    found = []
    for boxes, classes in rows:
        odd = [[0, 0, 60, 60], [10, 10, 10, 50]]
        unused = slots - len(boxes) - len(odd)
        found.append(
            {
                "boxes": np.array([*boxes, *odd, *[[0, 0, 0, 0]] * unused], np.float32),
                "classes": np.array([*classes, 1, 1, *[-1] * unused], np.int32),
                "crowd": np.arange(slots) == len(boxes),
            }
        )
    targets = {key: np.stack([row[key] for row in found]) for key in found[0]}
    count = len(rows)
    sizes = np.array([SIZES[index % len(SIZES)] for index in range(count)], np.int32)
    numbers = np.arange(count, dtype=np.int32)
    return targets | {"valid": np.ones(count, bool), "size": sizes, "id": numbers, "draw": 0 * numbers}


def assert_close(ours, torchs, tolerance):
    """`tolerance` is relative to the largest of torch's values."""
    assert np.shape(ours) == np.shape(torchs)
    assert np.abs(np.asarray(ours) - torchs).max() <= tolerance * np.abs(torchs).max()


@pytest.mark.parametrize(
    ("name", "frozen_bn", "parameters", "giga"),
    [
        ("fasterrcnn_resnet50_fpn", True, 41_755_286, 134.380),
        ("fasterrcnn_resnet50_fpn_v2", False, 43_712_278, 280.371),
    ],
)
def test_parameters_and_multiply_accumulates_are_torchvisions(name, frozen_bn, parameters, giga):
    model = make(name, 90, frozen_bn)
    variables = shapes(model, 800)
    found, total = layers(model, variables, (800, 800, 3)), cost.multiply_accumulates(model, variables, (800, 800, 3))
    assert cost.parameters(variables["params"]) == sum(layer.parameters for layer in found) == parameters
    assert sum(layer.multiply_accumulates for layer in found) == total and round(total / 1e9, 3) == giga


def test_the_network_without_a_pyramid_has_the_originals_parts():
    """A ResNet-50 without its dense layer, batch norm frozen; 15 anchors on 1,024 channels; 2,048 features a box."""
    params = shapes(make("fasterrcnn_resnet50_c4", 80, True), 64)["params"]
    rpn = 1024 * 1024 * 9 + 1024 + 15 * 1025 + 60 * 1025
    assert cost.parameters(params) == 23_454_912 + rpn + 81 * 2049 + 81 * 4 * 2049
    assert cost.parameters(params["roi_heads.box_head"]) == 14_942_208


def test_rpns_outputs_of_the_published_network_are_torchvisions():
    """The second version's are looked at below, on ResNet-18."""
    name = "fasterrcnn_resnet50_fpn"
    model = make(name, 5)
    variables = drawn_variables(model, (96, 128))

    def outputs(variables, images):
        found = model.apply(variables, images, train=False)
        return {key: found[key] for key in ("objectness", "rpn_bbox_regression")}

    for key, value in jax.jit(outputs)(variables, random_image(96, 128)).items():
        assert value.dtype == jnp.float32
        assert_close(sample(value, 1000), GOLDENS[f"rpn/{name}/{key}"].ravel(), 2e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_proposals_heads_and_detections_are_torchvisions(version):
    with jax.enable_x64(True):
        model = small(version)

        @jax.jit
        def run(variables, images, sizes):
            outputs = model.apply(variables, images, train=False, targets={"size": sizes})
            return outputs | model.detect(outputs, sizes)

        found = run(
            drawn_variables(model, dtype=np.float64), random_image(*CANVAS, 3).astype(np.float64), np.array(SIZES)
        )
    for index in range(len(SIZES)):
        golden = {
            key.rpartition("/")[2]: GOLDENS[key] for key in GOLDENS if key.startswith(f"detect/{version}/{index}/")
        }
        count = len(golden["proposals"])
        assert found["proposal_valid"][index].tolist() == [True] * count + [False] * (60 - count)
        for key in ("proposals", "proposal_scores", "class_logits", "box_regression"):
            assert_close(found[key][index, :count], golden[key].reshape(found[key][index, :count].shape), 1e-6)
        count = len(golden["scores"])
        assert found["valid"][index].tolist() == [True] * count + [False] * (100 - count)
        assert found["classes"][index, :count].tolist() == (golden["labels"] - 1).tolist()
        for key in ("boxes", "scores"):
            assert_close(found[key][index, :count], golden[key], 1e-6)
            assert not np.any(found[key][index, count:])


@cache
def stepped(version):
    """Losses, gradients and the new statistics of the goldens' batch, the first of each kind being drawn."""
    model = small(version)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradients(params, statistics, images, targets):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": statistics},
            images,
            train=True,
            targets=targets,
            mutable=["batch_stats"],
            rngs={"sampling": jax.random.key(0)},
        )
        losses = model.loss(outputs, targets)
        return sum(losses.values()), (losses, updates)

    return gradients


def in_order(key, count):
    return 1 - np.arange(count) / (2 * count)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("version", [1, 2])
def test_losses_and_gradients_of_all_parameters_are_torchvisions(version, monkeypatch):
    """In float64, of three images, one of them empty; crowds and boxes without area, which torch has not, add 0."""
    monkeypatch.setattr(sampling, "random_order", in_order)
    with jax.enable_x64(True):
        variables = drawn_variables(small(version), dtype=np.float64)
        images = random_image(*CANVAS, 3).astype(np.float64)
        gradients, (losses, _) = stepped(version)(
            variables["params"], variables["batch_stats"], images, targets_of(rows=BOXES)
        )
    names = {
        "objectness": "loss_objectness",
        "rpn_bbox_regression": "loss_rpn_box_reg",
        "classification": "loss_classifier",
        "bbox_regression": "loss_box_reg",
    }
    assert losses.keys() == names.keys()
    for key, value in losses.items():
        np.testing.assert_allclose(value, GOLDENS[f"step/{version}/{names[key]}"], rtol=1e-6)
    gradients = {key: value for key, value in to_torch({"": gradients}).items() if not key.endswith("tracked")}
    start = f"step/{version}/gradient/"
    assert gradients.keys() == {key.removeprefix(start) for key in GOLDENS if key.startswith(start)}
    for key, value in gradients.items():
        assert_close(sample(value, 32), GOLDENS[start + key], 2e-6)


TINY = {
    "backbone": "resnet18",
    "backbone_width": 4,
    "channels": 8,
    "head_width": 8,
    "anchor_size": 16,
    "train_candidates": 20,
    "candidates": 20,
    "train_proposals": 30,
    "proposals": 30,
    "anchor_samples": 16,
    "box_samples": 12,
    "detections": 10,
}


@cache
def tiny():
    model = make("fasterrcnn_resnet50_fpn", 5, frozen_bn=True, **TINY)
    return model, drawn_variables(model, (64, 64))


def batch_of_four():
    targets = targets_of(rows=[*BOXES, BOXES[1]])
    return random_image(64, 64, 4), targets | {"size": np.array([[64, 64], [50, 64], [64, 40], [64, 64]], np.int32)}


@jax.jit
def compute_samples(variables, images, targets):
    model = make("fasterrcnn_resnet50_fpn", 5, frozen_bn=True, **TINY)
    outputs = model.apply(variables, images, train=True, targets=targets, rngs={"sampling": jax.random.key(7)})
    kept = {name: outputs[name] for name in ("anchor_samples", "box_samples", "proposals")}
    return kept | {"losses": model.loss(outputs, targets)}


def drawn_samples(images, targets):
    return compute_samples(tiny()[1], images, targets)


def test_an_images_samples_are_the_same_on_four_devices_and_in_another_batch(mesh_of):
    images, targets = batch_of_four()
    whole, variables = drawn_samples(images, targets), tiny()[1]

    def on_each(images, targets):
        found = compute_samples(variables, images, targets)
        return found | {"losses": jax.tree.map(lambda x: x[None], found["losses"])}

    mesh = mesh_of(4)
    spread = jax.jit(jax.shard_map(on_each, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS)))(images, targets)
    turned = drawn_samples(*jax.tree.map(lambda x: x[::-1].copy(), (images, targets)))
    for name in ("anchor_samples", "box_samples"):
        for key, value in whole[name].items():
            np.testing.assert_allclose(value, spread[name][key], rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(value, turned[name][key][::-1], rtol=1e-4, atol=1e-3)
        assert np.all(whole[name]["used"])  # so that the mean over devices is that over the batch
    for key, value in whole["losses"].items():
        assert float(value) == pytest.approx(float(np.mean(spread["losses"][key])), rel=1e-4)
    rows = np.asarray(whole["anchor_samples"]["number"])
    assert (rows[1] != rows[3]).any()  # two images alike, but for their ids


def test_another_draw_of_an_image_has_other_samples():
    targets = batch_of_four()[1]
    key = jax.random.key(0)
    first, second = (image_keys(key, targets | {"draw": np.full(4, draw)}) for draw in (0, 1))
    together = np.concatenate([jax.random.key_data(first), jax.random.key_data(second)])
    assert len(np.unique(together, axis=0)) == 8


def test_a_row_of_padding_crowds_and_boxes_without_area_change_nothing():
    images, targets = batch_of_four()
    kept = targets | {"valid": np.array([True, True, True, False])}
    losses = drawn_samples(images, kept)["losses"]
    assert all(value > 0 for value in losses.values())
    nonsense = {name: value.copy() for name, value in kept.items()}
    for row, (boxes, _) in enumerate([*BOXES, BOXES[1]]):
        nonsense["boxes"][row, len(boxes)] += 3  # the crowd
        nonsense["boxes"][row, len(boxes) + 1] = [5, 5, 40, 5]
        nonsense["classes"][row, len(boxes) : len(boxes) + 2] = 4
    nonsense["boxes"][3] += 7
    changed = images.copy()
    changed[3] *= -1
    for key, value in drawn_samples(changed, nonsense)["losses"].items():
        assert float(value) == pytest.approx(float(losses[key]), rel=1e-5)


def test_a_batch_without_boxes_or_without_images_has_finite_losses_and_gradients():
    model, variables = tiny()
    images, targets = batch_of_four()
    empty = targets | {"classes": np.full_like(targets["classes"], -1)}

    @jax.jit
    @jax.value_and_grad
    def total(params, targets):
        outputs = model.apply(
            variables | {"params": params}, images, train=True, targets=targets, rngs={"sampling": jax.random.key(0)}
        )
        return sum(model.loss(outputs, targets).values())

    value, gradients = total(variables["params"], empty)
    assert value > 0 and all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    value, gradients = total(variables["params"], targets | {"valid": np.zeros(4, bool)})
    assert value == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_proposals_and_detections_lie_within_each_image_not_its_canvas():
    model, variables = tiny()
    images, targets = batch_of_four()

    @jax.jit
    def run(sizes):
        outputs = model.apply(variables, images, train=False, targets={"size": sizes})
        return outputs["proposals"], model.detect(outputs, sizes)["boxes"]

    for boxes in run(targets["size"]):
        for row, (height, width) in enumerate(targets["size"]):
            assert np.all(boxes[row] >= 0) and np.all(boxes[row] <= np.array([width, height, width, height]))
            assert np.any(boxes[row])


def test_the_network_without_a_pyramid_learns_in_all_its_parts():
    """The RPN with 15 anchors a pixel; nothing of the backbone's last stage is left out of the gradient."""
    options = {name: value for name, value in TINY.items() if name not in ("channels", "head_width")}
    model = make("fasterrcnn_resnet50_c4", 5, frozen_bn=True, **options)
    images, targets = jax.tree.map(lambda x: x[1:2], batch_of_four())
    variables = drawn_variables(model, (64, 64))

    @jax.jit
    @jax.grad
    def gradients(params):
        given = {"targets": targets, "rngs": {"sampling": jax.random.key(0)}}
        outputs = model.apply(variables | {"params": params}, images, train=True, **given)
        return sum(model.loss(outputs, targets).values())

    for leaf in jax.tree.leaves(gradients(variables["params"])):
        assert np.all(np.isfinite(leaf)) and np.any(leaf)

    def detect(variables, images, sizes):
        outputs = model.apply(variables, images, train=False)
        return outputs["objectness"], model.detect(outputs, sizes)

    objectness, found = jax.eval_shape(detect, variables, images, targets["size"])
    assert objectness.shape == (1, 4 * 4 * 15)
    assert found["boxes"].shape == (1, 10, 4)


def test_only_two_stages_are_given_the_targets():
    batch = {name: np.zeros(1) for name in ("image", "size", "boxes")}
    assert models.inputs(make("fasterrcnn_resnet50_fpn", 5), batch)["targets"].keys() == {"size", "boxes"}
    assert models.inputs(make("retinanet_resnet50_fpn", 5), batch) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet5"}, "config.model.options.backbone is 'resnet5'.*did you mean"),
        ({"neck": "c5"}, "config.model.options.neck is 'c5', which is none of c4, fpn"),
        ({"version": 3}, "config.model.options.version is 3"),
        ({"version": 2, "neck": "c4"}, "options.version: 2 is torchvision's second version.*set neck to 'fpn'"),
        ({"box_samples": 0}, "config.model.options.box_samples is 0; it must be at least 1"),
        ({"sampling_ratio": -1}, "config.model.options.sampling_ratio is -1"),
    ],
)
def test_what_it_cannot_take_is_named(options, message):
    with pytest.raises(UserError, match=message):
        shapes(make("fasterrcnn_resnet50_fpn", 5, **options), 64)


def test_training_without_targets_is_refused():
    model, variables = tiny()
    with pytest.raises(ValueError, match="trained with targets"):
        model.apply(variables, np.zeros((1, 64, 64, 3), np.float32), train=True)
