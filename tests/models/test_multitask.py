"""Several heads over one backbone: names, shapes and parameters, and that each part is what it is alone."""

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
from morphism.models.detection import Detector
from morphism.models.multitask import HEADS, PANOPTIC_FPN, head_options
from morphism.models.summary import layers
from morphism.weights.convert import rename, torch_shapes

RESNET = {"backbone": "resnet18", "backbone_width": 4, "channels": 32}
DARKNET = {"backbone": "darknet", "depth": 0.33, "width": 0.125}
STAGES = {"anchor_size": 8, "head_width": 16, "proposals": 20, "train_proposals": 20, "box_samples": 8, "detections": 4}
HEAD_OPTIONS = {
    "faster_rcnn": STAGES,
    "mask_rcnn": STAGES | {"mask_width": 8},
    "semantic_fpn": {"channels": 32},
}


def heads(*names):
    return {f"a_{name}": {"name": name, "options": HEAD_OPTIONS.get(name, {})} for name in names}


def multitask(*names, classes=3, **options):
    return models.build("multitask", classes, heads(*names), **options)


def shapes(model, size=64):
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))


def names(model, size=64):
    return torch_shapes(shapes(model, size))


@pytest.mark.parametrize("options", [RESNET, DARKNET, {"backbone": "vgg11", "backbone_width": 4, "channels": 32}])
def test_a_semantic_head_takes_finer_maps_of_the_backbone_itself(options):
    """Each level has convolutions of its own, whose names begin with the level, as detectron2's do."""
    ground = {"name": "semantic_fpn", "options": {"channels": 32, "finest": 1}}
    found = names(models.build("multitask", 3, {"ground": ground}, **options))
    levels = {name.split(".")[1] for name in found if name.startswith("ground.")}
    assert levels == {"p1", "p2", "p3", "p4", "p5", "predictor"}
    own = found["ground.p1.0.weight"][1]  # channels of the backbone's map at stride 2
    assert own == {"vgg11": 8, "darknet": 8, "resnet18": 4}[options["backbone"]]
    coarser = names(
        models.build("multitask", 3, {"ground": {"name": "semantic_fpn", "options": {"channels": 32}}}, **options)
    )
    assert not any(name.startswith("ground.p1") for name in coarser)


def test_panoptic_fpn_has_detectron2s_parameters():
    counts = {"instances": 80, "segmentation": 54}
    model = models.create(published("panoptic_fpn_resnet50", frozen_bn=True), counts, "")
    found, variables = layers(model, shapes(model), (64, 64, 3)), shapes(model)
    assert cost.parameters(variables["params"]) == sum(layer.parameters for layer in found) == 45_973_990
    assert cost.parameters(variables["params"]["segmentation"]) == 1_630_774
    total = cost.multiply_accumulates(model, variables, (64, 64, 3))
    assert sum(layer.multiply_accumulates for layer in found) == total > 0


def published(name, frozen_bn=False):
    fields = {"name": name, "dtype": "float32", "remat": False, "sync_bn": False, "frozen_bn": frozen_bn}
    return ConfigDict(fields | {"options": {}})


@pytest.mark.parametrize(
    ("reference", "part", "network", "rule"),
    [
        ("maskrcnn_resnet50_fpn", "mask_rcnn", {}, r"^(rpn|roi_heads)\. -> a_mask_rcnn.\1."),
        ("maskrcnn_resnet50_fpn_v2", "mask_rcnn", {"version": 2}, r"^(rpn|roi_heads)\. -> a_mask_rcnn.\1."),
        ("retinanet_resnet50_fpn", "retinanet", {}, r"^head\. -> a_retinanet.head."),
        ("yolox_s", "yolox", {"backbone": "darknet", "depth": 0.33, "width": 0.5}, r"^head\. -> a_yolox.head."),
        ("deeplabv3_resnet50", "deeplabv3", {"neck": "none", "output_stride": 8}, r"^classifier\. -> a_deeplabv3."),
        ("fcn_resnet50", "fcn", {"neck": "none", "output_stride": 8}, r"^classifier\. -> a_fcn."),
    ],
)
def test_weights_of_the_reference_fit_by_one_rule(reference, part, network, rule):
    options = {name: value for name, value in network.items() if name != "version"}
    own = {"version": 2} if "version" in network else {}
    head = {f"a_{part}": {"name": part, "options": own}}
    model = models.build("multitask", 3, head, **options)
    expected = names(models.build(reference, 3))
    like = {name: np.broadcast_to(np.float32(0), shape) for name, shape in expected.items() if "aux_" not in name}
    found = {name: x.shape for name, x in rename(like, (rule,), reference).items()}
    assert found == names(model)


def test_a_resnet_and_its_dense_layer_fit_by_two_rules():
    expected = {name: np.broadcast_to(np.float32(0), s) for name, s in names(models.build("resnet18", 3)).items()}
    found = rename(expected, (r"^fc\. -> a_linear.fc.", r"^(?!a_linear) -> backbone."), "resnet18")
    assert {name: x.shape for name, x in found.items()} == names(multitask("linear", backbone="resnet18", neck="none"))


