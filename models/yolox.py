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
from jaxtyping import Array, Bool, Float, Int

from morphism.errors import UserError
from morphism.models.detection import Detections, learnt, suppressed
from morphism.models.fpn import Maps, upsample
from morphism.models.layers import BatchNorm, Dtype, conv, full_precision, max_pool, torch_bias, torch_uniform
from morphism.ops.boxes import clip, iou_loss
from morphism.ops.losses import binary_cross_entropy
from morphism.ops.simota import simota

STRIDES = (8, 16, 32)
PRIOR = 0.01  # the probability of an object, and of every class, that training begins with
BOX_WEIGHT = 5.0  # of the boxes' loss beside the others
LARGEST_LOG = 20.0  # sides grow to at most e^20 strides, which no picture has, so that they stay finite


def silu(x: Array) -> Array:
    return x * jax.nn.sigmoid(x)


def leaky(x: Array) -> Array:
    """With a slope of 0.1, Darknet's."""
    return jnp.maximum(x, 0.1 * x)


ACTIVATIONS = {"silu": silu, "lrelu": leaky}


class BaseConv(nn.Module):
    """Convolution, batch norm, activation."""

    features: int
    kernel: int
    norm: Any
    dtype: Dtype
    stride: int = 1
    groups: int = 1
    activation: str = "silu"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b _h _w {self.features}"]:
        options = {"groups": self.groups, "dtype": self.dtype, "kernel_init": torch_uniform}
        x = conv(self.features, self.kernel, self.stride, **options, name="conv")(x)
        return ACTIVATIONS[self.activation](self.norm(train=train, name="bn")(x))


class Depthwise(nn.Module):
    """A convolution in each channel, then one of 1x1: DWConv."""

    features: int
    kernel: int
    norm: Any
    dtype: Dtype
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b _h _w {self.features}"]:
        channels, given = x.shape[-1], {"norm": self.norm, "dtype": self.dtype}
        x = BaseConv(channels, self.kernel, stride=self.stride, groups=channels, **given, name="dconv")(x, train=train)
        return BaseConv(self.features, 1, **given, name="pconv")(x, train=train)


class CSPLayer(nn.Module):
    """Half of the channels through `depth` bottlenecks, half past them (Wang et al. 2019, "CSPNet")."""

    features: int
    depth: int
    block: Any  # BaseConv with its norm, dtype and activation
    wide: Any  # what makes the bottlenecks' 3x3 convolutions: `block`, or Depthwise
    shortcut: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w {self.features}"]:
        hidden = self.features // 2
        past = self.block(hidden, 1, name="conv2")(x, train=train)
        x = self.block(hidden, 1, name="conv1")(x, train=train)
        for index in range(self.depth):
            y = self.block(hidden, 1, name=f"m.{index}.conv1")(x, train=train)
            y = self.wide(hidden, 3, name=f"m.{index}.conv2")(y, train=train)
            x = x + y if self.shortcut else y
        return self.block(self.features, 1, name="conv3")(jnp.concatenate([x, past], axis=-1), train=train)


