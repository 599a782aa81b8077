"""torchvision's Mask R-CNN and ours, with the same weights: goldens/make_mask_rcnn.py wrote what torch computes."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from goldens.drawn import (
    INSTANCE_CANVAS,
    INSTANCE_SIZES,
    INSTANCE_WIDTHS,
    INSTANCES,
    LEARNING_RATE,
    MOMENTUM,
    SEMANTIC,
    SMALL,
    drawn_calm,
    instance_maps,
    masks_of,
    sample,
    semantic_maps,
)

from morphism import frames, models
from morphism.errors import UserError
from morphism.labels import IGNORE
from morphism.models import cost
from morphism.models.layers import BatchNorm
from morphism.models.mask_rcnn import MaskRCNN
from morphism.models.roi_heads import FastRCNNPredictor
from morphism.models.semantic_fpn import SemanticFPNHead
from morphism.ops import sampling
from morphism.ops.mask_targets import project_masks
from morphism.weights.convert import from_torch, to_torch, torch_shapes

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "mask_rcnn.npz")
CELLS = 132  # per side of a mask: more than the canvas has pixels, so that masks are exact
SLOTS = 12
TERMS = {  # torchvision's names -> ours
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "rpn_bbox_regression",
    "loss_classifier": "classification",
    "loss_box_reg": "bbox_regression",
    "loss_mask": "mask",
}


def network(version):
    """The goldens' heads, which compute in float64."""
    rpn, samples = SMALL["rpn"], {1: (100_000, 64), 2: (64, 32)}[version]
    return MaskRCNN(
        num_classes=5,
        dtype=jnp.float64,
        norm=partial(BatchNorm, dtype=jnp.float64),
        version=version,
        head_width=INSTANCE_WIDTHS["boxes"],
        mask_width=INSTANCE_WIDTHS["masks"],
        train_candidates=rpn["pre_nms_top_n_train"],
        candidates=rpn["pre_nms_top_n_test"],
        train_proposals=rpn["post_nms_top_n_train"],
        proposals=rpn["post_nms_top_n_test"],
        anchor_samples=samples[0],
        box_samples=samples[1],
    )


IMAGES = np.zeros((len(INSTANCES), *INSTANCE_CANVAS, 3))  # whose size alone is read


def maps_of():
    return [jnp.asarray(x, jnp.float64) for x in instance_maps()]


def drawn_variables(model, *inputs, **named):
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False, **named))
    variables = from_torch({name: drawn_calm(name, shape) for name, shape in torch_shapes(like).items()}, like)
    return jax.tree.map(lambda x: x.astype(np.float64), variables)


def cells_of(masks, boxes, cells):
    """A batch's masks, uint8 [n, cells, cells], of maps: a cell has the value of the pixel that holds its middle."""
    corners, sides = frames.frame(np.asarray(boxes, np.float64).reshape(-1, 4), cells)
    found = np.zeros((len(masks), cells, cells), np.uint8)
    for out, mask, corner, side in zip(found, masks, corners, sides, strict=True):
        x, y = (np.floor(corner[axis] + (np.arange(cells) + 0.5) * side[axis]).astype(int) for axis in (0, 1))
        inside = np.ix_(y < mask.shape[0], x < mask.shape[1])
        out[inside] = mask[np.ix_(y[y < mask.shape[0]], x[x < mask.shape[1]])]
    return found


def targets_of(cells=CELLS):
    """Targets of the goldens' images: besides the objects a crowd, a box without area and unused slots."""
    rows = []
    for (boxes, classes), size in zip(INSTANCES, INSTANCE_SIZES, strict=True):
        odd = [[0, 0, 60, 60], [10, 10, 10, 50]]
        unused = SLOTS - len(boxes) - len(odd)
        masks = np.concatenate([cells_of(masks_of(boxes, size), boxes, cells), np.ones((2, cells, cells), np.uint8)])
        rows.append(
            {
                "boxes": np.array([*boxes, *odd, *[[0, 0, 0, 0]] * unused], np.float32),
                "classes": np.array([*classes, 1, 1, *[-1] * unused], np.int32),
                "crowd": np.arange(SLOTS) == len(boxes),
                "masks": np.pad(masks, ((0, unused), (0, 0), (0, 0))),
            }
        )
    targets = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    numbers = np.arange(len(rows), dtype=np.int32)
    sizes = np.array(INSTANCE_SIZES, np.int32)
    return targets | {"valid": np.ones(len(rows), bool), "size": sizes, "id": numbers, "draw": 0 * numbers}


