"""YOLOv3 on Darknet-53 (Redmon and Farhadi 2018, "YOLOv3: an incremental improvement").

At 80 classes, with the box AP on COCO (test-dev, from the paper's table 3) of the authors' weights at 608:

    yolov3_darknet53    61,949,149 parameters    70.35 GMAC at 608, 32.93 at 416, 19.49 at 320    33.0

Layers are called by their numbers in darknet's cfg/yolov3.cfg, where a residual sum, an upsampling, a concatenation or
a detection counts as a layer too: `layers.81.conv` is the first of the three that detect. So their order is that of the
authors' file of weights (weights/darknet.py).
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from morphism.models.detection import Detections, learnt, suppressed
from morphism.models.fpn import upsample
from morphism.models.layers import BatchNorm, Dtype, conv, full_precision
from morphism.models.yolox import STRIDES, check_size, leaky
from morphism.ops.boxes import clip, iou, to_center
from morphism.ops.losses import binary_cross_entropy

# Width and height in pixels, three at each stride, from the finest: of k-means over COCO's boxes.
ANCHORS = (
    *((10, 13), (16, 30), (33, 23)),
    *((30, 61), (62, 45), (59, 119)),
    *((116, 90), (156, 198), (373, 326)),
)
PER_CELL = 3
IGNORE_IOU = 0.7  # a box that overlaps an object more is not taught to be none
LARGEST_LOG = 20.0  # sides grow to at most e^20 anchors, so that they stay finite
BLOCKS = (1, 2, 8, 8, 4)  # residual blocks of a stage, each half as large as the one before

darknet_uniform = nn.initializers.variance_scaling(2 / 3, "fan_in", "uniform")  # make_convolutional_layer's


class Convolution(NamedTuple):
    """A convolutional layer: its number in the cfg, channels that come and go, kernel, stride, and if it has a norm."""

    number: int
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    normalised: bool = True


def backbone() -> Iterator[Convolution]:
    """Darknet-53's without its classifier, in order: layers 0 to 74."""
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
    """All of them, in order."""
    layers = list(backbone())
    number, inputs = 75, 1024
    for channels in (512, 256, 128):
        for index in range(6):
            wide = index % 2
            outputs = channels * (1 + wide)
            layers.append(Convolution(number, inputs, outputs, 1 + 2 * wide))
            number, inputs = number + 1, outputs
        layers.append(Convolution(number, inputs, PER_CELL * (5 + num_classes), 1, normalised=False))
        if channels > 128:  # after the detection and a route: a 1x1, an upsampling and another route
            layers.append(Convolution(number + 3, channels, channels // 2, 1))
            number, inputs = number + 6, channels // 2 + channels  # beside the backbone's map of as many channels
    return layers


class YOLOv3(nn.Module):
    """images [B,H,W,3], RGB of 0..1, H and W multiples of 32  ->  what `loss` and `detect` read, all float32.

    predictions [B,A,5 + num_classes]: x, y, w, h, objectness, classes; corners [A,2], the upper left corner of each
    place's cell, x and y in cells, strides [A] in pixels, anchors [A,2], width and height in pixels. A is over strides
    8, 16 and 32, in each over rows, columns and the cell's three anchors.

    bn_epsilon, bn_momentum: darknet's. score_threshold: detections score higher; topk_candidates: the best pairs of
    place and class that are looked at; nms_threshold: the largest IoU of two detections of a class; detections: how
    many a picture has at most. Raises UserError for images of other sizes.
    """

    num_classes: int = 80
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    bn_epsilon: float = 1e-5
    bn_momentum: float = 0.01
    score_threshold: float = 0.005
    topk_candidates: int = 1000
    nms_threshold: float = 0.45
    detections: int = 100

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Array]:
        height, width = images.shape[1:3]
        check_size("YOLOv3", height, width)
        layers = {layer.number: layer for layer in convolutions(self.num_classes)}
        norm = partial(self.norm, train=train, epsilon=self.bn_epsilon, momentum=self.bn_momentum)

        def run(x: Array, number: int) -> Array:
            _, _, outputs, kernel, stride, normalised = layers[number]
            options = {"dtype": self.dtype, "bias": not normalised, "kernel_init": darknet_uniform}
            x = conv(outputs, kernel, stride, **options, name=f"layers.{number}.conv")(x)
            return leaky(norm(name=f"layers.{number}.bn")(x)) if normalised else x

        x, number, maps = run(images.astype(self.dtype), 0), 1, []
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
            found.insert(0, last.reshape(len(x), -1, 5 + self.num_classes))
            if finer is not None:
                x = upsample(run(x, number + 4), *finer.shape[1:3])
                x, number = jnp.concatenate([x, finer], axis=-1), number + 7
        corners, strides, anchors = places(height, width)
        return {
            "predictions": full_precision(jnp.concatenate(found, axis=1)),
            "corners": jnp.asarray(corners),
            "strides": jnp.asarray(strides),
            "anchors": jnp.asarray(anchors),
        }

    @nn.nowrap
    def loss(self, outputs: dict[str, Array], targets: dict[str, Array]) -> dict[str, Float[Array, ""]]:
        """Sums over a picture's places, and their means over the pictures.

        An object is learnt at one place: the cell of its centre, and that of the nine anchors whose shape has the
        highest IoU with its own; of objects of one place the last gives the box, all their classes. There, weighted by
        2 - the object's share of the canvas: center, the binary cross-entropy of x and y within the cell, and size,
        half the squared distance of the logarithms of the sides; and classification, binary cross-entropy of every
        class. objectness: binary cross-entropy of all places, but of those that teach nothing since their box overlaps
        some object by more than IGNORE_IOU.
        Their gradients are those of darknet's src/yolo_layer.c, which writes these and no loss; the paper, section 2.1,
        calls the coordinates' a squared error. targets: models/detection.py's.
        """
        every = jax.vmap(self._picture_loss, (0, None, None, None, 0, 0, 0))(
            *(outputs[name] for name in ("predictions", "corners", "strides", "anchors")),
            *(targets["boxes"], targets["classes"], learnt(targets)),
        )
        valid = targets["valid"]
        pictures = jnp.maximum(jnp.sum(valid), 1)
        return {name: jnp.sum(jnp.where(valid, value, 0)) / pictures for name, value in every.items()}

    @nn.nowrap
    def _picture_loss(
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
        place = jnp.where(used, place_of(boxes, size), len(corners))  # those beyond the last are dropped
        slot = jnp.full(len(corners), -1).at[place].max(slots, mode="drop")
        assigned = slot >= 0
        goal = jnp.zeros((len(corners), self.num_classes)).at[place, classes].set(1.0, mode="drop")

        box = jnp.where(assigned[:, None], boxes[slot], jnp.array([0.0, 0, 1, 1]))
        center, side = to_center(box)
        weight = jnp.where(assigned, 2 - side[:, 0] * side[:, 1] / (size[0] * size[1]), 0)
        apart = jnp.sum(binary_cross_entropy(predictions[:, :2], center / strides[:, None] - corners), axis=-1)
        ratio = predictions[:, 2:4] - jnp.log(side / anchors)

        decoded = jax.lax.stop_gradient(decode(predictions[:, :4], corners, strides, anchors))
        overlap = jnp.max(jnp.where(used[:, None], iou(boxes, decoded), 0), axis=0)
        counted = assigned | (overlap <= IGNORE_IOU)
        objectness = binary_cross_entropy(predictions[:, 4], assigned.astype(jnp.float32))
        entropy = jnp.sum(binary_cross_entropy(predictions[:, 5:], goal), axis=-1)
        return {
            "center": jnp.sum(weight * jnp.where(assigned, apart, 0)),
            "size": jnp.sum(weight * jnp.where(assigned, 0.5 * jnp.sum(jnp.square(ratio), axis=-1), 0)),
            "objectness": jnp.sum(jnp.where(counted, objectness, 0)),
            "classification": jnp.sum(jnp.where(assigned, entropy, 0)),
        }

    @nn.nowrap
    def detect(self, outputs: dict[str, Array], sizes: Int[Array, "b 2"]) -> Detections:
        """Of each picture the best detections, by falling score; `sizes` are the pictures' height and width.

        A place detects every class whose p(object) p(class) is high enough, as darknet's get_yolo_detections and
        do_nms_sort have it.
        """
        known = [outputs[name] for name in ("corners", "strides", "anchors")]

        def picture(predictions: Float[Array, "a k"], size: Int[Array, "2"]) -> dict[str, Any]:
            scores = jax.nn.sigmoid(predictions[:, 4:5]) * jax.nn.sigmoid(predictions[:, 5:])
            _, rows = jax.lax.top_k(jnp.max(scores, axis=-1), min(self.topk_candidates, len(scores)))
            scores, pairs = jax.lax.top_k(scores[rows].ravel(), min(self.topk_candidates, len(rows) * self.num_classes))
            rows, classes = rows[pairs // self.num_classes], pairs % self.num_classes
            boxes = decode(predictions[rows, :4], *(each[rows] for each in known))
            found = suppressed(boxes, scores, classes, self.score_threshold, self.nms_threshold, self.detections)
            return found | {"boxes": clip(found["boxes"], size)}

        return jax.vmap(picture)(outputs["predictions"], sizes)


def places(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every place the upper left corner of its cell, the cell's side in pixels, and its anchor."""
    corners, strides, anchors = [], [], []
    for level, stride in enumerate(STRIDES):
        y, x = np.meshgrid(np.arange(height // stride), np.arange(width // stride), indexing="ij")
        corners.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), PER_CELL, axis=0))
        strides.append(np.full(PER_CELL * x.size, stride))
        anchors.append(np.tile(ANCHORS[PER_CELL * level : PER_CELL * (level + 1)], (x.size, 1)))
    return tuple(np.concatenate(each).astype(np.float32) for each in (corners, strides, anchors))


def extent(corners: Float[Array, "a 2"], strides: Float[Array, "a"]) -> tuple[Array, Array]:
    """Width and height of the canvas that has these places."""
    last = (corners[-1] + 1) * strides[-1]
    return last[0], last[1]


def place_of(boxes: Float[Array, "n 4"], size: tuple[Array, Array]) -> Int[Array, "n"]:
    """The place at which each box is learnt, on a canvas of this width and height."""
    center, side = to_center(boxes)
    anchors = jnp.array(ANCHORS, jnp.float32)
    common = jnp.prod(jnp.minimum(side[:, None], anchors), axis=-1)
    union = jnp.prod(side, axis=-1)[:, None] + jnp.prod(anchors, axis=-1) - common
    best = jnp.argmax(common / union, axis=1)
    level, anchor = best // PER_CELL, best % PER_CELL
    columns, rows = (jnp.stack([length / stride for stride in STRIDES]).astype(jnp.int32) for length in size)
    cells = columns * rows
    before = jnp.cumsum(cells) - cells
    stride = jnp.array(STRIDES, jnp.float32)[level]
    x, y = ((center[:, axis] / stride).astype(jnp.int32) for axis in (0, 1))
    x, y = jnp.clip(x, 0, columns[level] - 1), jnp.clip(y, 0, rows[level] - 1)
    return PER_CELL * (before[level] + y * columns[level] + x) + anchor


def decode(
    regression: Float[Array, "a 4"], corners: Float[Array, "a 2"], strides: Float[Array, "a"], anchors: Array
) -> Float[Array, "a 4"]:
    """Boxes in pixels: the centre's place in the cell by a sigmoid, the sides as multiples of the anchor's by exp."""
    center = (jax.nn.sigmoid(regression[:, :2]) + corners) * strides[:, None]
    half = 0.5 * jnp.exp(jnp.minimum(regression[:, 2:], LARGEST_LOG)) * anchors
    return jnp.concatenate([center - half, center + half], axis=-1)


MODELS = {"yolov3_darknet53": YOLOv3}
