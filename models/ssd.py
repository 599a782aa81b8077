"""SSD300 on VGG-16 as torchvision has it (Liu et al. 2015, "SSD: Single shot multibox detector").

Submodules carry torchvision's names (torchvision/models/detection/ssd.py). At 90 classes:

    ssd300_vgg16    35,641,826 parameters    34.858 GMAC at 300    box AP 25.1 on COCO val2017 (torchvision COCO_V1)
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from morphism.errors import UserError
from morphism.models.detection import Detections, learnt, suppressed
from morphism.models.fpn import Maps
from morphism.models.layers import Dtype, conv, full_precision, max_pool, relu
from morphism.ops.anchors import default_boxes
from morphism.ops.boxes import clip, decode, encode, iou, smooth_l1
from morphism.ops.losses import cross_entropy
from morphism.ops.matching import match_ssd

xavier = nn.initializers.glorot_uniform()  # torch.nn.init.xavier_uniform_

ASPECT_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))  # a map; beside them, squares of two sizes
SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)  # of a map's boxes, as a share of the image's side
STEPS = (8, 16, 32, 64, 100, 300)  # pixels between a map's cells, at 300x300
MIN_SIZE = 268
MATCH_IOU = 0.5  # from which on a default box is an object's
CODE_WEIGHTS = (10, 10, 5, 5)  # of the boxes' coordinates in the regression
NEGATIVES = 3  # for every matched default box
NORM_SCALE = 20.0  # that conv4_3's normalised vectors begin with: Liu et al., section 3.1


class Backbone(nn.Module):
    """VGG-16 up to conv5_3, its dense layers as convolutions, and four pairs of convolutions more.

    images [B,H,W,3] -> six maps, finest first; at 300x300 of 38, 19, 10, 5, 3 and 1 cells a side.
    """

    dtype: Dtype

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b _h _w _c"]]:
        def block(x: Array, name: str, *args: int, **options: Any) -> Array:
            return relu(conv(*args, dtype=self.dtype, bias=True, **options, name=name)(x))

        x, index = images.astype(self.dtype), 0
        for stage, convolutions in enumerate((2, 2, 3, 3)):
            if stage > 0:
                x = max_pool(x, 2, 2, 0, ceil=stage == 3)
                index += 1
            for _ in range(convolutions):
                x = block(x, f"features.{index}", min(64 * 2**stage, 512), 3)
                index += 2
        scale = self.param("scale_weight", nn.initializers.constant(NORM_SCALE), (x.shape[-1],), jnp.float32)
        maps = [(scale * unit(full_precision(x))).astype(self.dtype)]

        x = max_pool(x, 2, 2, 0)
        for index in (1, 3, 5):
            x = block(x, f"extra.0.{index}", 512, 3)
        x = max_pool(x, 3, 1, 1)
        x = block(x, "extra.0.7.1", 1024, 3, dilation=6, kernel_init=xavier)
        x = block(x, "extra.0.7.3", 1024, 1, kernel_init=xavier)
        maps.append(x)
        for index, (channels, stride, pad) in enumerate(((512, 2, 1), (256, 2, 1), (256, 1, 0), (256, 1, 0)), start=1):
            x = block(x, f"extra.{index}.0", channels // 2, 1, kernel_init=xavier)
            x = block(x, f"extra.{index}.2", channels, 3, stride, pad=pad, kernel_init=xavier)
            maps.append(x)
        return maps


def unit(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Every pixel's vector divided by its length, or by 1e-12 if that is more: torch.nn.functional.normalize."""
    return x / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


class Head(nn.Module):
    """A 3x3 convolution a map, to `outputs` numbers a default box.

    maps, finest first -> [B,A,outputs], A over the maps, in each over rows, columns and the cell's boxes.
    """

    outputs: int
    dtype: Dtype

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "b a {self.outputs}"]:
        found = []
        for index, (x, ratios) in enumerate(zip(maps, ASPECT_RATIOS, strict=True)):
            channels = self.outputs * (2 + 2 * len(ratios))
            x = conv(channels, 3, dtype=self.dtype, bias=True, kernel_init=xavier, name=f"module_list.{index}")(x)
            found.append(x.reshape(len(x), -1, self.outputs))
        return jnp.concatenate(found, axis=1)


