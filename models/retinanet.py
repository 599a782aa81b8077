"""RetinaNet as torchvision has it (Lin et al. 2017, "Focal loss for dense object detection").

Submodules carry torchvision's names (torchvision/models/detection/retinanet.py). At 90 classes, where the first has its
batch norm frozen, multiply-accumulates at 800x800, box AP on COCO val2017 of torchvision's COCO_V1:

    retinanet_resnet50_fpn       34,014,999 parameters   151.54 GMAC   36.4
    retinanet_resnet50_fpn_v2    38,198,935              152.24        41.5
"""

import math
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from morphism.errors import UserError, check_choice
from morphism.models import resnet
from morphism.models.detection import Detections, learnt, suppressed
from morphism.models.fpn import FeaturePyramid, Maps
from morphism.models.layers import BatchNorm, Dtype, conv, full_precision, relu
from morphism.ops.anchors import anchors
from morphism.ops.boxes import clip, decode, encode, giou_loss, iou
from morphism.ops.losses import sigmoid_focal
from morphism.ops.matching import BETWEEN, match

ASPECT_RATIOS = (0.5, 1.0, 2.0)
ANCHORS = 9  # at every pixel of a level
MATCH_IOU = (0.4, 0.5)  # anchors below are background, from the second on an object's, between neither
PRIOR = 0.01  # the probability of every class that training begins with: Lin et al., section 4.1


class Head(nn.Module):
    """Four 3x3 convolutions and a last one to `outputs` numbers an anchor, the same at every level.

    maps, finest first -> [B,A,outputs], A over the levels, in each over rows, columns and the pixel's anchors.
    With `normalised` a group norm of 32 groups follows each of the four.
    """

    outputs: int
    last: str
    last_bias: float
    normalised: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "b a {self.outputs}"]:
        layer = partial(conv, kernel=3, dtype=self.dtype, kernel_init=nn.initializers.normal(0.01))
        body = []
        for index in range(4):
            body.append(layer(maps[0].shape[-1], bias=not self.normalised, name=f"conv.{index}.0"))
            if self.normalised:
                norm = partial(nn.GroupNorm, num_groups=32, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype)
                body.append(norm(name=f"conv.{index}.1"))
            body.append(relu)
        bias_init = nn.initializers.constant(self.last_bias)
        body.append(layer(self.outputs * ANCHORS, bias=True, bias_init=bias_init, name=self.last))
        levels = [reduce(lambda x, function: function(x), body, x) for x in maps]
        return jnp.concatenate([x.reshape(len(x), -1, self.outputs) for x in levels], axis=1)


