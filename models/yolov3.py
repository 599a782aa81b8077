"""YOLOv3 on Darknet-53 (Redmon and Farhadi 2018, "YOLOv3: an incremental improvement").

At 80 classes, with the box AP on COCO (test-dev, from the paper's table 3) of the authors' weights at 608:

    yolov3_darknet53    61,949,149 parameters    70.35 GMAC at 608, 32.93 at 416, 19.49 at 320    33.0

Layers are named after their numbers in darknet's cfg/yolov3.cfg, which also counts residual sums, upsamplings,
concatenations and detections: `layers.81.conv` is the first of the three layers that predict. Their order is therefore
that of the authors' weights file (weights/darknet.py).
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from morphism.models.base import Images, Sizes
from morphism.models.detection import Detections, Detector, PostProcess, Targets, mean_over_images, trainable
from morphism.models.fpn import upsample
from morphism.models.layers import BatchNorm, Dtype, conv
from morphism.models.yolox import LARGEST_LOG, STRIDES, cells, check_size
from morphism.models.yolox_backbones import leaky
from morphism.ops.boxes import clip, iou, to_center
from morphism.ops.losses import binary_cross_entropy
from morphism.ops.precision import full_precision

# Width and height in pixels, three per stride, the finest first: from k-means over COCO's boxes.
ANCHORS = (
    *((10, 13), (16, 30), (33, 23)),
    *((30, 61), (62, 45), (59, 119)),
    *((116, 90), (156, 198), (373, 326)),
)
PER_CELL = 3
IGNORE_IOU = 0.7  # a predicted box that overlaps an object more is not trained to be background
BLOCKS = (1, 2, 8, 8, 4)  # residual blocks per stage

darknet_uniform = nn.initializers.variance_scaling(2 / 3, "fan_in", "uniform")  # make_convolutional_layer's


class Convolution(NamedTuple):
    """A convolutional layer: its number in the cfg, channels, kernel, stride, and whether it has a batch norm."""

    number: int
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    normalised: bool = True


def backbone() -> Iterator[Convolution]:
    """The convolutions of Darknet-53 without its classifier, in order: layers 0 to 74."""
    yield Convolution(0, 3, 32, 3)
    number, channels = 1, 32
    for blocks in BLOCKS:
        yield Convolution(number, channels, 2 * channels, 3, 2)
        number, channels = number + 1, 2 * channels
        for _ in range(blocks):
            yield Convolution(number, channels, channels // 2, 1)
            yield Convolution(number + 1, channels // 2, channels, 3)
            number += 3  # the third is the sum


def convolutions(num_classes: int) -> list[Convolution]:
    """All convolutions of YOLOv3, in order."""
    layers = list(backbone())
    number, inputs = 75, 1024
    for channels in (512, 256, 128):
        for index in range(6):
            wide = index % 2
            outputs = channels * (1 + wide)
            layers.append(Convolution(number, inputs, outputs, 1 + 2 * wide))
            number, inputs = number + 1, outputs
        layers.append(Convolution(number, inputs, PER_CELL * (5 + num_classes), 1, normalised=False))
        if channels > 128:  # after the detection and a route come a 1x1, an upsampling and another route
            layers.append(Convolution(number + 3, channels, channels // 2, 1))
            number, inputs = number + 6, channels // 2 + channels  # with the backbone's map of as many channels
    return layers


class YOLOv3(Detector):
    """images [B, H, W, 3], RGB of 0..1, H and W multiples of 32  ->  what `loss` and `detect` read.

    bn_epsilon, bn_momentum: of the batch norms, darknet's.
    post_process: options of the last step.

    Returns, all float32:
      predictions [B, A, 5 + K]: x, y, w, h, objectness, classes; of each anchor the upper left corner of its cell,
      corners [A, 2], x and y in cells, its strides [A] in pixels, and its sides, anchors [A, 2], width and height in
      pixels. A goes over strides 8, 16 and 32, and within each over rows, columns and the cell's three anchors.

    Raises UserError for images of other sizes.
    """

    num_classes: int = 80
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    bn_epsilon: float = 1e-5
    bn_momentum: float = 0.01
    post_process: PostProcess = PostProcess(
        score_threshold=0.005, nms_threshold=0.45, detections=100, topk_candidates=1000
    )

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, Array]:
        height, width = images.shape[1:3]
        check_size("YOLOv3", height, width)
        layers = {layer.number: layer for layer in convolutions(self.num_classes)}
        norm = partial(self.norm, train=train, epsilon=self.bn_epsilon, momentum=self.bn_momentum)

        def run(x: Array, number: int) -> Array:
            _, _, outputs, kernel, stride, normalised = layers[number]
            options = {"dtype": self.dtype, "bias": not normalised, "kernel_init": darknet_uniform}
            x = conv(outputs, kernel, stride, **options, name=f"layers.{number}.conv")(x)
            return leaky(norm(name=f"layers.{number}.bn")(x)) if normalised else x

        x, number, maps = run(jnp.asarray(images, self.dtype), 0), 1, []
        for blocks in BLOCKS:
            x, number = run(x, number), number + 1
            for _ in range(blocks):
                x, number = x + run(run(x, number), number + 1), number + 3
            maps.append(x)

        found = []
        for finer in (maps[3], maps[2], None):
            for _ in range(5):
                x, number = run(x, number), number + 1
            last = run(run(x, number), number + 1)
            found.insert(0, last.reshape(x.shape[0], -1, 5 + self.num_classes))
            if finer is not None:
                x = upsample(run(x, number + 4), *finer.shape[1:3])
                x, number = jnp.concatenate([x, finer], axis=-1), number + 7
        corners, strides, anchors = anchors_of(height, width)
        return {
            "predictions": full_precision(jnp.concatenate(found, axis=1)),
            "corners": jnp.asarray(corners),
            "strides": jnp.asarray(strides),
            "anchors": jnp.asarray(anchors),
        }

    @nn.nowrap
    def loss(self, outputs: dict[str, Array], targets: Targets) -> dict[str, Float[Array, ""]]:
        """Sums over the anchors of an image, averaged over the images.

        An object is assigned to one anchor: in the cell of its centre that one of the nine whose shape has the highest
        IoU with the object's. If several objects share an anchor, the last gives the box and all give their classes.

        center: binary cross-entropy of x and y within the cell, and size: half the squared distance of the log sides,
        both of assigned anchors and weighted by 2 - the object's share of the canvas; classification: binary
        cross-entropy of every class, of assigned anchors; objectness: binary cross-entropy of all anchors except the
        unassigned ones whose predicted box overlaps some object by more than IGNORE_IOU.

        Source: the gradients are those of darknet's src/yolo_layer.c, which writes gradients without a loss. Section
        2.1 of the paper calls the loss of the coordinates a squared error.
        """
        losses = jax.vmap(self._image_loss, (0, None, None, None, 0, 0, 0))(
            *(outputs[name] for name in ("predictions", "corners", "strides", "anchors")),
            *(targets["boxes"], targets["classes"], trainable(targets)),
        )
        return mean_over_images(losses, targets["valid"])

    @nn.nowrap
    def _image_loss(
        self,
        predictions: Float[Array, "a k"],
        corners: Float[Array, "a 2"],
        strides: Float[Array, "a"],
        anchors: Float[Array, "a 2"],
        boxes: Float[Array, "n 4"],
        classes: Int[Array, "n"],
        used: Bool[Array, "n"],
    ) -> dict[str, Float[Array, ""]]:
        slots, size = jnp.arange(len(boxes)), extent(corners, strides)
        anchor = jnp.where(used, anchor_of(boxes, size), len(corners))  # indices beyond the last are dropped
        slot = jnp.full(len(corners), -1).at[anchor].max(slots, mode="drop")
        assigned = slot >= 0
        labels = jnp.zeros((len(corners), self.num_classes)).at[anchor, classes].set(1.0, mode="drop")

        box = jnp.where(assigned[:, None], boxes[slot], jnp.array([0.0, 0, 1, 1]))
        center, side = to_center(box)
        weight = jnp.where(assigned, 2 - side[:, 0] * side[:, 1] / (size[0] * size[1]), 0)
        offset = jnp.sum(binary_cross_entropy(predictions[:, :2], center / strides[:, None] - corners), axis=-1)
        ratio = predictions[:, 2:4] - jnp.log(side / anchors)

        decoded = jax.lax.stop_gradient(decode(predictions[:, :4], corners, strides, anchors))
        overlap = jnp.max(jnp.where(used[:, None], iou(boxes, decoded), 0), axis=0)
        counted = assigned | (overlap <= IGNORE_IOU)
        objectness = binary_cross_entropy(predictions[:, 4], assigned.astype(jnp.float32))
        entropy = jnp.sum(binary_cross_entropy(predictions[:, 5:], labels), axis=-1)
        return {
            "center": jnp.sum(weight * jnp.where(assigned, offset, 0)),
            "size": jnp.sum(weight * jnp.where(assigned, 0.5 * jnp.sum(jnp.square(ratio), axis=-1), 0)),
            "objectness": jnp.sum(jnp.where(counted, objectness, 0)),
            "classification": jnp.sum(jnp.where(assigned, entropy, 0)),
        }

    @nn.nowrap
    def detect(self, outputs: dict[str, Array], sizes: Sizes) -> Detections:
        """The best detections of each image, by descending score; `sizes` are the images' height and width.

        Candidates are the best pairs of an anchor and a class, which score p(object) p(class).

        Source: darknet's get_yolo_detections and do_nms_sort.
        """
        known = [outputs[name] for name in ("corners", "strides", "anchors")]

        def one_image(predictions: Float[Array, "a k"], size: Int[Array, "2"]) -> Detections:
            scores = jax.nn.sigmoid(predictions[:, 4:5]) * jax.nn.sigmoid(predictions[:, 5:])
            scores, rows, classes = self.post_process.best_pairs(scores)
            found = self.post_process(decode(predictions[rows, :4], *(each[rows] for each in known)), scores, classes)
            return found | {"boxes": clip(found["boxes"], size)}

        return jax.vmap(one_image)(outputs["predictions"], sizes)


def anchors_of(
    height: int, width: int
) -> tuple[Float[np.ndarray, "a 2"], Float[np.ndarray, "a"], Float[np.ndarray, "a 2"]]:
    """Of every anchor the upper left corner of its cell, x and y in cells, its stride in pixels, and its sides."""
    corners, strides = (np.repeat(each, PER_CELL, axis=0) for each in cells(height, width))
    shapes = np.array(ANCHORS, np.float32).reshape(len(STRIDES), PER_CELL, 2)
    level = np.searchsorted(STRIDES, strides[::PER_CELL])
    return corners, strides, shapes[level].reshape(-1, 2)


def extent(corners: Float[Array, "a 2"], strides: Float[Array, "a"]) -> tuple[Array, Array]:
    """Width and height in pixels of the canvas that has these cells."""
    last = (corners[-1] + 1) * strides[-1]
    return last[0], last[1]


def anchor_of(boxes: Float[Array, "n 4"], size: tuple[Array, Array]) -> Int[Array, "n"]:
    """The index of the anchor that each box is assigned to, on a canvas of this width and height."""
    center, side = to_center(boxes)
    anchors = jnp.array(ANCHORS, jnp.float32)
    common = jnp.prod(jnp.minimum(side[:, None], anchors), axis=-1)
    union = jnp.prod(side, axis=-1)[:, None] + jnp.prod(anchors, axis=-1) - common
    best = jnp.argmax(common / union, axis=1)
    level, anchor = best // PER_CELL, best % PER_CELL
    columns, rows = (jnp.stack([length / stride for stride in STRIDES]).astype(jnp.int32) for length in size)
    count = columns * rows
    before = jnp.cumsum(count) - count
    stride = jnp.array(STRIDES, jnp.float32)[level]
    x, y = ((center[:, axis] / stride).astype(jnp.int32) for axis in (0, 1))
    x, y = jnp.clip(x, 0, columns[level] - 1), jnp.clip(y, 0, rows[level] - 1)
    return PER_CELL * (before[level] + y * columns[level] + x) + anchor


def decode(
    regression: Float[Array, "a 4"], corners: Float[Array, "a 2"], strides: Float[Array, "a"], anchors: Array
) -> Float[Array, "a 4"]:
    """Boxes in pixels: a sigmoid gives the centre within the cell, exp the sides as multiples of the anchor's."""
    center = (jax.nn.sigmoid(regression[:, :2]) + corners) * strides[:, None]
    half = 0.5 * jnp.exp(jnp.minimum(regression[:, 2:], LARGEST_LOG)) * anchors
    return jnp.concatenate([center - half, center + half], axis=-1)


MODELS = {"yolov3_darknet53": YOLOv3}
