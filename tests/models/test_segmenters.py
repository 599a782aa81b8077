"""Torch's segmenters and ours, with the same weights: goldens/make_segmenters.py wrote what torch computes."""

from functools import cache, partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens.drawn import drawn, random_image, sample
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.models import cost
from morphism.models.deeplab import ASPP, SeparableASPPHead
from morphism.models.layers import BatchNorm
from morphism.models.pspnet import PyramidHead
from morphism.models.summary import layers
from morphism.ops.segmentation import cross_entropy
from morphism.runtime.mesh import AXIS
from morphism.weights.convert import from_torch, to_torch, torch_shapes

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "segmenters.npz")
OUTPUTS = sorted(
    {tuple(key.removeprefix("outputs/").rsplit("/", 2)[:2]) for key in GOLDENS if key.startswith("outputs/")}
)
PARTS = {"width": 8}
OPTIONS = {
    "unet": PARTS,
    "unet/three_stages": {"stages": 3, **PARTS},
    "unet/paper": {"valid": True, "batch_norm": False, **PARTS},
    "unet/paper_in_two_stages": {"stages": 2, "valid": True, "batch_norm": False, **PARTS},
    "segnet": PARTS,
    **{f"fcn{stride}s_vgg16": {"hidden": 32, **PARTS} for stride in (32, 16, 8)},
}


def make(name, classes=5, **options):
    fields = {"name": name, "dtype": "float32", "remat": False, "sync_bn": False, "frozen_bn": False}
    return models.create(ConfigDict(fields | {"options": options}), classes, AXIS)


def shapes(model, size):
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))


def drawn_variables(model, size):
    like = shapes(model, size)
    return from_torch({name: drawn(name, shape) for name, shape in torch_shapes(like).items()}, like)


@cache
def variables_of(name):
    return drawn_variables(make(name.partition("/")[0], **OPTIONS.get(name, {})), 64)


def assert_close(ours, torchs, tolerance):
    """`tolerance` is relative to the largest of torch's values."""
    assert np.shape(ours) == np.shape(torchs)
    assert np.abs(np.asarray(ours) - torchs).max() <= tolerance * np.abs(torchs).max()


@pytest.mark.parametrize(
    ("name", "parameters", "giga"),
    [
        ("fcn_resnet50", 35_322_218, 152.717),
        ("fcn_resnet101", 54_314_346, 232.738),
        ("deeplabv3_resnet50", 42_004_074, 178.722),
        ("deeplabv3_resnet101", 60_996_202, 258.743),
    ],
)
def test_parameters_and_multiply_accumulates_are_torchvisions(name, parameters, giga):
    model = make(name, 21)
    variables = shapes(model, 520)
    assert cost.parameters(variables["params"]) == parameters
    if name.endswith("50"):
        assert sum(layer.parameters for layer in layers(model, variables, (520, 520, 3))) == parameters
    assert round(cost.multiply_accumulates(model, variables, (520, 520, 3)) / 1e9, 3) == giga


@pytest.mark.parametrize(
    ("name", "classes", "options", "parameters"),
    [
        ("pspnet_resnet50", 19, {}, 48_975_494),  # mmsegmentation's table: 48.98 M
        ("pspnet_resnet101", 19, {}, 67_967_622),
        ("deeplabv3plus_resnet50", 19, {}, 43_589_878),
        ("deeplabv3plus_resnet101", 19, {}, 62_582_006),
        ("segnet", 11, {}, 29_449_355),  # the literature's tables: 29.45 M
        ("unet", 2, {}, 31_037_698),  # milesial/Pytorch-UNet
        ("unet", 2, {"valid": True, "batch_norm": False}, 31_031_810),
        ("fcn32s_vgg16", 21, {}, 136_152_917),  # the paper's table 1: 134 M, without the enlargement
        ("fcn16s_vgg16", 21, {}, 134_815_994),
        ("fcn8s_vgg16", 21, {}, 134_489_759),
    ],
)
def test_parameters_are_the_published(name, classes, options, parameters):
    assert cost.parameters(shapes(make(name, classes, **options), 64)["params"]) == parameters


def test_the_papers_u_net_on_one_channel_has_its_parameters():
    model = models.models()["unet"](num_classes=2, valid=True, batch_norm=False)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 388, 388, 1)), train=False))
    assert cost.parameters(variables["params"]) == 31_030_658


@pytest.mark.parametrize(("name", "size"), OUTPUTS)
def test_outputs_are_torchs_at_the_images_size(name, size):
    height, width = map(int, size.split("x"))
    model = make(name.partition("/")[0], **OPTIONS.get(name, {}))
    variables = variables_of(name)
    if name.startswith(("unet", "segnet", "fcn8s")):
        assert cost.parameters(variables["params"]) == GOLDENS[f"parameters/{name}"]
    # Where pooling is over a part of the map, here all of it, at one of the two sizes; at the other over the map.
    whole = models.inputs(model, {"size": np.array([[height, width]] * 2)}) if height % 2 else {}
    outputs = jax.jit(partial(model.apply, train=False))(variables, random_image(height, width, 2), **whole)
    expected = {key.rsplit("/", 1)[1] for key in GOLDENS if key.startswith(f"outputs/{name}/{size}/")}
    assert outputs.keys() == expected
    for key, value in outputs.items():
        assert value.dtype == jnp.float32 and value.shape == (2, height, width, 5)
        assert_close(sample(value, 1000), GOLDENS[f"outputs/{name}/{size}/{key}"], 2e-5)


