"""What models state of themselves, and the networks that can be built from a detector's or segmenter's parts."""

import doctest
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.models import faster_rcnn, rpn, segmentation
from morphism.models.detection import PostProcess
from morphism.models.faster_rcnn import FasterRCNN
from morphism.models.fpn import Backbone, FeaturePyramid
from morphism.models.layers import ConvTranspose, conv, relu
from morphism.models.resnet import BasicBlock, ResNet
from morphism.models.retinanet import RetinaNet
from morphism.models.ssd import SSD
from morphism.models.yolox import YOLOX
from morphism.ops.anchors import AnchorGenerator, DefaultBoxGenerator
from morphism.ops.resize import resize_bilinear
from morphism.ops.roi_align import multilevel_roi_align
from morphism.runtime.mesh import AXIS
from morphism.weights.convert import torch_shapes

CANVAS = (64, 64)
TINY = {"backbone": "resnet18", "backbone_width": 4, "channels": 8, "head_width": 8, "anchor_size": 16}
TARGETS = {
    "boxes": jnp.array([[[4, 4, 30, 40], [20, 10, 60, 60], [0, 0, 0, 0]]], jnp.float32),
    "classes": jnp.array([[1, 0, -1]]),
    "crowd": jnp.zeros((1, 3), bool),
    "valid": jnp.ones(1, bool),
    "size": jnp.array([CANVAS]),
    "id": jnp.zeros(1, int),
    "draw": jnp.zeros(1, int),
}


def make(name, classes=3, **options):
    fields = {"name": name, "dtype": "float32", "remat": False, "sync_bn": False, "frozen_bn": False}
    return models.create(ConfigDict(fields | {"options": options}), classes, AXIS)


def names(model, size=CANVAS):
    return torch_shapes(jax.eval_shape(lambda: models.init(model, jax.random.key(0), size)))


def small_body():
    return ResNet(BasicBlock, (1, 1, 1, 1), width=4)


def test_every_model_states_what_its_call_reads():
    heads = {"multitask": {"kind": {"name": "linear"}}}
    made = {name: models.build(name, 3, heads.get(name)) for name in models.models()}
    reads = {name: model.reads for name, model in made.items() if model.reads}
    several = {"multitask", "panoptic_fpn_resnet50"}
    two_stage = {name for name in made if name.startswith(("fasterrcnn", "maskrcnn"))}
    assert {name for name, each in reads.items() if each == ("targets",)} == two_stage | several
    pooled = ("deeplab", "pspnet")
    assert {name for name, each in reads.items() if each == ("sizes",)} == {n for n in made if n.startswith(pooled)}
    assert {n.rstrip("0123456789_bn") for n, model in made.items() if model.has_features} >= {
        "vgg",
        "alexnet",
        "resnet",
    }
    assert not make("retinanet_resnet50_fpn").has_features


def test_options_of_the_last_step_are_the_models():
    assert models.options("ssd300_vgg16") == {
        "score_threshold": 0.01,
        "nms_threshold": 0.45,
        "detections": 200,
        "topk_candidates": 400,
    }
    assert "topk_candidates" not in models.options("fasterrcnn_resnet50_fpn")
    assert make("yolox_nano", nms_threshold=0.5).post_process == PostProcess(0.01, 0.5, 300, 1000)
    with pytest.raises(UserError, match="options.rpn_head: fasterrcnn_resnet50_fpn has no such option"):
        make("fasterrcnn_resnet50_fpn", rpn_head="mine")


def test_the_example_in_faster_rcnns_docstring_runs():
    done = doctest.testmod(faster_rcnn)
    assert done.attempted > 10 and done.failed == 0


