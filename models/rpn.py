"""The region proposal network (RPN): finds boxes that may hold an object of any class.

Shapes: B images, A anchors over all levels, P proposals, N slots of ground truth.

Source: Ren et al. 2015, "Faster R-CNN", section 3; torchvision/models/detection/rpn.py, whose names the head carries.
"""

from functools import partial, reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from morphism.models.fpn import Maps
from morphism.models.layers import Dtype, conv, relu
from morphism.ops.boxes import at_least, clip, decode, iou, regression_loss
from morphism.ops.losses import binary_cross_entropy, masked_mean
from morphism.ops.matching import BELOW, match
from morphism.ops.nms import nms
from morphism.ops.sampling import sample_balanced

MATCH_IOU = (0.3, 0.7)  # anchors below are background, from the second on an object's, between them neither
POSITIVES = 0.5  # of the sampled anchors, at most
MIN_SIDE = 1e-3  # of a proposal, in pixels

Samples = dict[str, Array]


class RPNHead(nn.Module):
    """3x3 convolutions, then objectness and box deltas of each of a pixel's anchors.

    maps, finest first -> objectness [B, A], deltas [B, A, 4]; A goes over the levels, and within each over rows,
    columns and the pixel's anchors.

    depth: number of 3x3 convolutions.
    anchors: per pixel.
    """

    depth: int
    anchors: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Maps, *, train: bool) -> tuple[Float[Array, "b a"], Float[Array, "b a 4"]]:
        layer = partial(conv, dtype=self.dtype, bias=True, kernel_init=nn.initializers.normal(0.01))
        body = []
        for index in range(self.depth):
            body += [layer(maps[0].shape[-1], 3, name=f"conv.{index}.0"), relu]
        objectness, deltas = layer(self.anchors, 1, name="cls_logits"), layer(self.anchors * 4, 1, name="bbox_pred")
        levels = [reduce(lambda x, function: function(x), body, x) for x in maps]
        images = maps[0].shape[0]
        return (
            jnp.concatenate([objectness(x).reshape(images, -1) for x in levels], axis=1),
            jnp.concatenate([deltas(x).reshape(images, -1, 4) for x in levels], axis=1),
        )


def propose(
    levels: list[Float[Array, "_a 4"]],
    candidates: int,
    count: int,
    nms_threshold: float,
    objectness: Float[Array, "a"],
    deltas: Float[Array, "a 4"],
    size: Int[Array, "2"],
) -> tuple[Float[Array, "{count} 4"], Float[Array, "{count}"], Bool[Array, "{count}"]]:
    """The proposals of one image, by descending score.

    Args:
      levels: anchors of each level.
      candidates: the best anchors of a level that enter non-maximum suppression, at most.
      count: the best boxes of all levels that are kept, at most.
      nms_threshold: largest IoU of two proposals of one level.
      objectness: logits of the anchors.
      deltas: box deltas of the anchors.
      size: height and width of the image, within which proposals lie.

    Returns:
      Boxes, their scores, and which slots are used; unused ones hold 0.

    Source: Ren et al. 2015, section 3.3; Lin et al. 2016, section 4.1; torchvision's filter_proposals.
    """
    ends = np.cumsum([len(level) for level in levels])[:-1]
    boxes, scores, numbers = [], [], []
    split = zip(levels, jnp.split(objectness, ends), jnp.split(deltas, ends), strict=True)
    for number, (level, logits, level_deltas) in enumerate(split):
        best, rows = jax.lax.top_k(logits, min(candidates, len(level)))
        boxes.append(clip(decode(level_deltas[rows], level[rows]), size))
        scores.append(jax.nn.sigmoid(best))
        numbers.append(jnp.full(len(rows), number))
    boxes, scores, numbers = map(jnp.concatenate, (boxes, scores, numbers))
    kept, valid = nms(boxes, scores, nms_threshold, count, numbers, at_least(boxes, MIN_SIDE))
    return jnp.where(valid[:, None], boxes[kept], 0), jnp.where(valid, scores[kept], 0), valid


def sample_anchors(
    anchors: Float[Array, "a 4"],
    count: int,
    key: Key[Array, ""],
    boxes: Float[Array, "n 4"],
    trainable: Bool[Array, "n"],
    valid: Bool[Array, ""],
) -> Samples:
    """Samples the anchors used for one image's loss.

    Returns, per sample, the anchor's `number`, whether it is `positive`, the ground truth that it is `matched` with,
    and whether the slot is `used`; in a row of padding, whose `valid` is False, none is.
    """
    matches = match(iou(boxes, anchors), trainable, *MATCH_IOU, force_best=True)
    number, positive, used = sample_balanced(key, matches >= 0, matches == BELOW, count, POSITIVES)
    matched = boxes[jnp.maximum(matches[number], 0)]
    return {"number": number, "positive": positive & valid, "matched": matched, "used": used & valid}


def rpn_loss(
    objectness: Float[Array, "b a"],
    deltas: Float[Array, "b a 4"],
    anchors: Float[Array, "a 4"],
    samples: Samples,
    box_loss: str,
    beta: float,
) -> dict[str, Float[Array, ""]]:
    """Binary cross-entropy of the objectness and box loss of positive anchors, divided by the number of samples.

    `samples` are those of `sample_anchors`; `box_loss` and `beta` those of ops/boxes.py's regression_loss.

    Source: Ren et al. 2015, section 3.1.2; torchvision's compute_loss.
    """
    number, positive, used = samples["number"], samples["positive"], samples["used"]
    logits = jnp.take_along_axis(objectness, number, axis=1)
    pred_deltas = jnp.take_along_axis(deltas, number[..., None], axis=1)
    distance = regression_loss(box_loss, pred_deltas, samples["matched"], anchors[number], beta=beta)
    count = jnp.sum(used)
    return {
        "objectness": masked_mean(binary_cross_entropy(logits, positive), used, count),
        "rpn_bbox_regression": masked_mean(distance, positive, count),
    }
