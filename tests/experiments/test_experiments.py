import importlib
import json
import pkgutil
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from shallow import shallow, shallow_backbones

from morphism import experiments, models, tasks
from morphism.experiments import coco_faster_rcnn, coco_mask_rcnn, coco_panoptic, coco_yolox, imagenet_resnet
from morphism.experiments.base import get_base
from morphism.runtime.mesh import AXIS
from morphism.runtime.validation import check_config
from morphism.training.optimizer import make_optimizer
from morphism.training.schedule import make_schedule
from morphism.weights.convert import fit, rename, torch_shapes

FILES = [each.name for each in pkgutil.iter_modules(experiments.__path__) if each.name not in experiments.SHARED]
VARIANTS = {
    "bccd_yolox": (None, "tiny"),
    "camvid_segnet": (None, "vgg16"),
    "cifar10_finetune": (None, "scratch"),
    "cifar10_resnet": ("20", "32", "44", "56", "110"),
    "coco_faster_rcnn": (None, *coco_faster_rcnn.VARIANTS),
    "cityscapes_deeplabv3plus": ("50", "101"),
    "cityscapes_pspnet": ("50", "101"),
    "coco_deeplabv3": ("resnet50", "resnet101"),
    "coco_mask_rcnn": coco_mask_rcnn.VARIANTS,
    "coco_panoptic": tuple(coco_panoptic.STEPS),
    "coco_retinanet": (None, "multiscale"),
    "coco_yolox": coco_yolox.SIZES,
    "finetune": (
        *("resnet18", "vgg16_bn", "alexnet", "faster_rcnn", "retinanet", "ssd300", "yolox_nano", "mask_rcnn"),
        *("deeplabv3", "pspnet", "segnet", "unet"),
    ),
    "imagenet_alexnet": (None, "lighting"),
    "imagenet_resnet": (*imagenet_resnet.NETWORKS, "50,recipe=v2", "101,recipe=v2", "50,stride_in_1x1"),
    "imagenet_vgg": ("11", "13", "16", "19", "11_bn", "13_bn", "16_bn", "19_bn"),
    "quickstart": (None, "detection", "segmentation", "panoptic"),
    "voc_fcn": ("32s", "16s", "8s", "8s_at_once", "resnet50", "resnet101"),
}
DEPTHS = ("layers", "depth")
ALL = [(file, variant) for file in FILES for variant in VARIANTS.get(file, (None,))]


@cache
def parameters(model, size):
    """The shapes of a model's, which several experiments share; of deep ones those of a shallow one."""
    config = ConfigDict(json.loads(model))
    config.options.update({field: value for field, value in shallow(config.name).items() if field in DEPTHS})
    with shallow_backbones():
        model = models.create(config, 10, AXIS)
        return jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))["params"]


@pytest.mark.parametrize(("file", "variant"), ALL)
def test_every_experiment_builds(file, variant):
    module = importlib.import_module(f"morphism.experiments.{file}")
    config = module.get_config(variant) if variant else module.get_config()
    check_config(config)
    models.create(config.model, 10, AXIS)
    optimizer = make_optimizer(config.optimizer, make_schedule(config, 100))
    jax.eval_shape(optimizer.init, parameters(config.model.to_json(), config.data.image_size))
    tasks.of(config)
    assert config.is_locked


@pytest.mark.parametrize("file", FILES)
def test_every_experiment_tells_its_command_and_the_published_number(file):
    text = importlib.import_module(f"morphism.experiments.{file}").__doc__
    assert re.search(rf"(python train\.py|morphism train) --config experiments/{file}\.py", text)
    assert "Published" in text


def test_a_misspelt_field_in_an_experiment_is_an_error():
    config = get_base()
    with pytest.raises(AttributeError, match='Did you mean "optimizer" instead of "optimiser"'):
        config.optimiser = {}


def test_a_value_of_the_wrong_type_in_an_experiment_is_an_error():
    config = get_base()
    with pytest.raises(TypeError):
        config.batch_size = "128"