def assert_close(ours, torchs, tolerance, name=""):
    """`tolerance` is relative to the largest of torch's values."""
    assert np.shape(ours) == np.shape(torchs), name
    assert np.abs(np.asarray(ours) - torchs).max() <= tolerance * np.abs(torchs).max() + 1e-12, name


@pytest.mark.parametrize(
    ("name", "frozen_bn", "parameters", "giga"),
    [
        ("maskrcnn_resnet50_fpn", True, 44_401_393, 134.380 + 53.206),  # torchvision counts it without masks
        ("maskrcnn_resnet50_fpn_v2", False, 46_359_409, 333.577),
    ],
)
def test_parameters_and_multiply_accumulates_are_torchvisions(name, frozen_bn, parameters, giga):
    model = models.build(name, 90)
    model = model.clone(norm=partial(BatchNorm, frozen=frozen_bn))
    variables = jax.eval_shape(lambda: models.init(model, jax.random.key(0), 800))
    assert cost.parameters(variables["params"]) == parameters
    assert cost.multiply_accumulates(model, variables, (800, 800, 3)) / 1e9 == pytest.approx(giga, abs=1e-3)


@pytest.mark.parametrize("version", [1, 2])
def test_detections_and_their_masks_are_torchvisions(version):
    with jax.enable_x64(True):
        model, sizes = network(version), np.array(INSTANCE_SIZES)

        @jax.jit
        def run(variables, maps):
            outputs = model.apply(variables, IMAGES, train=False, targets={"size": sizes}, maps=maps)
            return model.detect(outputs, sizes)

        found = run(drawn_variables(model, IMAGES, maps=maps_of()), maps_of())
    for index in range(len(INSTANCES)):
        golden = {key: GOLDENS[f"detect/{version}/{index}/{key}"] for key in ("boxes", "scores", "labels", "masks")}
        count = len(golden["scores"])
        assert found["valid"][index].sum() == count > 0
        assert found["classes"][index, :count].tolist() == (golden["labels"] - 1).tolist()
        for key in ("boxes", "scores"):
            assert_close(found[key][index, :count], golden[key], 1e-6)
        assert_close(sample(np.asarray(found["masks"][index, :count]), 2000), golden["masks"], 1e-6)
        assert not np.any(found["masks"][index, count:])


@pytest.mark.parametrize("version", [1, 2])
def test_two_steps_of_sgd_are_torchvisions(version, monkeypatch):
    """Losses, gradients of the maps, parameters and statistics; crowds and boxes without area, not torch's, add 0."""
    monkeypatch.setattr(sampling, "random_order", lambda key, count: 1 - np.arange(count) / (2 * count))
    optimizer, targets = optax.sgd(LEARNING_RATE, MOMENTUM), targets_of()
    with jax.enable_x64(True):
        model = network(version)
        variables = drawn_variables(model, IMAGES, maps=maps_of())

        def loss(params, maps, statistics):
            options = {"rngs": {"sampling": jax.random.key(0)}, "mutable": ["batch_stats"]}
            given = {"params": params, "batch_stats": statistics}
            outputs, updates = model.apply(given, IMAGES, train=True, targets=targets, maps=maps, **options)
            losses = model.loss(outputs, targets)
            return sum(losses.values()), (losses, updates.get("batch_stats", {}))

        @jax.jit
        def step(params, statistics, state):
            gradients, (losses, statistics) = jax.grad(loss, (0, 1), has_aux=True)(params, maps_of(), statistics)
            updates, state = optimizer.update(gradients[0], state)
            return optax.apply_updates(params, updates), statistics, state, losses, gradients[1]

        params, statistics = variables["params"], variables.get("batch_stats", {})
        state = optimizer.init(params)
        for number in range(2):
            params, statistics, state, losses, of_maps = step(params, statistics, state)
            assert losses.keys() == set(TERMS.values())
            for key, name in TERMS.items():
                np.testing.assert_allclose(losses[name], GOLDENS[f"step/{version}/{number}/{key}"], rtol=1e-7)
            for level, gradient in enumerate(of_maps):
                assert_close(sample(gradient, 100), GOLDENS[f"step/{version}/{number}/maps/{level}"], 1e-6)
    after, before = jax.device_get((params, variables["params"]))
    moved = jax.tree.map(lambda x, y: (x - y) / LEARNING_RATE, after, before)
    assert_golden(to_torch({"": moved}), f"step/{version}/moved/", 1e-6, 32)
    assert_golden(to_torch({"": statistics}), f"step/{version}/statistic/", 1e-9, 10**6)


