"""DeepLabV3 as torchvision has it, and DeepLabV3+ as mmsegmentation has it.

Chen et al. 2017, "Rethinking atrous convolution"; 2018, "Encoder-decoder with atrous separable convolution". With the
auxiliary head; the first two at 21 classes, multiply-accumulates at 520x520, the others at 19:

    deeplabv3_resnet50        42,004,074 parameters   178.722 GMAC   mIoU 66.4 on COCO val2017 with VOC's classes
    deeplabv3_resnet101       60,996,202              258.743             67.4 (torchvision COCO_WITH_VOC_LABELS_V1)
    deeplabv3plus_resnet50    43,589,878                                  79.61 on Cityscapes val (mmsegmentation, 40k)
    deeplabv3plus_resnet101   62,582,006                                  80.21

Submodules carry torchvision's names (torchvision/models/segmentation/deeplabv3.py), and mmsegmentation's
(decode_heads/sep_aspp_head.py with configs/_base_/models/deeplabv3plus_r50-d8.py).
"""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.errors import UserError
from morphism.models.base import Features, Sizes
from morphism.models.layers import BatchNorm, Dtype, conv, relu, torch_uniform
from morphism.models.segmentation import ConvModule, MMSegmenter, OnResNet, classify, conv_seg
from morphism.ops.pooling import mean_of_parts
from morphism.ops.resize import resize_bilinear

RATES = {8: (12, 24, 36), 16: (6, 12, 18)}  # of the atrous convolutions, by output stride: Chen et al. 2017, section 4


def rates(output_stride: int) -> tuple[int, int, int]:
    """The atrous rates at an output stride of 8 or 16. Raises UserError for another."""
    if output_stride not in RATES:
        raise UserError(f"config.model.options.output_stride is {output_stride}; it must be 8 or 16")
    return RATES[output_stride]


def image_pool(x: Float[Array, "b h w c"], cells: Sizes | None) -> Float[Array, "b 1 1 c"]:
    """The mean of each map, or of its top left part of `cells` = height, width."""
    return jnp.mean(x, axis=(1, 2), keepdims=True) if cells is None else mean_of_parts(x, cells, 1, 1)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, three atrous 3x3 and the mean of the map in parallel, then a 1x1.

    rates: of the atrous convolutions. `cells` [B, 2]: the top left part of each map that the mean is over; None: all.
    """

    rates: tuple[int, int, int]
    norm: partial = partial(BatchNorm)
    dtype: Dtype = jnp.float32
    channels: int = 256

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], cells: Sizes | None, *, train: bool
    ) -> Float[Array, "b h w {self.channels}"]:
        def block(x: Array, kernel: int, dilation: int, names: tuple[str, str]) -> Array:
            init = {"dilation": dilation, "kernel_init": torch_uniform, "dtype": self.dtype}
            x = conv(self.channels, kernel, **init, name=names[0])(x)
            return relu(self.norm(train=train, name=names[1])(x))

        parts = [block(x, 1, 1, ("convs.0.0", "convs.0.1"))]
        for index, rate in enumerate(self.rates, start=1):
            parts.append(block(x, 3, rate, (f"convs.{index}.0", f"convs.{index}.1")))
        mean = block(image_pool(x, cells), 1, 1, ("convs.4.1", "convs.4.2"))
        parts.append(jnp.broadcast_to(mean, parts[0].shape))
        x = block(jnp.concatenate(parts, axis=-1), 1, 1, ("project.0", "project.1"))
        return nn.Dropout(0.5, deterministic=not train)(x)


class DeepLabHead(nn.Module):
    """torchvision's DeepLabHead: ASPP, a 3x3 convolution, a 1x1 to classes. `rates` and `cells` as for ASPP."""

    num_classes: int
    rates: tuple[int, int, int]
    norm: partial = partial(BatchNorm)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], cells: Sizes | None, *, train: bool
    ) -> Float[Array, "b h w {self.num_classes}"]:
        return _deeplab_head(x, cells, train, self.num_classes, self.rates, self.norm, self.dtype, prefix="")


def _deeplab_head(
    x: Float[Array, "b h w c"],
    cells: Sizes | None,
    train: bool,
    num_classes: int,
    rates: tuple[int, int, int],
    norm: partial,
    dtype: Dtype,
    prefix: str,
) -> Float[Array, "b h w k"]:
    """The layers of DeepLabHead, in the module that is being called, with `prefix` in front of their names."""
    x = ASPP(rates, norm, dtype, name=f"{prefix}0")(x, cells, train=train)
    x = conv(x.shape[-1], 3, dtype=dtype, kernel_init=torch_uniform, name=f"{prefix}1")(x)
    x = relu(norm(train=train, name=f"{prefix}2")(x))
    return classify(num_classes, x.shape[-1], dtype, f"{prefix}4")(x)