class SPP(nn.Module):
    """The map beside its maxima over windows of 5, 9 and 13 (He et al. 2014, "Spatial pyramid pooling"): SPPBottleneck.

    A maximum over 9 is one over 5 of those over 5, and so is that over 13.
    """

    features: int
    block: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w {self.features}"]:
        x = self.block(x.shape[-1] // 2, 1, name="conv1")(x, train=train)
        pooled = [x]
        for _ in range(3):
            pooled.append(max_pool(pooled[-1], 5, 1, 2))
        return self.block(self.features, 1, name="conv2")(jnp.concatenate(pooled, axis=-1), train=train)


def focus(x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
    """Every 2x2 pixels as one of four times the channels: upper left, lower left, upper right, lower right."""
    return jnp.concatenate([x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2]], axis=-1)


class CSPDarknet(nn.Module):
    """images -> maps at strides 8, 16 and 32."""

    depth: float
    width: float
    block: Any
    wide: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> list[Float[Array, "b _h _w _c"]]:
        base, depth = int(self.width * 64), max(round(self.depth * 3), 1)
        layer = partial(CSPLayer, block=self.block, wide=self.wide)
        x = self.block(base, 3, name="stem.conv")(focus(x), train=train)
        maps = []
        for stage, blocks in enumerate((depth, 3 * depth, 3 * depth, depth), start=2):
            features = base * 2 ** (stage - 1)
            x = self.wide(features, 3, stride=2, name=f"dark{stage}.0")(x, train=train)
            if stage == 5:
                x = SPP(features, self.block, name="dark5.1")(x, train=train)
            name = f"dark{stage}.{2 if stage == 5 else 1}"
            x = layer(features, blocks, shortcut=stage < 5, name=name)(x, train=train)
            maps.append(x)
        return maps[1:]


class PAFPN(nn.Module):
    """images -> three maps of the pyramid, finest first: CSPDarknet, down by upsampling, up again by strided layers.

    Liu et al. 2018, "Path aggregation network for instance segmentation", as yolox/models/yolo_pafpn.py has it.
    """

    depth: float
    width: float
    block: Any
    wide: Any

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool) -> list[Float[Array, "b _h _w _c"]]:
        parts = {"block": self.block, "wide": self.wide}
        x2, x1, x0 = CSPDarknet(self.depth, self.width, **parts, name="backbone")(images, train=train)
        c3, c4, c5 = (int(channels * self.width) for channels in (256, 512, 1024))

        def merge(x: Array, other: Array, features: int, name: str) -> Array:
            layer = CSPLayer(features, round(3 * self.depth), **parts, shortcut=False, name=name)
            return layer(jnp.concatenate([x, other], axis=-1), train=train)

        top = self.block(c4, 1, name="lateral_conv0")(x0, train=train)
        x = merge(_double(top), x1, c4, "C3_p4")
        middle = self.block(c3, 1, name="reduce_conv1")(x, train=train)
        fine = merge(_double(middle), x2, c3, "C3_p3")
        x = self.wide(c3, 3, stride=2, name="bu_conv2")(fine, train=train)
        medium = merge(x, middle, c4, "C3_n3")
        x = self.wide(c4, 3, stride=2, name="bu_conv1")(medium, train=train)
        return [fine, medium, merge(x, top, c5, "C3_n4")]