class SSD(nn.Module):
    """images [B,H,W,3], H and W >= 268, published for 300  ->  what `loss` and `detect` read.

    cls_logits [B,A,num_classes + 1], output 0 the background and c + 1 class c; bbox_regression [B,A,4]; anchors [A,4],
    the default boxes in pixels; all float32.

    score_threshold: detections score higher; topk_candidates: the best boxes that a class keeps; nms_threshold: the
    largest IoU of two detections of a class; detections: how many a picture has at most.
    Raises UserError for images that leave the last maps no cell.
    """

    num_classes: int = 90
    dtype: Dtype = jnp.float32
    score_threshold: float = 0.01
    topk_candidates: int = 400
    nms_threshold: float = 0.45
    detections: int = 200

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Array]:
        height, width = images.shape[1:3]
        if min(height, width) < MIN_SIZE:
            raise UserError(
                f"images of {height}x{width} are too small for SSD300, which needs {MIN_SIZE}x{MIN_SIZE}; enlarge "
                "config.data.image_size"
            )
        maps = Backbone(self.dtype, name="backbone")(images)
        classification = Head(self.num_classes + 1, self.dtype, name="head.classification_head")
        regression = Head(4, self.dtype, name="head.regression_head")
        grids, steps = [x.shape[1:3] for x in maps], STEPS if (height, width) == (300, 300) else None
        return {
            "cls_logits": full_precision(classification(maps)),
            "bbox_regression": full_precision(regression(maps)),
            "anchors": jnp.asarray(default_boxes(grids, (height, width), SCALES, ASPECT_RATIOS, steps)),
        }

    @nn.nowrap
    def loss(self, outputs: dict[str, Array], targets: dict[str, Array]) -> dict[str, Float[Array, ""]]:
        """Cross-entropy and the smooth L1 distance of the boxes, sums over the batch by its count of matched boxes.

        The cross-entropy is that of the matched boxes and, in each picture, of thrice as many of the others: those
        where it is greatest. targets: models/detection.py's. Source: Liu et al. 2015, section 2.2; torchvision's
        compute_loss.
        """
        anchors, logits, boxes = outputs["anchors"], outputs["cls_logits"], targets["boxes"]
        overlap = jax.vmap(iou, (0, None))(boxes, anchors)
        matches = jax.vmap(partial(match_ssd, threshold=MATCH_IOU))(overlap, learnt(targets))
        matched = matches >= 0
        counts = jnp.sum(matched, axis=1, keepdims=True)
        total = jnp.maximum(jnp.sum(counts), 1)

        label = jnp.where(matched, jnp.take_along_axis(targets["classes"], matches, axis=1) + 1, 0)
        entropy = jax.vmap(cross_entropy)(logits, label)
        hardest = jnp.argsort(jnp.where(matched, -jnp.inf, entropy), axis=1, descending=True)
        mined = jnp.arange(len(anchors)) < NEGATIVES * counts
        negatives = jnp.where(mined, jnp.take_along_axis(entropy, hardest, axis=1), 0)

        box = jnp.take_along_axis(boxes, matches[..., None], axis=1)
        apart = smooth_l1(outputs["bbox_regression"] - encode(box, anchors, CODE_WEIGHTS), beta=1)
        return {
            "classification": (jnp.sum(jnp.where(matched, entropy, 0)) + jnp.sum(negatives)) / total,
            "bbox_regression": jnp.sum(jnp.where(matched[..., None], apart, 0)) / total,
        }

    @nn.nowrap
    def detect(self, outputs: dict[str, Array], sizes: Int[Array, "b 2"]) -> Detections:
        """Of each picture the best detections, by falling score; `sizes` are the pictures' height and width.

        Of every class the best boxes, then non-maximum suppression in it: torchvision's postprocess_detections.
        """
        anchors = outputs["anchors"]

        def picture(
            logits: Float[Array, "a c"], deltas: Float[Array, "a 4"], size: Int[Array, "2"]
        ) -> dict[str, Array]:
            scores, rows = jax.lax.top_k(jax.nn.softmax(logits)[:, 1:].T, min(self.topk_candidates, len(anchors)))
            boxes = clip(decode(deltas, anchors, CODE_WEIGHTS), size)
            classes = jnp.broadcast_to(jnp.arange(len(rows))[:, None], rows.shape)
            found = (boxes[rows.ravel()], scores.ravel(), classes.ravel())
            return suppressed(*found, self.score_threshold, self.nms_threshold, self.detections)

        return jax.vmap(picture)(outputs["cls_logits"], outputs["bbox_regression"], sizes)


MODELS = {"ssd300_vgg16": SSD}
