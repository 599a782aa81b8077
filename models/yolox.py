"""YOLOX as its authors have it (Ge et al. 2021, "YOLOX: exceeding YOLO series in 2021").

Submodules carry the names of their implementation (yolox/models, release 0.3.0), so that its weights load. At 80
classes, with the box AP on COCO val2017 of its weights of 0.1.1:

    yolox_nano            912,159 parameters    0.523 GMAC at 416    25.8
    yolox_tiny          5,055,855               3.206         416    32.8
    yolox_s             8,968,255              13.343         640    40.5
    yolox_m            25,326,495              36.765         640    46.9
    yolox_l            54,208,895              77.646         640    49.7
    yolox_x            99,071,455             140.705         640    51.1
    yolox_darknet53    63,724,767              92.340         640    47.7
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from morphism.errors import UserError
from morphism.models.base import Images, Sizes
from morphism.models.detection import Detections, Detector, PostProcess, Targets, trainable
from morphism.models.fpn import Maps
from morphism.models.layers import BatchNorm, Dtype, conv, torch_bias, torch_uniform
from morphism.models.yolox_backbones import PAFPN, BaseConv, DarknetFPN, Depthwise
from morphism.ops.boxes import clip, squared_iou_loss, to_center
from morphism.ops.losses import binary_cross_entropy, masked_mean
from morphism.ops.precision import full_precision
from morphism.ops.simota import simota

STRIDES = (8, 16, 32)
PRIOR = 0.01  # initial probability of an object, and of every class
BOX_WEIGHT = 5.0  # of the box loss relative to the others
LARGEST_LOG = 20.0  # decoded sides are at most e^20 strides, beyond any image, so that they stay finite


class Head(nn.Module):
    """The decoupled head: at every level two 3x3 convolutions for the class, and two for box and objectness.

    maps, finest first -> box [B, A, 4], objectness [B, A] and class logits [B, A, K]; A goes over the levels, and
    within each over rows and columns.
    """

    num_classes: int
    channels: int
    block: Any
    wide: Any
    dtype: Dtype

    @nn.compact
    def __call__(
        self, maps: Maps, *, train: bool
    ) -> tuple[Float[Array, "b a 4"], Float[Array, "b a"], Float[Array, "b a k"]]:
        prior = nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
        last = {"dtype": self.dtype, "bias": True, "kernel_init": torch_uniform}
        found = []
        for level, x in enumerate(maps):
            x = self.block(self.channels, 1, name=f"stems.{level}")(x, train=train)
            branches = []
            for branch in ("cls_convs", "reg_convs"):
                y = x
                for index in range(2):
                    y = self.wide(self.channels, 3, name=f"{branch}.{level}.{index}")(y, train=train)
                branches.append(y)
            class_features, box_features = branches
            levels = (
                conv(4, 1, **last, bias_init=torch_bias(self.channels), name=f"reg_preds.{level}")(box_features),
                conv(1, 1, **last, bias_init=prior, name=f"obj_preds.{level}")(box_features),
                conv(self.num_classes, 1, **last, bias_init=prior, name=f"cls_preds.{level}")(class_features),
            )
            found.append([y.reshape(y.shape[0], -1, y.shape[-1]) for y in levels])
        box, objectness, classes = (jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return box, objectness[..., 0], classes


class YOLOX(Detector):
    """images [B, H, W, 3], RGB of 0..255, H and W multiples of 32  ->  what `loss` and `detect` read.

    The published networks were trained on OpenCV's images, blue first. The model reverses the channels itself, so that
    every model here takes RGB.

    Args:
      depth, width: of the network, as fractions of yolox_l's.
      depthwise: its 3x3 convolutions are depthwise.
      darknet53: YOLOv3's backbone and neck instead.
      bn_epsilon, bn_momentum: of the batch norms, as published.
      center_radius, centers_only: of ops/simota.py.
      post_process: options of the last step.
      backbone: module, called as backbone(images, train=) -> three maps at strides 8, 16 and 32; images are blue first.
      head: module, called as head(maps, train=) -> box [B, A, 4], objectness [B, A], class logits [B, A, K].
    The call takes `maps`, three at strides 8, 16 and 32, in place of the backbone's.

    Returns, all float32:
      bbox_regression [B, A, 4], objectness [B, A], cls_logits [B, A, K]; corners [A, 2], the upper left corner of each
      cell, x and y in cells; strides [A] in pixels.

    Raises UserError for images of other sizes.
    """

    num_classes: int = 80
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    depth: float = 1.0
    width: float = 1.0
    depthwise: bool = False
    darknet53: bool = False
    bn_epsilon: float = 1e-3
    bn_momentum: float = 0.03
    center_radius: float = 2.5
    centers_only: bool = False
    post_process: PostProcess = PostProcess(
        score_threshold=0.01, nms_threshold=0.65, detections=300, topk_candidates=1000
    )
    backbone: nn.Module | None = None
    head: nn.Module | None = None

    @nn.compact
    def __call__(self, images: Images, *, train: bool, maps: Maps | None = None) -> dict[str, Array]:
        height, width = images.shape[1:3]
        check_size("YOLOX", height, width)
        parts = self.blocks()
        if maps is None:
            maps = self.maps(images, train)
        head = partial(Head, self.num_classes, int(256 * self.width), **parts, dtype=self.dtype)
        box, objectness, classes = map(full_precision, self.part(self.head, head, "head")(maps, train=train))
        corners, strides = cells(height, width)
        return {
            "bbox_regression": box,
            "objectness": objectness,
            "cls_logits": classes,
            "corners": jnp.asarray(corners),
            "strides": jnp.asarray(strides),
        }

    @nn.nowrap
    def blocks(self) -> dict[str, partial]:
        """What makes a convolution with batch norm and activation, and what makes those of 3x3."""
        options = {
            "norm": partial(self.norm, epsilon=self.bn_epsilon, momentum=self.bn_momentum),
            "dtype": self.dtype,
        }
        block = partial(BaseConv, **options, activation="lrelu" if self.darknet53 else "silu")
        return {"block": block, "wide": partial(Depthwise, **options) if self.depthwise else block}

    @nn.nowrap
    def maps(self, images: Images, train: bool, **options: bool) -> Maps:
        """The maps of the backbone, a part of the module that is being called; images are RGB of 0..255.

        `options` are those of the backbone's call.
        """
        parts = self.blocks()
        neck = (
            partial(DarknetFPN, parts["block"]) if self.darknet53 else partial(PAFPN, self.depth, self.width, **parts)
        )
        images = jnp.asarray(images[..., ::-1], self.dtype)
        return self.part(self.backbone, neck, "backbone")(images, train=train, **options)

    @nn.nowrap
    def loss(self, outputs: dict[str, Array], targets: Targets) -> dict[str, Float[Array, ""]]:
        """Sums over the batch, divided by its number of cells with an object, which SimOTA assigns.

        box: 5 (1 - IoU^2); objectness: binary cross-entropy of all cells; classification: binary cross-entropy of all
        classes, the target of the object's class being the IoU of its box; l1: distance of the box regression from its
        targets, in images that targets["closed"] (bool [B]) marks: those of the last epochs, without mosaic.

        Source: yolox/models/yolo_head.py, get_losses.
        """
        corners, strides, boxes = outputs["corners"], outputs["strides"], targets["boxes"]
        predicted = decode(outputs["bbox_regression"], corners, strides)
        assign = partial(simota, center_radius=self.center_radius, centers_only=self.centers_only)
        matches, overlap = jax.vmap(assign, (0, 0, 0, None, None, 0, 0, 0))(
            *(outputs["cls_logits"], outputs["objectness"], predicted, (corners + 0.5) * strides[:, None], strides),
            *(boxes, targets["classes"], trainable(targets)),
        )
        matched = matches >= 0
        box = jnp.take_along_axis(boxes, matches[..., None], axis=1)
        label = jnp.take_along_axis(targets["classes"], matches, axis=1)
        mean = partial(masked_mean, count=jnp.sum(matched))

        # Cells without an object are their own target here, so that no infinite value enters the gradient.
        box_loss = squared_iou_loss(jnp.where(matched[..., None], predicted, box), box)
        target = overlap[..., None] * jax.nn.one_hot(label, self.num_classes)
        classes = jnp.sum(binary_cross_entropy(outputs["cls_logits"], target), axis=-1)
        objects = binary_cross_entropy(outputs["objectness"], matched.astype(jnp.float32))
        distance = jnp.sum(jnp.abs(outputs["bbox_regression"] - encode(box, corners, strides)), axis=-1)
        return {
            "box": BOX_WEIGHT * mean(box_loss, matched),
            "objectness": mean(objects, jnp.broadcast_to(targets["valid"][:, None], objects.shape)),
            "classification": mean(classes, matched),
            "l1": mean(distance, matched & targets["closed"][:, None]),
        }

    @nn.nowrap
    def detect(self, outputs: dict[str, Array], sizes: Sizes) -> Detections:
        """The best detections of each image, by descending score; `sizes` are the images' height and width.

        Candidates are the best cells; a cell detects its likeliest class, and scores p(object) p(class).

        Source: yolox/utils/boxes.py, postprocess, which keeps all cells above the threshold, and the parts of boxes
        outside the image.
        """
        corners, strides = outputs["corners"], outputs["strides"]

        def one_image(
            logits: Float[Array, "a k"], objectness: Float[Array, "a"], box: Float[Array, "a 4"], size: Int[Array, "2"]
        ) -> Detections:
            scores = jax.nn.sigmoid(objectness) * jax.nn.sigmoid(jnp.max(logits, axis=-1))
            scores, rows = jax.lax.top_k(scores, self.post_process.candidates(len(scores)))
            boxes, classes = decode(box[rows], corners[rows], strides[rows]), jnp.argmax(logits[rows], axis=-1)
            found = self.post_process(boxes, scores, classes)
            return found | {"boxes": clip(found["boxes"], size)}

        return jax.vmap(one_image)(outputs["cls_logits"], outputs["objectness"], outputs["bbox_regression"], sizes)


def check_size(name: str, height: int, width: int) -> None:
    """Raises UserError for images whose sides are no multiples of 32."""
    if height % 32 or width % 32:
        raise UserError(
            f"images of {height}x{width}: {name} needs sides that are multiples of 32; set config.data.image_size, "
            "canvases or multi_scale to such"
        )


def cells(height: int, width: int) -> tuple[Float[np.ndarray, "a 2"], Float[np.ndarray, "a"]]:
    """Upper left corners, x and y in cells, and strides in pixels of all cells at strides 8, 16 and 32."""
    corners, strides = [], []
    for stride in STRIDES:
        y, x = np.meshgrid(np.arange(height // stride), np.arange(width // stride), indexing="ij")
        corners.append(np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32))
        strides.append(np.full(x.size, stride, np.float32))
    return np.concatenate(corners), np.concatenate(strides)


def decode(
    regression: Float[Array, "*b a 4"], corners: Float[Array, "a 2"], strides: Float[Array, "a"]
) -> Float[Array, "*b a 4"]:
    """Boxes in pixels, of the centre relative to the cell's corner and the log of width and height, all in strides."""
    center = (regression[..., :2] + corners) * strides[:, None]
    half = 0.5 * jnp.exp(jnp.minimum(regression[..., 2:], LARGEST_LOG)) * strides[:, None]
    return jnp.concatenate([center - half, center + half], axis=-1)


def encode(
    boxes: Float[Array, "*b a 4"], corners: Float[Array, "a 2"], strides: Float[Array, "a"]
) -> Float[Array, "*b a 4"]:
    """Regression targets of boxes, the inverse of `decode`."""
    center, side = to_center(boxes)
    shift = center / strides[:, None] - corners
    return jnp.concatenate([shift, jnp.log(side / strides[:, None] + 1e-8)], axis=-1)


MODELS = {
    "yolox_nano": partial(YOLOX, depth=0.33, width=0.25, depthwise=True),
    "yolox_tiny": partial(YOLOX, depth=0.33, width=0.375),
    "yolox_s": partial(YOLOX, depth=0.33, width=0.5),
    "yolox_m": partial(YOLOX, depth=0.67, width=0.75),
    "yolox_l": partial(YOLOX),
    "yolox_x": partial(YOLOX, depth=1.33, width=1.25),
    "yolox_darknet53": partial(YOLOX, darknet53=True),
}