def test_cifars_schedule_is_the_papers():
    config = importlib.import_module("morphism.experiments.cifar10_resnet").get_config("20")
    schedule = make_schedule(config, 45_000 / 128)
    rates = [schedule(step) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_resnet_110_holds_a_tenth_of_the_rate_for_400_steps():
    schedule = make_schedule(
        importlib.import_module("morphism.experiments.cifar10_resnet").get_config("110"), 45_000 / 128
    )
    assert [schedule(step) for step in (0, 399, 400)] == pytest.approx([0.01, 0.01, 0.1])


@pytest.mark.parametrize(("variant", "rate"), [("32s", 1e-10), ("16s", 1e-12), ("8s", 1e-14), ("8s_at_once", 1e-10)])
def test_fcns_step_is_caffes_of_a_loss_summed_over_pixels(variant, rate):
    """With a mean of 187,500 pixels: kernels move by rate (sum of g + 5e-4 w), biases by 2 rate (sum of g)."""
    config = importlib.import_module("morphism.experiments.voc_fcn").get_config(variant)
    params = {
        "conv": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)},
        "upscore": {"kernel": jnp.ones((2, 2))},
    }
    optimizer = make_optimizer(config.optimizer, make_schedule(config, 1464))
    updates, _ = optimizer.update({"conv": jax.tree.map(jnp.ones_like, params["conv"])}, optimizer.init(params), params)
    summed = 500 * 375
    assert updates["conv"]["kernel"] == pytest.approx(-rate * (summed + 5e-4 * 3), rel=1e-5)
    assert updates["conv"]["bias"] == pytest.approx(-2 * rate * summed, rel=1e-5)
    decay_alone, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, {"conv": params["conv"]}), optimizer.init(params), params
    )
    assert decay_alone["conv"]["kernel"] == pytest.approx(-rate * 5e-4 * 3, rel=1e-5)
    assert not decay_alone["conv"]["bias"].any()


def test_ssds_first_thousand_steps_are_torchvisions_warmup():
    schedule = make_schedule(importlib.import_module("morphism.experiments.coco_ssd300").get_config(), 117_266 / 32)
    assert [schedule(step) for step in (0, 500, 1000)] == pytest.approx([2e-6, 0.001 * 1.001, 0.002])


def test_the_original_faster_rcnn_has_detectron2s_l1_and_the_others_torchvisions_beta():
    betas = {
        name: models.models()[name](num_classes=3).smooth_l1_beta for name in models.models() if "fasterrcnn" in name
    }
    assert betas == {
        "fasterrcnn_resnet50_c4": 0,
        "fasterrcnn_resnet50_fpn": 1 / 9,
        "fasterrcnn_resnet50_fpn_v2": 1 / 9,
    }


@pytest.mark.parametrize("encoder", ["vgg16", "vgg16_bn"])
def test_segnets_encoder_begins_from_vgg16_with_and_without_norms(encoder):
    config = importlib.import_module("morphism.experiments.camvid_segnet").get_config(encoder)

    def shapes_of(model):
        return torch_shapes(jax.eval_shape(lambda: models.init(model, jax.random.key(0), 32)))

    published = shapes_of(models.models()[encoder](num_classes=1000))
    vgg = {name: np.broadcast_to(np.float32(0), shape) for name, shape in published.items()}
    segnet = shapes_of(models.create(config.model, 11, AXIS))
    found, _ = fit(
        rename(vgg, config.init_rename, "vgg"),
        segnet,
        "vgg",
        allow_missing=config.init_allow_missing,
        allow_unexpected=config.init_allow_unexpected,
    )
    convolutions = {name for name, shape in segnet.items() if name.startswith("encoder.") and len(shape) == 4}
    assert len(convolutions) == 13 and convolutions <= found.keys()


def test_yoloxs_schedule_is_the_papers():
    config = importlib.import_module("morphism.experiments.coco_yolox").get_config("s")
    schedule = make_schedule(config, 118_287 / 64)
    epochs = (0, 2.5, 5, 145, 285, 299)
    rates = [schedule(round(epoch * 118_287 / 64)) for epoch in epochs]
    assert rates == pytest.approx([0, 0.0025, 0.01, 0.00525, 0.0005, 0.0005], rel=2e-3)