HEADS = {
    "pspnet": lambda parts, x, cells: PyramidHead(*parts, channels=6)(x, cells, train=False),
    "deeplabv3": lambda parts, x, cells: ASPP((1, 1, 1), *parts[1:], channels=6)(x, cells, train=False),
    "deeplabv3plus": lambda parts, x, cells: SeparableASPPHead(*parts, (1, 1, 1), channels=6)(x, x, cells, train=False),
}


class Headed(nn.Module):
    head: str

    @nn.compact
    def __call__(self, x, cells=None):
        return HEADS[self.head]((5, partial(BatchNorm), jnp.float32), x, cells)


@pytest.mark.parametrize("head", HEADS)
def test_heads_pool_over_the_image_and_leave_the_rest_of_the_canvas_out(head):
    """Away from the image's border, where convolutions see the canvas, logits are those of the image alone."""
    rng = np.random.default_rng(3)
    alone = rng.normal(size=(2, 9, 14, 4)).astype(np.float32)
    canvas = np.full((2, 20, 23, 4), 50, np.float32)
    canvas[:, :9, :14] = alone
    model = Headed(head)
    variables = jax.eval_shape(model.init, jax.random.key(0), alone)
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), variables)
    expected = jax.jit(model.apply)(variables, alone)
    found = jax.jit(model.apply)(variables, canvas, jnp.array([[9, 14]] * 2))
    reach = 4  # of four 3x3 convolutions, one after the other
    assert_close(found[:, : 9 - reach, : 14 - reach], expected[:, : 9 - reach, : 14 - reach], 1e-5)


def labels(height, width, batch):
    """goldens/make_segmenters.py's."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 5, (batch, -(-height // 4), -(-width // 4)))
    found = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width].astype(np.uint8)
    found[:, :2] = found[:, 8:12, 8:12] = 255
    return found


def without_dropout(call, args, kwargs, context):
    return args[0] if isinstance(context.module, nn.Dropout) else call(*args, **kwargs)


def test_a_training_steps_loss_gradients_and_statistics_are_torchs():
    """DeepLabV3 with its auxiliary loss, in float64 on both sides."""
    size = (33, 41)
    with jax.enable_x64(True):
        model = make("deeplabv3_resnet50").clone(dtype=jnp.float64, norm=partial(BatchNorm, dtype=jnp.float64))
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables_of("deeplabv3_resnet50"))

        def loss(params):
            with nn.intercept_methods(without_dropout):
                outputs, updates = model.apply(
                    variables | {"params": params},
                    random_image(*size, 2).astype(np.float64),
                    train=True,
                    mutable=["batch_stats"],
                )
            target = jnp.asarray(labels(*size, 2))
            total = cross_entropy(outputs["out"], target) + 0.5 * cross_entropy(outputs["aux"], target)
            return total, updates["batch_stats"]

        (value, statistics), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(value, GOLDENS["step/loss"], rtol=1e-7)
    gradients = to_torch({"": gradients})
    assert {f"step/gradient/{key}" for key in gradients} == {key for key in GOLDENS if key.startswith("step/gradient/")}
    for key, gradient in gradients.items():
        expected = GOLDENS[f"step/gradient/{key}"]
        # Before a batch norm a shift moves nothing: what both sides have there is rounding.
        assert np.abs(sample(gradient, 16) - expected).max() <= 1e-5 * np.abs(expected).max() + 1e-12, key
    statistics = to_torch({"": statistics})
    for key in GOLDENS:
        if key.startswith("step/statistic/"):
            np.testing.assert_allclose(statistics[key.removeprefix("step/statistic/")], GOLDENS[key], rtol=1e-6)


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "deeplabv3plus_resnet50"])
def test_at_output_stride_16_the_rates_are_halved(name):
    from morphism.models.deeplab import rates

    assert rates(16) == (6, 12, 18)
    variables, wide = (shapes(make(name, output_stride=stride), 33) for stride in (16, 8))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, wide)
    with pytest.raises(UserError, match="output_stride is 32; it must be 8 or 16"):
        shapes(make(name, output_stride=32), 33)


def test_what_a_segmenter_cannot_take_is_named():
    with pytest.raises(UserError, match="images of 15x40 are too small for U-Net, which needs 16x16"):
        shapes(make("unet"), (15, 40))
    with pytest.raises(UserError, match="images of 7x40 are too small for U-Net, which needs 8x8"):
        shapes(make("unet", stages=3), (7, 40))
    with pytest.raises(UserError, match="images of 31x40 are too small for VGG, which needs 32x32"):
        shapes(make("segnet"), (31, 40))
    with pytest.raises(UserError, match="config.model.remat: segnet has no use for it"):
        fields = {"name": "segnet", "dtype": "float32", "remat": True, "sync_bn": False, "frozen_bn": False}
        models.create(ConfigDict(fields | {"options": {}}), 5, AXIS)