def test_given_parts_have_the_references_names():
    """With modules like the standard ones in every field, parameters keep their names and shapes."""
    standard = FasterRCNN(num_classes=3, **TINY)
    given = standard.clone(
        rpn_head=rpn.RPNHead(1, 3),
        box_roi_pool=lambda maps, boxes, canvas: multilevel_roi_align(maps[:-1], boxes, canvas, 7),
        box_head=faster_rcnn.roi_heads.TwoMLPHead(8),
        box_predictor=faster_rcnn.roi_heads.FastRCNNPredictor(4),
        rpn_anchor_generator=AnchorGenerator(tuple((16 * 2**level,) for level in range(5))),
    )
    assert names(given) == names(standard)
    params = [jax.jit(lambda m=m: models.init(m, jax.random.key(0), CANVAS))()["params"] for m in (given, standard)]
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_a_given_backbone_has_the_names_of_torchvisions():
    body = Backbone(small_body(), ("layer1", "layer2", "layer3", "layer4"), FeaturePyramid("pool", 8))
    found = names(FasterRCNN(num_classes=3, backbone=body, head_width=8, anchor_size=16))
    assert {"backbone.body.layer4.0.conv1.weight", "backbone.fpn.inner_blocks.3.0.bias"} <= found.keys()
    levels = Backbone(small_body(), ("layer2", "layer3", "layer4"), FeaturePyramid("p5", 8))
    assert "backbone.fpn.extra_blocks.p7.weight" in names(RetinaNet(num_classes=3, backbone=levels))


class OneLevelHead(nn.Module):
    boxes: int

    @nn.compact
    def __call__(self, maps, *, train):
        found = [conv(n * self.boxes, 1, dtype=jnp.float32, name=name)(maps[0]) for name, n in (("cls", 4), ("box", 4))]
        return {key: x.reshape(len(x), -1, 4) for key, x in zip(("cls_logits", "bbox_regression"), found, strict=True)}


class YOLOXHead(nn.Module):
    @nn.compact
    def __call__(self, maps, *, train):
        found = [conv(8, 1, dtype=jnp.float32, name=f"level{i}")(x).reshape(len(x), -1, 8) for i, x in enumerate(maps)]
        x = jnp.concatenate(found, axis=1)
        return x[..., :4], x[..., 4], x[..., 5:]


@pytest.mark.parametrize(
    "model",
    [
        RetinaNet(
            num_classes=3,
            backbone=Backbone(small_body(), ("layer3",)),
            anchor_generator=AnchorGenerator(((16, 32),), (1.0,)),
            head=OneLevelHead(2),
        ),
        SSD(
            num_classes=3,
            backbone=Backbone(small_body(), ("layer3",)),
            anchor_generator=DefaultBoxGenerator(((2,),), scales=(0.2, 0.4)),
            head=OneLevelHead(4),
        ),
        YOLOX(num_classes=3, backbone=Backbone(small_body(), ("layer2", "layer3", "layer4")), head=YOLOXHead()),
    ],
    ids=lambda model: type(model).__name__,
)
def test_one_stage_detectors_take_a_backbone_and_a_head(model):
    def run(images):
        variables = model.init(jax.random.key(0), images, train=False)
        outputs = model.apply(variables, images, train=False)
        losses = model.loss(outputs, TARGETS | {"closed": jnp.ones(1, bool)})
        return model.detect(outputs, TARGETS["size"]), losses

    found, losses = jax.eval_shape(run, jnp.zeros((1, *CANVAS, 3)))
    assert found["boxes"].shape == (1, model.post_process.detections, 4)
    assert all(loss.shape == () for loss in losses.values())


class MaskRCNN(FasterRCNN):
    """A mask branch on samples or final boxes, and a semantic head on the pyramid, added to Faster R-CNN's parts."""

    @nn.nowrap
    def further_heads(self, maps, outputs, canvas, sizes, train):
        semantic = conv(self.num_classes, 1, dtype=self.dtype, name="semantic_head")(maps[0])
        found = {} if train else {"detections": self.detect(outputs, sizes)}
        boxes = outputs["box_samples"]["boxes"] if train else found["detections"]["boxes"]
        x = multilevel_roi_align(maps[:-1], boxes, canvas, 14)
        x = relu(conv(8, 3, dtype=self.dtype, name="roi_heads.mask_head.0.0")(x.reshape(-1, *x.shape[2:])))
        x = relu(ConvTranspose(8, 2, 2, dtype=self.dtype, name="roi_heads.mask_predictor.conv5_mask")(x))
        x = conv(self.num_classes, 1, dtype=self.dtype, name="roi_heads.mask_predictor.mask_fcn_logits")(x)
        masks = x.reshape(*boxes.shape[:2], *x.shape[1:])
        return found | {"semantic": resize_bilinear(semantic, *canvas), "mask_logits": masks}


