"""AlexNet, VGG and the ResNet family: what each costs, and which images it takes."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.models import cost
from morphism.runtime.mesh import AXIS

# torchvision 0.29.1, meta["num_params"] and meta["_ops"] of each architecture's weights, at 224.
TORCHVISION = {
    "alexnet": (61_100_840, 0.714),
    "vgg11": (132_863_336, 7.609),
    "vgg13": (133_047_848, 11.308),
    "vgg16": (138_357_544, 15.47),
    "vgg19": (143_667_240, 19.632),
    "vgg11_bn": (132_868_840, 7.609),
    "vgg13_bn": (133_053_736, 11.308),
    "vgg16_bn": (138_365_992, 15.47),
    "vgg19_bn": (143_678_248, 19.632),
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "wide_resnet50_2": (68_883_240, 11.398),
    "wide_resnet101_2": (126_886_696, 22.753),
    "resnext50_32x4d": (25_028_904, 4.23),
    "resnext101_32x8d": (88_791_336, 16.414),
    "resnext101_64x4d": (83_455_272, 15.46),
}


def make(name, classes=1000, **options):
    fields = {"name": name, "dtype": "float32", "remat": False, "sync_bn": False, "frozen_bn": False}
    return models.create(ConfigDict(fields | {"options": options}), classes, AXIS)


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_and_operations_are_torchvisions(name):
    model = make(name)
    variables = jax.eval_shape(lambda: models.init(model, jax.random.key(0), 224))
    parameters, gmac = TORCHVISION[name]
    assert cost.parameters(variables["params"]) == parameters
    assert cost.multiply_accumulates(model, variables, (224, 224, 3)) / 1e9 == pytest.approx(gmac, abs=6e-4)


@pytest.mark.parametrize(("name", "smallest"), [("alexnet", (63, 80)), ("vgg11_bn", (32, 45)), ("resnet18", (1, 3))])
def test_the_smallest_image_gives_logits(name, smallest):
    model = make(name, 5)
    logits = jax.eval_shape(lambda: models.init(model, jax.random.key(0), smallest))
    logits = jax.eval_shape(lambda v: model.apply(v, jnp.ones((2, *smallest, 3)), train=False), logits)
    assert logits.shape == (2, 5)


@pytest.mark.parametrize(("name", "size"), [("alexnet", (62, 200)), ("vgg16", (200, 31))])
def test_an_image_that_the_network_pools_away_is_an_error(name, size):
    with pytest.raises(UserError, match=f"images of {size[0]}x{size[1]} are too small"):
        jax.eval_shape(lambda: models.init(make(name), jax.random.key(0), size))


@pytest.mark.parametrize("stem", [(11, 4, 2), (5, 2, 2), (3, 1, 1)])
def test_an_image_too_small_for_alexnet_gets_the_size_that_its_stem_takes(stem):
    model = make("alexnet", 5, stem=stem)
    with pytest.raises(UserError, match="images of 8x8 are too small for AlexNet .* which needs") as error:
        jax.eval_shape(lambda: models.init(model, jax.random.key(0), 8))
    least = int(re.search(r"needs (\d+)x", str(error.value)).group(1))
    jax.eval_shape(lambda: models.init(model, jax.random.key(0), least))
    with pytest.raises(UserError, match=f"images of {least - 1}x{least - 1} are too small"):
        jax.eval_shape(lambda: models.init(model, jax.random.key(0), least - 1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50", {"output_stride": 4}, "output_stride is 4; it must be 8, 16 or 32"),
        ("resnet18", {"output_stride": 8}, "resnet18 and resnet34 have not"),
        ("resnet34", {"stride_in_1x1": True}, "resnet18 and resnet34 have not"),
    ],
)
def test_an_impossible_option_is_named(name, options, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: models.init(make(name, **options), jax.random.key(0), 64))


def test_dropout_acts_in_training_alone():
    model = make("alexnet", 5, hidden=16)
    variables = jax.jit(lambda: models.init(model, jax.random.key(0), 64))()
    images = np.random.default_rng(1).normal(size=(1, 64, 64, 3)).astype(np.float32)

    @partial(jax.jit, static_argnums=0)
    def logits(train, seed):
        return model.apply(variables, images, train=train, rngs={"dropout": jax.random.key(seed)})

    assert np.array_equal(logits(False, 0), logits(False, 1))
    assert not np.array_equal(logits(True, 0), logits(True, 1))