def assert_golden(found, start, tolerance, count):
    found = {name: value for name, value in found.items() if not name.endswith("tracked")}
    assert found.keys() == {key.removeprefix(start) for key in GOLDENS if key.startswith(start)}
    for name, value in found.items():
        assert_close(sample(value, count), GOLDENS[start + name], tolerance, name)


def projected(cells, boxes, rois, size):
    with jax.enable_x64(True):
        found = jax.jit(partial(project_masks, bins=28))(
            *(jnp.asarray(cells[None] == 1), jnp.asarray(boxes)[None], jnp.asarray(rois)[None], jnp.array([size]))
        )
    return np.asarray(found[0])


@pytest.mark.parametrize("index", [0, 2])
def test_the_masks_to_train_on_are_torchvisions(index):
    """In boxes around the objects, and in one that the object lies next to."""
    boxes, size, rois = INSTANCES[index][0], INSTANCE_SIZES[index], GOLDENS[f"targets/{index}/rois"]
    cells = cells_of(masks_of(boxes, size), boxes, CELLS).repeat(3, axis=0)
    found = projected(cells, np.repeat(np.array(boxes, np.float64), 3, axis=0), rois, size)
    np.testing.assert_allclose(found, GOLDENS[f"targets/{index}/masks"], rtol=0, atol=1e-9)
    assert 0.2 < found.mean() < 0.8


@pytest.mark.parametrize("index", [0, 2])
def test_of_an_object_larger_than_its_cells_each_pixel_has_its_cells_value(index):
    """Exactly. With an odd number of cells no pixel's middle lies between two."""
    boxes, size, rois = INSTANCES[index][0], INSTANCE_SIZES[index], GOLDENS[f"targets/{index}/rois"]
    coarse = cells_of(masks_of(boxes, size), boxes, 21)
    corners, sides = frames.frame(np.array(boxes, np.float64), 21)
    whole = np.zeros((len(boxes), *size), np.uint8)
    for mask, cells, corner, side in zip(whole, coarse, corners, sides, strict=True):
        for row, column in np.ndindex(size):
            x, y = np.floor((np.array([column, row]) + 0.5 - corner) / side).astype(int)
            mask[row, column] = cells[y, x] if 0 <= x < 21 and 0 <= y < 21 else 0
    given = np.repeat(np.array(boxes, np.float64), 3, axis=0), rois, size
    expected = projected(cells_of(whole, boxes, CELLS).repeat(3, axis=0), *given)
    np.testing.assert_allclose(projected(coarse.repeat(3, axis=0), *given), expected, rtol=0, atol=1e-9)


@jax.jit
def losses_of(outputs, targets):
    return MaskRCNN(num_classes=2, box_samples=4 * outputs["mask_logits"].shape[1]).loss(outputs, targets)


