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
from morphism.models.base import Images, Sizes
from morphism.models.detection import CODE_WEIGHTS, Detections, Detector, PostProcess, Targets, trainable
from morphism.models.fpn import Maps
from morphism.models.layers import Dtype, conv, max_pool, relu
from morphism.ops.anchors import DefaultBoxGenerator
from morphism.ops.boxes import clip, decode, encode, iou, smooth_l1
from morphism.ops.losses import cross_entropy, masked_mean
from morphism.ops.matching import match_ssd
from morphism.ops.precision import full_precision

xavier = nn.initializers.glorot_uniform()  # torch.nn.init.xavier_uniform_

ASPECT_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))  # per map, besides the squares
SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)  # of a map's boxes, as a fraction of the image's side
STEPS = (8, 16, 32, 64, 100, 300)  # strides of the maps in pixels, at 300x300
MIN_SIZE = 268
MATCH_IOU = 0.5  # default boxes of at least this IoU are an object's
NEGATIVES = 3  # per matched default box
NORM_SCALE = 20.0  # initial length of conv4_3's normalised vectors: Liu et al., section 3.1


class Backbone(nn.Module):
    """VGG-16 up to conv5_3, its dense layers as convolutions, and four more pairs of convolutions.

    images [B, H, W, 3] -> six maps, finest first: of 38, 19, 10, 5, 3 and 1 pixels per side at 300x300.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> list[Float[Array, "b _h _w _c"]]:
        def block(x: Array, name: str, *args: int, **options: Any) -> Array:
            return relu(conv(*args, dtype=self.dtype, bias=True, **options, name=name)(x))

        x, index = jnp.asarray(images, self.dtype), 0
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
    """Each pixel's vector divided by its length, or by 1e-12 if that is more: torch.nn.functional.normalize."""
    return x / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


class Head(nn.Module):
    """A 3x3 convolution per map, to `outputs` values per default box.

    maps, finest first -> [B, A, outputs]; A goes over the maps, and within each over rows, columns and the pixel's
    boxes, `per_position` of that map.
    """

    outputs: int
    per_position: tuple[int, ...]
    dtype: Dtype

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "b a {self.outputs}"]:
        found = []
        for index, (x, boxes) in enumerate(zip(maps, self.per_position, strict=True)):
            channels = self.outputs * boxes
            x = conv(channels, 3, dtype=self.dtype, bias=True, kernel_init=xavier, name=f"module_list.{index}")(x)
            found.append(x.reshape(x.shape[0], -1, self.outputs))
        return jnp.concatenate(found, axis=1)


