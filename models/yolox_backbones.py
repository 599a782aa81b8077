"""Backbones and necks of YOLOX (Ge et al. 2021): CSPDarknet with PAFPN, and Darknet-53 with YOLOv3's neck.

Submodules carry the names of the authors' implementation (yolox/models, release 0.3.0). `block` makes a convolution
with batch norm and activation; `wide` makes those of 3x3, which are depthwise in the smallest network.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.models.base import Images
from morphism.models.fpn import upsample
from morphism.models.layers import Dtype, conv, max_pool, torch_uniform


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    return x * jax.nn.sigmoid(x)


def leaky(x: Array) -> Array:
    """Leaky ReLU with Darknet's slope of 0.1."""
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
    """A depthwise and a 1x1 convolution, each with batch norm and activation: DWConv."""

    features: int
    kernel: int
    norm: Any
    dtype: Dtype
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b _h _w {self.features}"]:
        channels, options = x.shape[-1], {"norm": self.norm, "dtype": self.dtype}
        depthwise = BaseConv(channels, self.kernel, stride=self.stride, groups=channels, **options, name="dconv")
        return BaseConv(self.features, 1, **options, name="pconv")(depthwise(x, train=train), train=train)


class CSPLayer(nn.Module):
    """Half of the channels pass through `depth` bottlenecks, half past them (Wang et al. 2019, "CSPNet")."""

    features: int
    depth: int
    block: Any
    wide: Any
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
    """Spatial pyramid pooling (He et al. 2014): the map and its maxima over windows of 5, 9 and 13, SPPBottleneck.

    The maximum over a window of 9 is a maximum over 5 of maxima over 5; that over 13 applies it once more.
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
    """2x2 pixels become one with four times the channels: upper left, lower left, upper right, lower right."""
    return jnp.concatenate([x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2]], axis=-1)


class CSPDarknet(nn.Module):
    """images -> maps at strides 2, 4, 8, 16 and 32. `depth` and `width` are fractions of yolox_l's."""

    depth: float
    width: float
    block: Any
    wide: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> list[Float[Array, "b _h _w _c"]]:
        base, depth = int(self.width * 64), max(round(self.depth * 3), 1)
        layer = partial(CSPLayer, block=self.block, wide=self.wide)
        x = self.block(base, 3, name="stem.conv")(focus(x), train=train)
        maps = [x]
        for stage, blocks in enumerate((depth, 3 * depth, 3 * depth, depth), start=2):
            features = base * 2 ** (stage - 1)
            x = self.wide(features, 3, stride=2, name=f"dark{stage}.0")(x, train=train)
            if stage == 5:
                x = SPP(features, self.block, name="dark5.1")(x, train=train)
            name = f"dark{stage}.{2 if stage == 5 else 1}"
            x = layer(features, blocks, shortcut=stage < 5, name=name)(x, train=train)
            maps.append(x)
        return maps


class PAFPN(nn.Module):
    """images -> three maps, finest first: a top-down path by upsampling, then a bottom-up path by strided layers.

    With `finer` the backbone's own maps at strides 2 and 4 come before them.

    Source: Liu et al. 2018, "Path aggregation network for instance segmentation"; yolox/models/yolo_pafpn.py.
    """

    depth: float
    width: float
    block: Any
    wide: Any

    @nn.compact
    def __call__(self, images: Images, *, train: bool, finer: bool = False) -> list[Float[Array, "b _h _w _c"]]:
        parts = {"block": self.block, "wide": self.wide}
        *finest, x2, x1, x0 = CSPDarknet(self.depth, self.width, **parts, name="backbone")(images, train=train)
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
        return [*(finest if finer else ()), fine, medium, merge(x, top, c5, "C3_n4")]


def _double(x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
    """Nearest-neighbour upsampling to twice the size."""
    return upsample(x, 2 * x.shape[1], 2 * x.shape[2])


class Darknet(nn.Module):
    """images -> maps at strides 8, 16 and 32: Darknet-53 (Redmon and Farhadi 2018, "YOLOv3") followed by SPP."""

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
    """images -> three maps of 128, 256 and 512 channels, finest first: YOLOv3's neck, yolox/models/yolo_fpn.py."""

    block: Any

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> list[Float[Array, "b _h _w _c"]]:
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
