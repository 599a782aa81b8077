"""The second stage of R-CNN: classifies proposals and refines their boxes.

Shapes: B images, P proposals, n = B P, K classes; output 0 is the background, output c + 1 is class c.

Source: Ren et al. 2015, "Faster R-CNN"; Girshick 2015, "Fast R-CNN"; torchvision/models/detection/roi_heads.py and
faster_rcnn.py, whose names the modules carry.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from morphism.models import resnet
from morphism.models.detection import CODE_WEIGHTS, Detections, PostProcess
from morphism.models.layers import Dtype, conv, flatten, relu, torch_bias, torch_uniform
from morphism.ops.boxes import at_least, clip, decode, iou, regression_loss
from morphism.ops.losses import cross_entropy, masked_mean
from morphism.ops.matching import BELOW, match
from morphism.ops.precision import full_precision
from morphism.ops.sampling import sample_balanced

MATCH_IOU = (0.5, 0.5)  # proposals below are background, others an object's
POSITIVES = 0.25  # of the sampled proposals, at most
MIN_SIDE = 1e-2  # of a detection, in pixels

Samples = dict[str, Array]


def linear(features: int, name: str, dtype: Dtype, fan_in: int) -> nn.Dense:
    """torch.nn.Linear with torch's initial values."""
    inits = {"kernel_init": torch_uniform, "bias_init": torch_bias(fan_in)}
    return nn.Dense(features, dtype=dtype, **inits, name=name)


class TwoMLPHead(nn.Module):
    """Two dense layers: [n, 7, 7, C] -> [n, width]."""

    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n {self.width}"]:
        x = flatten(x)
        for name in ("fc6", "fc7"):
            x = relu(linear(self.width, name, self.dtype, x.shape[-1])(x))
        return x


class FastRCNNConvFCHead(nn.Module):
    """Four 3x3 convolutions with batch norm and a dense layer: [n, 7, 7, C] -> [n, width]."""

    width: int
    norm: partial
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n {self.width}"]:
        for index in range(4):
            x = conv(x.shape[-1], 3, dtype=self.dtype, name=f"{index}.0")(x)
            x = relu(self.norm(train=train, name=f"{index}.1")(x))
        x = flatten(x)
        return relu(linear(self.width, "5", self.dtype, x.shape[-1])(x))


class Res5Head(nn.Module):
    """The last stage of a ResNet and the mean over its pixels: [n, 14, 14, C] -> [n, 2C].

    backbone: one of models/resnet.py's; width: channels of its first stage; stride_in_1x1: of its bottlenecks.

    Source: detectron2/modeling/roi_heads/roi_heads.py, Res5ROIHeads.
    """

    backbone: str
    width: int
    stride_in_1x1: bool
    norm: partial
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n d"]:
        shape = resnet.MODELS[self.backbone].keywords
        block, channels, groups = shape["block"], 8 * self.width, shape.get("groups", 1)
        norm = partial(self.norm, train=train)
        options: dict[str, Any] = {"norm": norm, "dtype": self.dtype, "zero_init_residual": False}
        if block is resnet.Bottleneck:
            width = channels * shape.get("width_per_group", 64) // 64 * groups
            options |= {"width": width, "groups": groups, "dilation": 1, "stride_in_1x1": self.stride_in_1x1}
        for index in range(shape["layers"][3]):
            x = block(channels=channels, stride=1 if index else 2, **options, name=f"layer4.{index}")(x)
        return jnp.mean(full_precision(x), axis=(1, 2))


class FastRCNNPredictor(nn.Module):
    """Logits [n, K + 1] and box deltas per class [n, K + 1, 4] of box features [n, F], in float32.

    Without `background` that output has no deltas of its own but zeros, which nothing reads, as in detectron2.
    """

    outputs: int  # K + 1
    background: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "n f"]) -> tuple[Float[Array, "n k"], Float[Array, "n k 4"]]:
        x = full_precision(x)
        logits = linear(self.outputs, "cls_score", x.dtype, x.shape[-1])(x)
        regressed = self.outputs if self.background else self.outputs - 1
        deltas = linear(4 * regressed, "bbox_pred", x.dtype, x.shape[-1])(x).reshape(x.shape[0], regressed, 4)
        return logits, jnp.pad(deltas, ((0, 0), (self.outputs - regressed, 0), (0, 0)))


