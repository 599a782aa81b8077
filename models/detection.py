"""What the detectors share: the contract of a detector, its targets, its last step, and the fields of those on ResNets.

A batch's targets, for a detector's loss:

    boxes [B, N, 4]      x0, y0, x1, y1 in pixels of the network's input
    classes int32 [B, N] 0..K-1, -1 for an unused slot
    crowd bool [B, N]    boxes around many objects, which are not trained on
    masks uint8 [B, N, M, M]  1 within each object, 0 outside, IGNORE where unknown, in the frame of its box
                         (frames.py); only for detectors with a mask head
    valid bool [B]       False for rows of padding
    size int32 [B, 2]    height and width of the image on its canvas, which two-stage detectors read

and `id` and `draw`, int32 [B], which seed the samples of two-stage detectors, and `closed`, bool [B], which marks the
images of the last epochs for YOLOX.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from morphism.errors import UserError, check_choice
from morphism.models import resnet
from morphism.models.base import Features, Images, Model, Sizes
from morphism.models.fpn import FeaturePyramid
from morphism.models.layers import BatchNorm, Dtype
from morphism.ops.boxes import REGRESSION_LOSSES
from morphism.ops.losses import masked_mean
from morphism.ops.nms import nms

CODE_WEIGHTS = (10, 10, 5, 5)  # of the box deltas in SSD and in the second stage of R-CNN

Targets = dict[str, Array | np.ndarray]

# Best first: boxes [B, D, 4] within each image, scores [B, D] in 0..1, classes int32 [B, D] in 0..K-1, and valid bool
# [B, D], False for unused slots, whose boxes and scores are 0 and whose class is -1. A detector with a mask head adds
# masks [B, D, S, S]: the probability of each of S x S equal parts of the box to belong to the object.
Detections = dict[str, Array]


@dataclass(frozen=True)
class PostProcess:
    """The last step of a detector: the best candidates, then non-maximum suppression within each class.

    score_threshold: detections have a higher score.
    nms_threshold: largest IoU of two detections of one class.
    detections: detections per image, at most.
    topk_candidates: candidates that enter the suppression, at most: per level (RetinaNet), per class (SSD) or per image
      (YOLO). None: all.
    """

    score_threshold: float
    nms_threshold: float
    detections: int
    topk_candidates: int | None = None

    def candidates(self, available: int) -> int:
        """How many of the `available` candidates enter the suppression."""
        return available if self.topk_candidates is None else min(self.topk_candidates, available)

    def best_pairs(self, scores: Float[Array, "a k"]) -> tuple[Float[Array, "n"], Int[Array, "n"], Int[Array, "n"]]:
        """Scores, rows and classes of the n best pairs of a box and a class, n being the number of candidates.

        They are pairs of the n boxes whose best class is best, so that few of the many scores are sorted.
        """
        boxes, classes = scores.shape
        _, rows = jax.lax.top_k(jnp.max(scores, axis=-1), self.candidates(boxes))
        best, pairs = jax.lax.top_k(scores[rows].ravel(), self.candidates(len(rows) * classes))
        return best, rows[pairs // classes], pairs % classes

    def __call__(self, boxes: Float[Array, "n 4"], scores: Float[Array, "n"], classes: Int[Array, "n"]) -> Detections:
        """The Detections of one image, without the batch axis."""
        kept, valid = nms(boxes, scores, self.nms_threshold, self.detections, classes, scores > self.score_threshold)
        return {
            "boxes": jnp.where(valid[:, None], boxes[kept], 0),
            "scores": jnp.where(valid, scores[kept], 0),
            "classes": jnp.where(valid, classes[kept], -1).astype(jnp.int32),
            "valid": valid,
        }


SHARED = ("anchors", "corners", "strides")  # outputs of detectors that all images share


class Detector(Model):
    """A model whose outputs are read by its own loss and last step, which have no parameters.

    A field `post_process` holds the PostProcess of its last step. Where the call takes `maps`, they are feature maps in
    place of the model's own backbone's, of which then nothing is built.
    """

    @nn.nowrap
    def loss(self, outputs: dict[str, Any], targets: Targets) -> dict[str, Float[Array, ""]]:
        """The terms of the loss, whose sum is trained; `targets` as above."""
        raise NotImplementedError

    @nn.nowrap
    def detect(self, outputs: dict[str, Any], sizes: Sizes) -> Detections:
        """The best detections of each image, by descending score; `sizes` are the images' height and width."""
        raise NotImplementedError


class ResNetDetector(Detector):
    """The fields of a detector on a ResNet.

    Args:
      version: 2 is torchvision's second version, "v2".
      backbone: one of models/resnet.py's; or, in Python, a module called as backbone(images, train=) -> maps, finest
        first, each half as large as the one before.
      backbone_width: channels of the ResNet's first stage.
      channels: of the feature pyramid, and of the heads on it.
      anchor_size: side of the smallest anchors in pixels. With a half or a quarter of the defaults of these three the
        detector suits small images.
      stride_in_1x1: the stride is on the first 1x1 of a bottleneck (models/resnet.py).
      bn_epsilon: of the batch norms. torchvision sets it to 0 with its COCO_V1 weights, which were trained so.
      box_loss: one of ops/boxes.py's REGRESSION_LOSSES.
      remat: what the backward pass computes again of the backbone's blocks (models/layers.py).
    """

    num_classes: int = 90
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    remat: str = ""
    version: int = 1
    backbone: str | nn.Module = "resnet50"
    backbone_width: int = 64
    channels: int = 256
    anchor_size: int = 32
    stride_in_1x1: bool = False
    bn_epsilon: float = 1e-5
    box_loss: str = "smooth_l1"

    @nn.nowrap
    def resnet_maps(self, images: Images, train: bool, stages: int = 4) -> Features:
        """The feature maps of the first `stages` stages of the ResNet, by their names."""
        make = resnet.MODELS[self.backbone]
        body = make(
            layers=make.keywords["layers"][:stages],
            dtype=self.dtype,
            norm=partial(self.norm, epsilon=self.bn_epsilon),
            remat=self.remat,
            stride_in_1x1=self.stride_in_1x1,
            width=self.backbone_width,
            name="backbone.body",
        )
        return body(images, train=train, features=True)

    @nn.nowrap
    def pyramid(self, train: bool) -> FeaturePyramid:
        """The feature pyramid that the heads work on, as a part of the module that is being called."""
        raise NotImplementedError

    @nn.nowrap
    def check_options(self) -> None:
        """Raises UserError for options out of range."""
        if isinstance(self.backbone, str):
            check_choice("config.model.options.backbone", self.backbone, resnet.MODELS)
        if self.box_loss != type(self).box_loss:
            check_choice("config.model.options.box_loss", self.box_loss, REGRESSION_LOSSES)
        if self.version not in (1, 2):
            raise UserError(f"config.model.options.version is {self.version}; it must be 1 or 2")


def trainable(targets: Targets) -> Bool[Array | np.ndarray, "b n"]:
    """Which slots hold an object to train on: no crowd, no box without area, nothing in a row of padding."""
    has_area = jnp.all(targets["boxes"][..., 2:] > targets["boxes"][..., :2], axis=-1)
    return (targets["classes"] >= 0) & ~targets["crowd"] & has_area & targets["valid"][:, None]


def mean_over_images(
    losses: dict[str, Float[Array, "b"]], valid: Bool[Array | np.ndarray, "b"]
) -> dict[str, Float[Array, ""]]:
    """Means over the images that are no padding."""
    return {name: masked_mean(value, valid, jnp.sum(valid)) for name, value in losses.items()}