COMBINATIONS = [
    (("mask_rcnn", "semantic_fpn", "linear", "fcn", "deeplabv3"), RESNET),
    (("faster_rcnn", "retinanet", "yolox"), RESNET | {"width": 0.125}),
    (("retinanet", "semantic_fpn"), RESNET),
    (("yolox", "semantic_fpn", "fcn", "linear"), DARKNET),
    (("fcn", "deeplabv3", "linear"), {"backbone": "resnet50", "backbone_width": 4, "neck": "none", "output_stride": 8}),
    (("yolox", "semantic_fpn", "linear"), RESNET | {"neck": "none", "width": 0.125}),
    (("faster_rcnn", "linear"), RESNET | {"backbone": "vgg11"}),
    (("fcn", "linear"), {"backbone": "vgg11_bn", "backbone_width": 4, "neck": "none"}),
]


@pytest.mark.parametrize(("parts", "options"), COMBINATIONS, ids=lambda each: "-".join(each))
def test_every_part_has_the_outputs_of_its_task(parts, options):
    model = multitask(*parts, **options)
    images, sizes = jnp.zeros((2, 64, 96, 3)), jnp.array([[64, 96], [50, 70]])

    def run(variables):
        outputs = model.apply(variables, images, train=False, targets={"size": sizes})
        read = {part: model.reader(part) for part in outputs}
        found = {p: reader.detect(outputs[p], sizes) for p, reader in read.items() if isinstance(reader, Detector)}
        return outputs, found

    outputs, found = jax.eval_shape(run, shapes(model))
    assert list(outputs) == list(model.heads)
    for name in parts:
        part = outputs[f"a_{name}"]
        if name == "linear":
            assert part.shape == (2, 3) and part.dtype == jnp.float32
        elif name in ("semantic_fpn", "fcn", "deeplabv3"):
            assert part["out"].shape == (2, 64, 96, 3) and part["out"].dtype == jnp.float32
        else:
            assert found[f"a_{name}"]["boxes"].shape[-1] == 4 and type(model.reader(f"a_{name}")) is HEADS[name]
            assert ("masks" in found[f"a_{name}"]) == (name == "mask_rcnn")


def test_every_head_is_in_some_combination():
    assert {name for parts, _ in COMBINATIONS for name in parts} == HEADS.keys()


def test_a_detectors_part_computes_what_the_detector_alone_does():
    """RetinaNet on its own backbone, and as a part with the same weights."""
    alone = models.build("retinanet_resnet50_fpn", 3, **RESNET, anchor_size=8)
    head = {"objects": {"name": "retinanet", "options": {"anchor_size": 8}}}
    shared = models.build("multitask", 3, head, **RESNET)
    images = np.random.default_rng(0).normal(size=(1, 45, 60, 3)).astype(np.float32)
    variables = jax.jit(lambda: models.init(alone, jax.random.key(0), 64))()
    moved = {
        collection: {name: x for name, x in tree.items() if not name.startswith("head.")}
        | ({"objects": {name: x for name, x in tree.items() if name.startswith("head.")}})
        for collection, tree in variables.items()
    }
    moved["batch_stats"].pop("objects")
    expected = jax.jit(partial(alone.apply, train=False))(variables, images)
    found = jax.jit(partial(shared.apply, train=False))(moved, images)["objects"]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_examples_without_a_parts_truth_are_padding_to_it():
    """Their boxes, whatever they are, change neither samples nor losses; other parts keep them."""
    model = multitask("faster_rcnn", **RESNET)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    batch = {
        "boxes": np.array([[[4, 4, 30, 40]], [[10, 5, 60, 50]]], np.float32),
        "classes": np.array([[1], [2]], np.int32),
        "crowd": np.zeros((2, 1), bool),
        "valid": np.ones(2, bool),
        "has_boxes": np.array([True, False]),
        "size": np.full((2, 2), 64, np.int32),
        "id": np.arange(2, dtype=np.int32),
        "draw": np.zeros(2, np.int32),
    }
    variables = jax.jit(lambda: models.init(model, jax.random.key(0), 64))()

    @jax.jit
    def losses(batch):
        options = {"rngs": {"sampling": jax.random.key(0)}, "mutable": ["batch_stats"]}
        outputs, _ = model.apply(variables, images, train=True, targets=batch, **options)
        part = outputs["a_faster_rcnn"]
        own = batch | {"valid": batch["valid"] & batch["has_boxes"]}
        return part["box_samples"]["used"], model.reader("a_faster_rcnn").loss(part, own)

    used, expected = losses(batch)
    assert used[0].any() and not used[1].any()
    other = batch | {"boxes": np.concatenate([batch["boxes"][:1], batch["boxes"][:1]])}
    jax.tree.map(np.testing.assert_array_equal, losses(other)[1], expected)
    assert losses(batch | {"has_boxes": np.ones(2, bool)})[0][1].any()