def sample_proposals(
    count: int,
    key: Key[Array, ""],
    proposals: Float[Array, "p 4"],
    used: Bool[Array, "p"],
    boxes: Float[Array, "n 4"],
    classes: Int[Array, "n"],
    trainable: Bool[Array, "n"],
    valid: Bool[Array, ""],
) -> Samples:
    """Samples the proposals used for one image's loss, the ground truth counting as proposals too.

    Args:
      count: proposals sampled per image.
      key: of the draw.
      proposals, used: of the RPN, and which of them are there.
      boxes, classes, trainable: ground truth, and which slots to train on.
      valid: False for a row of padding.

    Returns, per sample, its `boxes`, the `label` (0 for the background, c + 1 for class c), the ground truth that it is
    `matched` with and the `object`, its slot, and whether the sample is `used`; in a row of padding none is. Positive
    samples come first.
    """
    proposals, usable = jnp.concatenate([proposals, boxes]), jnp.concatenate([used, trainable])
    matches = match(iou(boxes, proposals), trainable, *MATCH_IOU, force_best=False)
    positive, negative = usable & (matches >= 0), usable & (matches == BELOW)
    number, positive, used = sample_balanced(key, positive, negative, count, POSITIVES)
    matched = jnp.maximum(matches[number], 0)
    return {
        "boxes": proposals[number],
        "label": jnp.where(positive & valid, classes[matched] + 1, 0),
        "matched": boxes[matched],
        "object": matched,
        "used": used & valid,
    }


def roi_loss(
    logits: Float[Array, "b p k"], deltas: Float[Array, "b p k 4"], samples: Samples, box_loss: str, beta: float
) -> dict[str, Float[Array, ""]]:
    """Cross-entropy of the classes and box loss of the positive proposals, divided by the number of samples.

    `samples` are those of `sample_proposals`; `box_loss` and `beta` those of ops/boxes.py's regression_loss.

    Source: Girshick 2015, "Fast R-CNN", section 2.3; torchvision's fastrcnn_loss.
    """
    label, used = samples["label"], samples["used"]
    pred_deltas = jnp.take_along_axis(deltas, label[..., None, None], axis=2)[:, :, 0]
    distance = regression_loss(box_loss, pred_deltas, samples["matched"], samples["boxes"], CODE_WEIGHTS, beta)
    count = jnp.sum(used)
    return {
        "classification": masked_mean(jax.vmap(cross_entropy)(logits, label), used, count),
        "bbox_regression": masked_mean(distance, label > 0, count),
    }


def detect_in_image(
    post_process: PostProcess,
    logits: Float[Array, "p k"],
    deltas: Float[Array, "p k 4"],
    proposals: Float[Array, "p 4"],
    valid: Bool[Array, "p"],
    size: Int[Array, "2"],
) -> Detections:
    """The detections in one image of `size` = height, width: each proposal is a candidate for every class.

    Source: torchvision's postprocess_detections.
    """
    classes, threshold = logits.shape[-1] - 1, max(post_process.score_threshold, 0)
    # The probabilities of a proposal add up to at most 1, which limits how many can exceed the threshold.
    likely = classes if threshold == 0 else min(classes, int(1 / threshold))
    boxes = clip(decode(deltas[:, 1:], proposals[:, None], CODE_WEIGHTS), size).reshape(-1, 4)
    usable = jnp.repeat(valid, classes) & at_least(boxes, MIN_SIDE)
    scores = jnp.where(usable, jax.nn.softmax(logits)[:, 1:].ravel(), -1)
    scores, best = jax.lax.top_k(scores, post_process.candidates(len(proposals) * likely))
    return replace(post_process, score_threshold=threshold)(boxes[best], scores, best % classes)