class DeepLabV3(OnResNet):
    """images [B, H, W, 3], any H and W >= 1  ->  models/segmentation.py's outputs.

    output_stride: 8, with atrous rates 12, 24, 36, or 16, with 6, 12, 18.
    classifier: called as classifier(map of layer 4, cells, train=). The other fields are OnResNet's.
    """

    reads: ClassVar[tuple[str, ...]] = ("sizes",)

    @nn.nowrap
    def head(self, maps: Features, cells: Sizes | None, train: bool) -> Float[Array, "b h w k"]:
        if self.classifier is not None:
            return self.part(self.classifier, None, "classifier")(maps["layer4"], cells, train=train)
        options = (rates(self.output_stride), self.norm, self.dtype)
        return _deeplab_head(maps["layer4"], cells, train, self.num_classes, *options, prefix="classifier.")

    @nn.nowrap
    def check_options(self) -> None:
        super().check_options()
        rates(self.output_stride)


class SeparableConv(nn.Module):
    """mmcv's DepthwiseSeparableConvModule: a depthwise 3x3, then a 1x1, each with batch norm and ReLU."""

    features: int
    norm: partial
    dtype: Dtype
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.features}"]:
        channels = x.shape[-1]
        depthwise = {"dilation": self.dilation, "groups": channels, "name": "depthwise_conv"}
        x = ConvModule(channels, 3, self.norm, self.dtype, **depthwise)(x)
        return ConvModule(self.features, 1, self.norm, self.dtype, name="pointwise_conv")(x)


class SeparableASPPHead(nn.Module):
    """mmsegmentation's DepthwiseSeparableASPPHead: ASPP of layer 4, resized and refined with 48 channels of layer 1.

    low [B, h1, w1, C1], high [B, h, w, C], cells as for ASPP  ->  logits [B, h1, w1, K].
    """

    num_classes: int
    norm: partial
    dtype: Dtype
    rates: tuple[int, int, int]
    channels: int
    low_channels: int = 48

    @nn.compact
    def __call__(
        self, low: Array, high: Array, cells: Sizes | None, *, train: bool
    ) -> Float[Array, "b h w {self.num_classes}"]:
        norm = partial(self.norm, train=train)
        block = partial(ConvModule, norm=norm, dtype=self.dtype)
        separable = partial(SeparableConv, self.channels, norm, self.dtype)
        mean = block(self.channels, 1, name="image_pool.1")(image_pool(high, cells))
        parts = [jnp.broadcast_to(mean, (*high.shape[:3], self.channels))]
        parts.append(block(self.channels, 1, name="aspp_modules.0")(high))
        for index, rate in enumerate(self.rates, start=1):
            parts.append(separable(dilation=rate, name=f"aspp_modules.{index}")(high))
        x = block(self.channels, 3, name="bottleneck")(jnp.concatenate(parts, axis=-1))
        low = block(self.low_channels, 1, name="c1_bottleneck")(low)
        x = jnp.concatenate([resize_bilinear(x, *low.shape[1:3]), low], axis=-1)
        for index in (0, 1):
            x = separable(name=f"sep_bottleneck.{index}")(x)
        return conv_seg(self.num_classes, train, self.dtype)(x)


class DeepLabV3Plus(MMSegmenter):
    """images [B, H, W, 3], any H and W >= 1  ->  models/segmentation.py's outputs.

    output_stride: as in DeepLabV3.
    classifier: called as classifier(map of layer 1, map of layer 4, cells, train=). The other fields are MMSegmenter's.
    """

    reads: ClassVar[tuple[str, ...]] = ("sizes",)

    @nn.nowrap
    def head(self, maps: Features, cells: Sizes | None, train: bool) -> Float[Array, "b h w k"]:
        options = (self.num_classes, self.norm, self.dtype, rates(self.output_stride), self.channels)
        head = self.part(self.classifier, partial(SeparableASPPHead, *options), "decode_head")
        return head(maps["layer1"], maps["layer4"], cells, train=train)

    @nn.nowrap
    def check_options(self) -> None:
        super().check_options()
        rates(self.output_stride)


MODELS = {
    "deeplabv3_resnet50": partial(DeepLabV3, backbone="resnet50"),
    "deeplabv3_resnet101": partial(DeepLabV3, backbone="resnet101"),
    "deeplabv3plus_resnet50": partial(DeepLabV3Plus, backbone="resnet50"),
    "deeplabv3plus_resnet101": partial(DeepLabV3Plus, backbone="resnet101"),
}