class SSD(Detector):
    """images [B, H, W, 3], H and W >= 268, published for 300  ->  what `loss` and `detect` read.

    Args:
      post_process: options of the last step.
      backbone: module, called as backbone(images, train=) -> maps, finest first.
      anchor_generator: DefaultBoxGenerator for these maps.
      head: module, called as head(maps, train=) -> {"cls_logits": [B, A, K + 1], "bbox_regression": [B, A, 4]}.

    Returns, all float32:
      cls_logits [B, A, K + 1], output 0 being the background and output c + 1 class c; bbox_regression [B, A, 4];
      anchors [A, 4], the default boxes in pixels.

    Raises UserError for images that the standard backbone pools away.
    """

    num_classes: int = 90
    dtype: Dtype = jnp.float32
    post_process: PostProcess = PostProcess(
        score_threshold=0.01, nms_threshold=0.45, detections=200, topk_candidates=400
    )
    backbone: nn.Module | None = None
    anchor_generator: DefaultBoxGenerator | None = None
    head: nn.Module | None = None

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, Array]:
        height, width = images.shape[1:3]
        if self.backbone is None and min(height, width) < MIN_SIZE:
            raise UserError(
                f"images of {height}x{width} are too small for SSD300, which needs {MIN_SIZE}x{MIN_SIZE}; enlarge "
                "config.data.image_size"
            )
        maps = self.part(self.backbone, partial(Backbone, self.dtype), "backbone")(images, train=train)
        steps = STEPS if (height, width) == (300, 300) else None
        generator = self.anchor_generator or DefaultBoxGenerator(ASPECT_RATIOS, SCALES, steps)
        outputs = jax.tree.map(full_precision, self.predict(maps, generator.per_position, train))
        return outputs | {"anchors": jnp.asarray(generator([x.shape[1:3] for x in maps], (height, width)))}

    @nn.nowrap
    def predict(self, maps: Maps, per_position: tuple[int, ...], train: bool) -> dict[str, Array]:
        """Class logits and box deltas."""
        if self.head is not None:
            return self.part(self.head, None, "head")(maps, train=train)
        classification = Head(self.num_classes + 1, per_position, self.dtype, name="head.classification_head")
        regression = Head(4, per_position, self.dtype, name="head.regression_head")
        return {"cls_logits": classification(maps), "bbox_regression": regression(maps)}

    @nn.nowrap
    def loss(self, outputs: dict[str, Array], targets: Targets) -> dict[str, Float[Array, ""]]:
        """Cross-entropy and smooth L1 loss of the boxes, sums over the batch divided by its number of matched boxes.

        The cross-entropy is that of the matched boxes and, in each image, of three times as many hard negatives: the
        others with the greatest loss.

        Source: Liu et al. 2015, section 2.2; torchvision's compute_loss.
        """
        anchors, logits, boxes = outputs["anchors"], outputs["cls_logits"], targets["boxes"]
        overlap = jax.vmap(iou, (0, None))(boxes, anchors)
        matches = jax.vmap(partial(match_ssd, threshold=MATCH_IOU))(overlap, trainable(targets))
        matched = matches >= 0
        counts = jnp.sum(matched, axis=1, keepdims=True)
        total = jnp.maximum(jnp.sum(counts), 1)

        label = jnp.where(matched, jnp.take_along_axis(targets["classes"], matches, axis=1) + 1, 0)
        entropy = jax.vmap(cross_entropy)(logits, label)
        hardest = jnp.argsort(jnp.where(matched, -jnp.inf, entropy), axis=1, descending=True)
        mined = jnp.arange(len(anchors)) < NEGATIVES * counts
        negatives = jnp.where(mined, jnp.take_along_axis(entropy, hardest, axis=1), 0)

        box = jnp.take_along_axis(boxes, matches[..., None], axis=1)
        distance = smooth_l1(outputs["bbox_regression"] - encode(box, anchors, CODE_WEIGHTS), beta=1)
        return {
            "classification": (jnp.sum(jnp.where(matched, entropy, 0)) + jnp.sum(negatives)) / total,
            "bbox_regression": masked_mean(distance, jnp.broadcast_to(matched[..., None], distance.shape), total),
        }

    @nn.nowrap
    def detect(self, outputs: dict[str, Array], sizes: Sizes) -> Detections:
        """The best detections of each image, by descending score; `sizes` are the images' height and width.

        Candidates are the best boxes of every class.

        Source: torchvision's postprocess_detections.
        """
        anchors = outputs["anchors"]

        def one_image(logits: Float[Array, "a c"], deltas: Float[Array, "a 4"], size: Int[Array, "2"]) -> Detections:
            count = self.post_process.candidates(len(anchors))
            scores, rows = jax.lax.top_k(jax.nn.softmax(logits)[:, 1:].T, count)
            boxes = clip(decode(deltas, anchors, CODE_WEIGHTS), size)
            classes = jnp.broadcast_to(jnp.arange(len(rows))[:, None], rows.shape)
            return self.post_process(boxes[rows.ravel()], scores.ravel(), classes.ravel())

        return jax.vmap(one_image)(outputs["cls_logits"], outputs["bbox_regression"], sizes)


MODELS = {"ssd300_vgg16": SSD}
