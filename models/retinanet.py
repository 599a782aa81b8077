"""RetinaNet as torchvision has it (Lin et al. 2017, "Focal loss for dense object detection").

Submodules carry torchvision's names (torchvision/models/detection/retinanet.py). At 90 classes, the first with frozen
batch norm, multiply-accumulates at 800x800, box AP on COCO val2017 of torchvision's COCO_V1:

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

from morphism.models.base import Images, Sizes
from morphism.models.detection import Detections, PostProcess, ResNetDetector, Targets, mean_over_images, trainable
from morphism.models.fpn import FeaturePyramid, Maps
from morphism.models.layers import Dtype, conv, relu
from morphism.ops.anchors import AnchorGenerator
from morphism.ops.boxes import clip, decode, iou, regression_loss
from morphism.ops.losses import masked_mean, sigmoid_focal
from morphism.ops.matching import BETWEEN, match
from morphism.ops.precision import full_precision

MATCH_IOU = (0.4, 0.5)  # anchors below are background, from the second on an object's, between them neither
PRIOR = 0.01  # initial probability of every class: Lin et al., section 4.1


class Head(nn.Module):
    """Four 3x3 convolutions and a last one to `outputs` values per anchor, the same at every level.

    maps, finest first -> [B, A, outputs]; A goes over the levels, and within each over rows, columns and the pixel's
    anchors.

    Args:
      outputs: values per anchor.
      anchors: per pixel.
      last, last_bias: name and initial bias of the last convolution.
      normalised: with a group norm of 32 groups after each of the four.
    """

    outputs: int
    anchors: int
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
        body.append(layer(self.outputs * self.anchors, bias=True, bias_init=bias_init, name=self.last))
        levels = [reduce(lambda x, function: function(x), body, x) for x in maps]
        return jnp.concatenate([x.reshape(x.shape[0], -1, self.outputs) for x in levels], axis=1)


class RetinaNet(ResNetDetector):
    """images [B, H, W, 3], any H and W >= 1  ->  what `loss` and `detect` read.

    Args:
      version: 2 has group norm in the heads, P6 and P7 from C5, and generalised IoU as its box loss.
      box_loss: by default the version's, "l1" or "giou".
      post_process: options of the last step.
      anchor_generator: AnchorGenerator with the sizes of each map's anchors.
      head: module, called as head(maps, train=) -> {"cls_logits": [B, A, K + 1], "bbox_regression": [B, A, 4]}.
    The others are those of ResNetDetector. A `backbone` in Python gives all the maps that the heads work on; so do the
    `maps` that the call takes in place of a backbone's: five, at strides 8 to 128.

    Returns, all float32:
      cls_logits [B, A, K + 1], where output c + 1 is class c and output 0 is never trained to be any, as in
      torchvision, whose classes begin at 1; bbox_regression [B, A, 4]; the anchors of each level [A_l, 4] in pixels.
    """

    box_loss: str = ""
    post_process: PostProcess = PostProcess(
        score_threshold=0.05, nms_threshold=0.5, detections=300, topk_candidates=1000
    )
    anchor_generator: AnchorGenerator | None = None
    head: nn.Module | None = None

    @nn.compact
    def __call__(self, images: Images, *, train: bool, maps: Maps | None = None) -> dict[str, Any]:
        self.check_options()
        levels = self.levels(images, train) if maps is None else maps
        generator = self.anchor_generator or AnchorGenerator(
            tuple(octave(self.anchor_size * 2**level) for level in range(len(levels)))
        )
        outputs = self.predict(levels, generator.per_position, train)
        anchors = generator([x.shape[1:3] for x in levels], images.shape[1:3])
        return jax.tree.map(full_precision, outputs) | {"anchors": tuple(map(jnp.asarray, anchors))}

    @nn.nowrap
    def levels(self, images: Images, train: bool) -> Maps:
        """The feature maps that the heads work on, finest first."""
        if not isinstance(self.backbone, str):
            return self.part(self.backbone, None, "backbone")(images, train=train)
        maps = self.resnet_maps(images, train)
        return self.pyramid(train)([maps["layer2"], maps["layer3"], maps["layer4"]])

    @nn.nowrap
    def pyramid(self, train: bool) -> FeaturePyramid:
        return FeaturePyramid("p5" if self.version == 1 else "c5", self.channels, self.dtype, name="backbone.fpn")

    @nn.nowrap
    def predict(self, levels: Maps, anchors: int, train: bool) -> dict[str, Array]:
        """Class logits and box deltas; `anchors` are per pixel."""
        if self.head is not None:
            return self.part(self.head, None, "head")(levels, train=train)
        head = partial(Head, anchors=anchors, normalised=self.version == 2, dtype=self.dtype)
        prior = -math.log((1 - PRIOR) / PRIOR)
        classification = head(self.num_classes + 1, last="cls_logits", last_bias=prior, name="head.classification_head")
        regression = head(4, last="bbox_reg", last_bias=0.0, name="head.regression_head")
        return {"cls_logits": classification(levels), "bbox_regression": regression(levels)}

    @nn.nowrap
    def loss(self, outputs: dict[str, Any], targets: Targets) -> dict[str, Float[Array, ""]]:
        """Focal loss and box loss, each per image divided by its number of matched anchors; means over the images.

        Source: Lin et al. 2017, sections 3.2 and 4; torchvision's compute_loss.
        """
        losses = jax.vmap(partial(self._image_loss, jnp.concatenate(outputs["anchors"])))(
            *(outputs["cls_logits"], outputs["bbox_regression"]),
            *(targets["boxes"], targets["classes"], trainable(targets)),
        )
        return mean_over_images(losses, targets["valid"])

    @nn.nowrap
    def _image_loss(
        self,
        anchors: Float[Array, "a 4"],
        logits: Float[Array, "a c"],
        pred_deltas: Float[Array, "a 4"],
        boxes: Float[Array, "n 4"],
        classes: Int[Array, "n"],
        trainable: Bool[Array, "n"],
    ) -> dict[str, Float[Array, ""]]:
        matches = match(iou(boxes, anchors), trainable, *MATCH_IOU, force_best=True)
        matched = matches >= 0
        label = jax.nn.one_hot(jnp.where(matched, classes[matches] + 1, -1), logits.shape[-1])
        counted = jnp.broadcast_to((matches != BETWEEN)[:, None], label.shape)
        distance = regression_loss(self.box_loss or self._versions_box_loss(), pred_deltas, boxes[matches], anchors)
        count = jnp.sum(matched)
        return {
            "classification": masked_mean(sigmoid_focal(logits, label), counted, count),
            "bbox_regression": masked_mean(distance, matched, count),
        }

    @nn.nowrap
    def detect(self, outputs: dict[str, Any], sizes: Sizes) -> Detections:
        """The best detections of each image, by descending score; `sizes` are the images' height and width.

        Candidates are the best pairs of an anchor and a class of every level.

        Source: torchvision's postprocess_detections, which may also detect its class 0, which no box has.
        """
        ends = np.cumsum([len(level) for level in outputs["anchors"]])[:-1]

        def one_image(logits: Float[Array, "a c"], deltas: Float[Array, "a 4"], size: Int[Array, "2"]) -> Detections:
            found = []
            levels = zip(jnp.split(logits[:, 1:], ends), jnp.split(deltas, ends), outputs["anchors"], strict=True)
            for level_logits, level_deltas, anchors in levels:
                best, rows, classes = self.post_process.best_pairs(level_logits)
                found.append((jax.nn.sigmoid(best), classes, decode(level_deltas[rows], anchors[rows])))
            scores, classes, boxes = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
            return self.post_process(clip(boxes, size), scores, classes)

        return jax.vmap(one_image)(outputs["cls_logits"], outputs["bbox_regression"], sizes)

    @nn.nowrap
    def _versions_box_loss(self) -> str:
        return "l1" if self.version == 1 else "giou"


def octave(size: int) -> tuple[int, int, int]:
    """Three sizes a third of an octave apart, rounded as torchvision rounds them."""
    return size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))


MODELS = {
    "retinanet_resnet50_fpn": partial(RetinaNet),
    "retinanet_resnet50_fpn_v2": partial(RetinaNet, version=2),
}