def test_masks_and_semantics_are_heads_beside_the_boxes():
    model = MaskRCNN(num_classes=3, box_samples=6, proposals=20, train_proposals=20, **TINY)
    model = model.clone(post_process=PostProcess(0.05, 0.5, detections=10))
    images = jnp.zeros((1, *CANVAS, 3))
    variables = jax.eval_shape(lambda: models.init(model, jax.random.key(0), CANVAS))
    assert names(model).keys() > names(FasterRCNN(num_classes=3, **TINY)).keys()

    def trained(variables):
        options = {"rngs": {"sampling": jax.random.key(0)}, "mutable": ["batch_stats"]}
        outputs, _ = model.apply(variables, images, train=True, targets=TARGETS, **options)
        return outputs["mask_logits"], model.loss(outputs, TARGETS)

    masks, losses = jax.eval_shape(trained, variables)
    assert masks.shape == (1, 6, 28, 28, 3) and len(losses) == 4
    found = jax.eval_shape(partial(model.apply, train=False), variables, images)
    assert found["mask_logits"].shape == (1, 10, 28, 28, 3) and found["detections"]["boxes"].shape == (1, 10, 4)
    assert found["semantic"].shape == (1, *CANVAS, 3)


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50", "deeplabv3plus_resnet50", "pspnet_resnet50"])
def test_segmenters_take_a_classifier_and_an_auxiliary_one(name):
    class Mine(nn.Module):
        @nn.compact
        def __call__(self, *maps_and_cells, train):
            return segmentation.classify(3, 8, jnp.float32, "mine")(maps_and_cells[0])

    model = make(name).clone(classifier=Mine(), aux_classifier=segmentation.FCNHead(3))
    first, second = model.head_names
    heads = {key for key in names(model) if not key.startswith("backbone.")}
    assert {f"{first}.mine.weight", f"{first}.mine.bias"} == {key for key in heads if key.startswith(f"{first}.")}
    assert f"{second}.4.weight" in heads


# Of (0, 0, 20, 20) and (2, 3, 22, 19): 18 x 16 in common, 22 x 20 around both, centres (2, 1) apart.
IOU = 288 / (400 + 320 - 288)
GIOU = IOU - (440 - 432) / 440
DIOU = IOU - (4 + 1) / (22**2 + 20**2)
V = 4 / np.pi**2 * (np.arctan(20 / 16) - np.arctan(1)) ** 2
CIOU = DIOU - V * V / (1 - IOU + V)
L1 = 2 / 20 + 1 / 20 + np.log(20 / 16)


@pytest.mark.parametrize(("kind", "loss"), [("l1", L1), ("giou", 1 - GIOU), ("diou", 1 - DIOU), ("ciou", 1 - CIOU)])
def test_box_losses_are_options_normalised_alike(kind, loss):
    """One matched anchor of two sampled ones: the loss of its decoded box, divided as the default's is."""
    anchors = jnp.array([[0, 0, 20.0, 20], [0, 0, 40, 40]])
    samples = {
        "number": jnp.array([[0, 1]]),
        "positive": jnp.array([[True, False]]),
        "matched": jnp.array([[[2, 3, 22.0, 19], [0, 0, 0, 0]]]),
        "used": jnp.array([[True, True]]),
    }
    deltas = jnp.zeros((1, 2, 4))
    losses = rpn.rpn_loss(jnp.zeros((1, 2)), deltas, anchors, samples, kind, 1.0)
    np.testing.assert_allclose(losses["rpn_bbox_regression"], loss / 2, rtol=1e-5)
    for name in ("retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn"):
        assert make(name, box_loss=kind).box_loss == kind
        with pytest.raises(UserError, match="config.model.options.box_loss is 'iou', which is none of"):
            names(make(name, box_loss="iou"))


def test_each_version_of_retinanet_has_torchvisions_box_loss():
    found = {version: RetinaNet(version=version)._versions_box_loss() for version in (1, 2)}
    assert found == {1: "l1", 2: "giou"}


def test_an_unknown_option_in_python_is_told_with_the_options_that_there_are():
    with pytest.raises(UserError, match="^zzz: unet has no such option; it has .*width.*[^}]$"):
        models.build("unet", zzz=1)