def mask_loss(masks, label, logits):
    """The term of the mask alone, of one image with a sample per object."""
    boxes = jnp.tile(jnp.array([[4.0, 4, 32, 32]]), (len(label), 1))[None]
    samples = {
        "boxes": boxes,
        "matched": boxes,
        "label": jnp.array([label]),
        "object": jnp.arange(len(label))[None],
        "used": jnp.ones((1, len(label)), bool),
    }
    outputs = {
        "objectness": jnp.zeros((1, 1)),
        "rpn_bbox_regression": jnp.zeros((1, 1, 4)),
        "anchors": (jnp.ones((1, 4)),),
        "anchor_samples": {
            "number": jnp.zeros((1, 1), int),
            "positive": jnp.zeros((1, 1), bool),
            "used": jnp.ones((1, 1), bool),
            "matched": jnp.ones((1, 1, 4)),
        },
        "class_logits": jnp.zeros((1, len(label), 3)),
        "box_regression": jnp.zeros((1, len(label), 3, 4)),
        "box_samples": samples,
        "mask_logits": jnp.asarray(logits)[None],
    }
    targets = {"size": jnp.array([[64, 64]])} | ({} if masks is None else {"masks": masks[None]})
    return float(losses_of(outputs, targets)["mask"])


def test_unknown_masks_and_backgrounds_are_not_counted():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 28, 28)).astype(np.float32)
    masks = rng.integers(0, 2, (4, 40, 40)).astype(np.uint8)
    each = [mask_loss(masks, np.where(np.arange(4) == k, [1, 2, 0, 2], 0), logits) for k in range(4)]
    assert each[0] > 0 and each[1] != each[3] and each[2] == 0
    masks[1] = IGNORE
    assert mask_loss(masks, np.array([1, 2, 0, 2]), logits) == pytest.approx((each[0] + each[3]) / 2, rel=1e-5)
    assert mask_loss(masks, np.array([0, 2, 0, 0]), logits) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neck": "c4"}, "config.model.options.neck: masks are made of a feature pyramid"),
        (
            {"box_samples": 3},
            "config.model.options.box_samples is 3, of which 25% can be positive; set it to at least 4",
        ),
    ],
)
def test_what_it_cannot_take_is_named(options, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: models.init(MaskRCNN(num_classes=2, **options), jax.random.key(0), 64))


def test_a_network_with_masks_is_not_trained_without_them():
    with pytest.raises(UserError, match="config.data.targets: a network with a mask head is trained with the target"):
        mask_loss(None, np.array([1]), np.zeros((1, 28, 28), np.float32))


def test_without_a_background_outputs_are_fewer_and_read_alike():
    """detectron2's predictor: the same logits and deltas as torchvision's, but 0 for the background."""
    x = jax.random.normal(jax.random.key(0), (3, 6))
    whole, part = FastRCNNPredictor(4), FastRCNNPredictor(4, background=False)
    variables = jax.jit(whole.init)(jax.random.key(0), x)
    dense = variables["params"]["bbox_pred"]
    fewer = {"kernel": dense["kernel"][:, 4:], "bias": dense["bias"][4:]}
    logits, deltas = jax.jit(part.apply)({"params": variables["params"] | {"bbox_pred": fewer}}, x)
    expected = jax.jit(whole.apply)(variables, x)
    np.testing.assert_array_equal(logits, expected[0])
    np.testing.assert_allclose(deltas[:, 1:], expected[1][:, 1:], rtol=1e-6)
    assert not deltas[:, 0].any()


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("case", SEMANTIC)
def test_the_semantic_heads_logits_and_gradients_are_detectron2s(case):
    with jax.enable_x64(True):
        head, maps = (
            SemanticFPNHead(5, 32, dtype=jnp.float64),
            [jnp.asarray(x, jnp.float64) for x in semantic_maps(case)],
        )
        variables = drawn_variables(head, maps)

        def total(params):
            logits = head.apply({"params": params}, maps, train=True)
            return jnp.sum(logits**2), logits

        gradients, logits = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    assert_close(sample(np.asarray(logits), 500), GOLDENS[f"semantic/{case}/logits"], 1e-6)
    assert_golden(to_torch({"": gradients}), f"semantic/{case}/gradient/", 1e-5, 32)


def test_channels_that_groups_do_not_divide_are_refused():
    maps = [jnp.zeros((1, 4, 4, 8))]
    with pytest.raises(UserError, match="channels is 48; semantic_fpn needs a multiple of its groups, 32"):
        jax.eval_shape(lambda: SemanticFPNHead(5, 48).init(jax.random.key(0), maps, train=False))