def test_learned_weights_start_at_0_and_fixed_ones_are_none():
    tiny = {"backbone": "resnet18", "backbone_width": 1, "neck": "none"}
    fixed, learned = (multitask("linear", "fcn", **tiny, loss_weights=each) for each in ("fixed", "learned"))
    assert names(learned).keys() - names(fixed).keys() == {"log_variance.a_linear", "log_variance.a_fcn"}
    variables = jax.jit(lambda: models.init(learned, jax.random.key(0), 32))()
    given = variables["params"] | {"log_variance.a_fcn": jnp.float32(2)}
    outputs = jax.jit(partial(learned.apply, train=False))(variables | {"params": given}, jnp.zeros((1, 32, 32, 3)))
    assert outputs["log_variance"] == {"a_linear": 0, "a_fcn": 2}


def test_classes_are_each_parts_own():
    model = multitask("linear", "semantic_fpn", classes={"a_linear": 7, "a_semantic_fpn": 4}, **RESNET)
    outputs = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)[0]
    )
    assert outputs["a_linear"].shape == (1, 7) and outputs["a_semantic_fpn"]["out"].shape[-1] == 4


def test_options_of_the_backbone_are_no_options_of_a_head():
    assert head_options("semantic_fpn") == {"channels": 128, "groups": 32, "finest": 0}
    assert head_options("linear") == {"dropout": 0.0} and head_options("fcn") == {}
    assert {"anchor_size", "score_threshold", "version"} <= head_options("mask_rcnn").keys()
    for head, option in (("mask_rcnn", "backbone"), ("yolox", "width"), ("retinanet", "channels")):
        assert option not in head_options(head)


GROUND = {"ground": {"name": "semantic_fpn"}}


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({}, {}, "config.model.heads is empty; give each part a head"),
        ({"x": {"name": "yolo"}}, {}, "config.model.heads.x.name is 'yolo', which is none of .*; did you mean yolox"),
        (
            {"x": {"name": "fcn", "options": {"channels": 8}}},
            {},
            "config.model.heads.x.options.channels: fcn has no such option; it has none; leave it out: "
            '--config.model.heads.x.options="{}"',
        ),
        (
            {"ground": {"name": "semantic_fpn", "options": {"chanels": 8}}},
            {},
            "config.model.heads.ground.options.chanels: semantic_fpn has no such option; did you mean channels",
        ),
        (
            {"ground": {"name": "semantic_fpn", "options": {"channels": "8"}}},
            {},
            "config.model.heads.ground.options.channels is '8'; it must be a whole number, such as 128",
        ),
        ({"ground": {"name": "fcn", "option": {}}}, {}, "heads.ground.option: no such field; did you mean options"),
        ({"backbone": {"name": "fcn"}}, {}, "config.model.heads.backbone: name the part by a word of letters, other"),
        ({"x": {"name": "mask_rcnn"}}, {"neck": "none"}, "heads.x.name: mask_rcnn needs the feature pyramid"),
        ({"x": {"name": "retinanet"}}, {"backbone": "darknet"}, "heads.x.name: retinanet needs the feature pyramid"),
        ({"x": {"name": "deeplabv3"}}, {"neck": "none"}, "output_stride is 32; it must be 8 or 16"),
        (GROUND, {"output_stride": 8}, "options.output_stride: it is for a ResNet with neck='none'"),
        (
            GROUND,
            {"output_stride": 8, "neck": "none"},
            "heads.ground.name: semantic_fpn needs maps at strides up to 32",
        ),
        (GROUND, {"backbone": "darknet", "neck": "none"}, "options.neck: the darknet has its own"),
        (GROUND, {"backbone": "resnet5"}, "options.backbone is 'resnet5'.*did you mean"),
        (GROUND, {"backbones": "resnet50"}, "backbones: multitask has no such option; did you mean backbone"),
    ],
)
def test_what_does_not_go_together_is_named(given, options, message):
    with pytest.raises(UserError, match=message.replace("{", r"\{").replace("}", r"\}")):
        models.build("multitask", 3, given, **options)


def test_parts_of_task_and_network_must_be_the_same():
    with pytest.raises(UserError, match="heads has the parts a_linear; the task has other"):
        multitask("linear", classes={"other": 3})
    with pytest.raises(UserError, match="resnet18 learns one thing, the task has the parts a, b; take multitask"):
        models.build("resnet18", {"a": 2, "b": 3})
    config = published("resnet18")
    config.heads = {"x": {"name": "linear"}}
    with pytest.raises(UserError, match="config.model.heads: resnet18 has no use for it; set it to {}"):
        models.create(config, 3, "")


def test_images_that_do_not_suit_are_named():
    for options in (DARKNET, RESNET | {"backbone": "vgg11"}):
        with pytest.raises(UserError, match=re.escape("images of 40x40: ") + ".* needs sides that are multiples of 32"):
            shapes(multitask("fcn", **options), 40)


def test_the_panoptic_network_has_heads_of_its_own_choice():
    assert models.build("panoptic_fpn_resnet50", 3).heads == PANOPTIC_FPN
    other = models.build("panoptic_fpn_resnet50", 3, heads("linear"))
    assert list(other.heads) == ["a_linear"]