def _double(x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
    return upsample(x, 2 * x.shape[1], 2 * x.shape[2])


class Darknet(nn.Module):
    """images -> maps at strides 8, 16 and 32: Darknet-53 (Redmon and Farhadi 2018, "YOLOv3") with SPP at its end."""

    block: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> list[Float[Array, "b _h _w _c"]]:
        def layer(x: Array, name: str, features: int, kernel: int, stride: int = 1) -> Array:
            return self.block(features, kernel, stride=stride, name=name)(x, train=train)

        def group(x: Array, prefix: str, first: int, features: int, blocks: int) -> Array:
            x = layer(x, f"{prefix}.{first}", features, 3, 2)
            for index in range(first + 1, first + 1 + blocks):
                y = layer(x, f"{prefix}.{index}.layer1", features // 2, 1)
                x = x + layer(y, f"{prefix}.{index}.layer2", features, 3)
            return x

        x = group(layer(x, "stem.0", 32, 3), "stem", 1, 64, 1)
        x = group(x, "dark2", 0, 128, 2)
        x2 = group(x, "dark3", 0, 256, 8)
        x1 = group(x2, "dark4", 0, 512, 8)
        x = group(x1, "dark5", 0, 1024, 4)
        x = layer(layer(x, "dark5.5", 512, 1), "dark5.6", 1024, 3)
        x = SPP(512, self.block, name="dark5.7")(x, train=train)
        return [x2, x1, layer(layer(x, "dark5.8", 1024, 3), "dark5.9", 512, 1)]


class DarknetFPN(nn.Module):
    """images -> three maps, finest first, of 128, 256 and 512 channels: YOLOv3's neck, yolox/models/yolo_fpn.py."""

    block: Any

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool) -> list[Float[Array, "b _h _w _c"]]:
        x2, x1, x0 = Darknet(self.block, name="backbone")(images, train=train)

        def merge(x: Array, other: Array, features: int, name: str) -> Array:
            x = self.block(features, 1, name=f"{name}_cbl")(x, train=train)
            x = jnp.concatenate([_double(x), other], axis=-1)
            for index in range(5):
                wide = index % 2
                layer = self.block(features * (1 + wide), 1 + 2 * wide, name=f"{name}.{index}")
                x = layer(x, train=train)
            return x

        medium = merge(x0, x1, 256, "out1")
        return [merge(medium, x2, 128, "out2"), medium, x0]


class Head(nn.Module):
    """The decoupled head: at every level two 3x3 convolutions for the class, two for the box and whether there is one.

    maps, finest first -> box [B,A,4], objectness [B,A] and classes [B,A,K], A over the levels, in each over rows and
    columns.
    """

    num_classes: int
    channels: int
    block: Any
    wide: Any
    dtype: Dtype

    @nn.compact
    def __call__(self, maps: Maps, *, train: bool) -> tuple[Array, Array, Array]:
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
            by_class, by_box = branches
            levels = (
                conv(4, 1, **last, bias_init=torch_bias(self.channels), name=f"reg_preds.{level}")(by_box),
                conv(1, 1, **last, bias_init=prior, name=f"obj_preds.{level}")(by_box),
                conv(self.num_classes, 1, **last, bias_init=prior, name=f"cls_preds.{level}")(by_class),
            )
            found.append([y.reshape(len(y), -1, y.shape[-1]) for y in levels])
        box, objectness, classes = (jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return box, objectness[..., 0], classes


class YOLOX(nn.Module):
    """images [B,H,W,3], RGB of 0..255, H and W multiples of 32  ->  what `loss` and `detect` read, all float32.

    bbox_regression [B,A,4], objectness [B,A], cls_logits [B,A,num_classes], corners [A,2], the upper left corner of
    each place's cell, x and y in cells, and strides [A] in pixels.

    The published networks were trained on OpenCV's pictures, blue first: the model turns the channels round itself, so
    that every picture that comes to a model is RGB.

    depth, width: of the network, as shares of yolox_l's; depthwise: its 3x3 convolutions in each channel alone;
    darknet53: YOLOv3's backbone and neck instead; bn_epsilon and bn_momentum as published.
    center_radius, centers_only: of ops/simota.py.
    score_threshold: detections score higher; topk_candidates: the best places that are looked at; nms_threshold: the
    largest IoU of two detections of a class; detections: how many a picture has at most.
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
    score_threshold: float = 0.01
    topk_candidates: int = 1000
    nms_threshold: float = 0.65
    detections: int = 300

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Array]:
        height, width = images.shape[1:3]
        check_size("YOLOX", height, width)
        given = {
            "norm": partial(self.norm, epsilon=self.bn_epsilon, momentum=self.bn_momentum),
            "dtype": self.dtype,
        }
        block = partial(BaseConv, **given, activation="lrelu" if self.darknet53 else "silu")
        parts = {"block": block, "wide": partial(Depthwise, **given) if self.depthwise else block}
        if self.darknet53:
            body = DarknetFPN(block, name="backbone")
        else:
            body = PAFPN(self.depth, self.width, **parts, name="backbone")
        maps = body(images[..., ::-1].astype(self.dtype), train=train)
        head = Head(self.num_classes, int(256 * self.width), **parts, dtype=self.dtype, name="head")
        box, objectness, classes = map(full_precision, head(maps, train=train))
        corners, strides = places(height, width)
        return {
            "bbox_regression": box,
            "objectness": objectness,
            "cls_logits": classes,
            "corners": jnp.asarray(corners),
            "strides": jnp.asarray(strides),
        }

    @nn.nowrap
    def loss(self, outputs: dict[str, Array], targets: dict[str, Array]) -> dict[str, Float[Array, ""]]:
        """Sums over the batch by the number of its places that have an object, which `simota` says.

        box: 5 (1 - IoU^2); objectness: binary cross-entropy of all places; classification: that of the object's class,
        whose target is the box's IoU, against all others; l1: the distance of the regression's numbers from the
        object's, in pictures that targets["closed"] (bool [B]) marks: those of the last epochs, without mosaic.
        Other targets: models/detection.py's. Source: yolox/models/yolo_head.py, get_losses.
        """
        corners, strides, boxes = outputs["corners"], outputs["strides"], targets["boxes"]
        predicted = decode(outputs["bbox_regression"], corners, strides)
        assign = partial(simota, center_radius=self.center_radius, centers_only=self.centers_only)
        matches, overlap = jax.vmap(assign, (0, 0, 0, None, None, 0, 0, 0))(
            *(outputs["cls_logits"], outputs["objectness"], predicted, (corners + 0.5) * strides[:, None], strides),
            *(boxes, targets["classes"], learnt(targets)),
        )
        matched = matches >= 0
        total = jnp.maximum(jnp.sum(matched), 1)
        box = jnp.take_along_axis(boxes, matches[..., None], axis=1)
        label = jnp.take_along_axis(targets["classes"], matches, axis=1)

        def mean(each: Float[Array, "b a"], counted: Bool[Array, "b a"]) -> Float[Array, ""]:
            return jnp.sum(jnp.where(counted, each, 0)) / total

        # Where nothing is learnt, a box that is its own target: no infinite number there comes into the gradient.
        apart = iou_loss(jnp.where(matched[..., None], predicted, box), box)
        goal = overlap[..., None] * jax.nn.one_hot(label, self.num_classes)
        classes = jnp.sum(binary_cross_entropy(outputs["cls_logits"], goal), axis=-1)
        objects = binary_cross_entropy(outputs["objectness"], matched.astype(jnp.float32))
        distance = jnp.sum(jnp.abs(outputs["bbox_regression"] - encode(box, corners, strides)), axis=-1)
        return {
            "box": BOX_WEIGHT * mean(apart, matched),
            "objectness": mean(objects, targets["valid"][:, None]),
            "classification": mean(classes, matched),
            "l1": mean(distance, matched & targets["closed"][:, None]),
        }

    @nn.nowrap
    def detect(self, outputs: dict[str, Array], sizes: Int[Array, "b 2"]) -> Detections:
        """Of each picture the best detections, by falling score; `sizes` are the pictures' height and width.

        A place finds its likeliest class, and scores p(object) p(class). Source: yolox/utils/boxes.py, postprocess,
        which keeps all places above the threshold, and parts of boxes outside the picture.
        """
        corners, strides = outputs["corners"], outputs["strides"]

        def picture(
            logits: Float[Array, "a k"], objectness: Float[Array, "a"], box: Float[Array, "a 4"], size: Int[Array, "2"]
        ) -> dict[str, Array]:
            scores = jax.nn.sigmoid(objectness) * jax.nn.sigmoid(jnp.max(logits, axis=-1))
            scores, rows = jax.lax.top_k(scores, min(self.topk_candidates, len(scores)))
            boxes, classes = decode(box[rows], corners[rows], strides[rows]), jnp.argmax(logits[rows], axis=-1)
            found = suppressed(boxes, scores, classes, self.score_threshold, self.nms_threshold, self.detections)
            return found | {"boxes": clip(found["boxes"], size)}

        return jax.vmap(picture)(outputs["cls_logits"], outputs["objectness"], outputs["bbox_regression"], sizes)


def check_size(name: str, height: int, width: int) -> None:
    """Raises UserError for images whose sides are no multiples of 32."""
    if height % 32 or width % 32:
        raise UserError(
            f"images of {height}x{width}: {name} needs sides that are multiples of 32; set config.data.image_size, "
            "canvases or multi_scale to such"
        )


def places(height: int, width: int) -> tuple[Float[np.ndarray, "a 2"], Float[np.ndarray, "a"]]:
    """Of every place the upper left corner of its cell, x and y in cells, and the cell's side in pixels."""
    corners, strides = [], []
    for stride in STRIDES:
        y, x = np.meshgrid(np.arange(height // stride), np.arange(width // stride), indexing="ij")
        corners.append(np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32))
        strides.append(np.full(x.size, stride, np.float32))
    return np.concatenate(corners), np.concatenate(strides)


def decode(
    regression: Float[Array, "*b a 4"], corners: Float[Array, "a 2"], strides: Float[Array, "a"]
) -> Float[Array, "*b a 4"]:
    """Boxes in pixels: the centre beside the cell's corner, and logarithms of width and height, all in strides."""
    center = (regression[..., :2] + corners) * strides[:, None]
    half = 0.5 * jnp.exp(jnp.minimum(regression[..., 2:], LARGEST_LOG)) * strides[:, None]
    return jnp.concatenate([center - half, center + half], axis=-1)


def encode(
    boxes: Float[Array, "*b a 4"], corners: Float[Array, "a 2"], strides: Float[Array, "a"]
) -> Float[Array, "*b a 4"]:
    """What `decode` makes these boxes of."""
    side = boxes[..., 2:] - boxes[..., :2]
    center = boxes[..., :2] + 0.5 * side
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