class RetinaNet(nn.Module):
    """images [B,H,W,3], any H and W >= 1  ->  what `loss` and `detect` read.

    cls_logits [B,A,num_classes + 1], where output c + 1 is class c and output 0 is never trained to be any, as in
    torchvision, whose classes begin at 1; bbox_regression [B,A,4]; anchors, a level [A_l,4], in pixels; all float32.

    version: 2 is torchvision's v2: group norm in the heads, P6 and P7 from C5, generalised IoU as the boxes' loss.
    backbone: one of models/resnet.py's; stride_in_1x1 is that of a backbone of bottlenecks.
    bn_epsilon: of the backbone. torchvision sets it to 0 where it loads its COCO_V1 weights, which were trained so.
    backbone_width: its channels in the first stage; channels: those of the pyramid and the heads; anchor_size: of the
    finest level's smallest anchors, in pixels. These, a half or a quarter of torchvision's, make a detector for small
    pictures.
    remat: recomputes each of the backbone's blocks in the backward pass: less memory, more time.
    score_threshold: detections score higher; topk_candidates: the best pairs of anchor and class that a level keeps;
    nms_threshold: the largest IoU of two detections of a class; detections: how many a picture has at most.
    """

    num_classes: int = 90
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    remat: bool = False
    version: int = 1
    backbone: str = "resnet50"
    backbone_width: int = 64
    channels: int = 256
    anchor_size: int = 32
    stride_in_1x1: bool = False
    bn_epsilon: float = 1e-5
    score_threshold: float = 0.05
    topk_candidates: int = 1000
    nms_threshold: float = 0.5
    detections: int = 300

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Any]:
        check_choice("config.model.options.backbone", self.backbone, resnet.MODELS)
        if self.version not in (1, 2):
            raise UserError(f"config.model.options.version is {self.version}; it must be 1 or 2")
        body = resnet.MODELS[self.backbone](
            dtype=self.dtype,
            norm=partial(self.norm, epsilon=self.bn_epsilon),
            remat=self.remat,
            stride_in_1x1=self.stride_in_1x1,
            width=self.backbone_width,
            name="backbone.body",
        )
        maps = body(images, train=train, features=True)
        pyramid = FeaturePyramid("p5" if self.version == 1 else "c5", self.channels, self.dtype, name="backbone.fpn")
        levels = pyramid([maps["layer2"], maps["layer3"], maps["layer4"]])
        head = partial(Head, normalised=self.version == 2, dtype=self.dtype)
        prior = -math.log((1 - PRIOR) / PRIOR)
        classification = head(self.num_classes + 1, "cls_logits", prior, name="head.classification_head")
        regression = head(4, "bbox_reg", 0.0, name="head.regression_head")
        return {
            "cls_logits": full_precision(classification(levels)),
            "bbox_regression": full_precision(regression(levels)),
            "anchors": tuple(
                jnp.asarray(
                    anchors([x.shape[1:3]], images.shape[1:3], [_sizes(self.anchor_size * 2**level)], ASPECT_RATIOS)
                )
                for level, x in enumerate(levels)
            ),
        }

    @nn.nowrap
    def loss(self, outputs: dict[str, Any], targets: dict[str, Array]) -> dict[str, Float[Array, ""]]:
        """The focal loss and the boxes' loss, each a picture's sum by its count of matched anchors, and their means.

        targets: models/detection.py's. Source: Lin et al. 2017, sections 3.2 and 4; torchvision's compute_loss.
        """
        all_anchors = jnp.concatenate(outputs["anchors"])

        def picture(
            logits: Float[Array, "a c"],
            deltas: Float[Array, "a 4"],
            boxes: Float[Array, "n 4"],
            classes: Int[Array, "n"],
            learnt: Bool[Array, "n"],
        ) -> dict[str, Float[Array, ""]]:
            matches = match(iou(boxes, all_anchors), learnt, *MATCH_IOU, force_best=True)
            matched = matches >= 0
            label = jax.nn.one_hot(jnp.where(matched, classes[matches] + 1, -1), logits.shape[-1])
            focal = jnp.where((matches != BETWEEN)[:, None], sigmoid_focal(logits, label), 0)
            if self.version == 1:
                apart = jnp.sum(jnp.abs(deltas - encode(boxes[matches], all_anchors)), axis=-1)
            else:
                apart = giou_loss(decode(deltas, all_anchors), boxes[matches])
            count = jnp.maximum(jnp.sum(matched), 1)
            return {
                "classification": jnp.sum(focal) / count,
                "bbox_regression": jnp.sum(jnp.where(matched, apart, 0)) / count,
            }

        valid = targets["valid"]
        each = jax.vmap(picture)(
            outputs["cls_logits"], outputs["bbox_regression"], targets["boxes"], targets["classes"], learnt(targets)
        )
        pictures = jnp.maximum(jnp.sum(valid), 1)
        return {name: jnp.sum(jnp.where(valid, value, 0)) / pictures for name, value in each.items()}

    @nn.nowrap
    def detect(self, outputs: dict[str, Any], sizes: Int[Array, "b 2"]) -> Detections:
        """Of each picture the best detections, by falling score; `sizes` are the pictures' height and width.

        Of every level the best pairs of anchor and class, then non-maximum suppression in each class: torchvision's
        postprocess_detections, which may also detect its class 0, that no box is of.
        """
        ends = np.cumsum([len(level) for level in outputs["anchors"]])[:-1]

        def picture(
            logits: Float[Array, "a c"], deltas: Float[Array, "a 4"], size: Int[Array, "2"]
        ) -> dict[str, Array]:
            levels = zip(jnp.split(logits[:, 1:], ends), jnp.split(deltas, ends), outputs["anchors"], strict=True)
            found = [_best_pairs(*level, self.topk_candidates) for level in levels]
            scores, classes, boxes = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
            return suppressed(
                clip(boxes, size), scores, classes, self.score_threshold, self.nms_threshold, self.detections
            )

        return jax.vmap(picture)(outputs["cls_logits"], outputs["bbox_regression"], sizes)


def _sizes(size: int) -> tuple[int, int, int]:
    """A third of an octave apart, rounded as torchvision rounds them."""
    return size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))


def _best_pairs(
    logits: Float[Array, "a k"], deltas: Float[Array, "a 4"], level: Float[Array, "a 4"], count: int
) -> tuple[Float[Array, "n"], Int[Array, "n"], Float[Array, "n 4"]]:
    """Scores, classes and boxes of the `count` best pairs of anchor and class, or of all, if there are fewer.

    They are pairs of the `count` anchors whose best class is best, so that few of the many logits are sorted.
    """
    anchors, classes = logits.shape
    _, rows = jax.lax.top_k(jnp.max(logits, axis=-1), min(count, anchors))
    best, pairs = jax.lax.top_k(logits[rows].ravel(), min(count, len(rows) * classes))
    rows = rows[pairs // classes]
    return jax.nn.sigmoid(best), pairs % classes, decode(deltas[rows], level[rows])


MODELS = {
    "retinanet_resnet50_fpn": partial(RetinaNet),
    "retinanet_resnet50_fpn_v2": partial(RetinaNet, version=2),
}
