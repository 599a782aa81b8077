"""The ResNet family as torchvision has it: ResNet, Wide ResNet and ResNeXt.

He et al. 2015, "Deep residual learning"; Zagoruyko & Komodakis 2016, "Wide residual networks"; Xie et al. 2016,
"Aggregated residual transformations". Submodules carry torchvision's names (torchvision/models/resnet.py), so that a
parameter's path joined with dots is the checkpoint's key. At 1000 classes, multiply-accumulates at 224, ImageNet top-1
of torchvision's IMAGENET1K_V1 and V2:

    resnet18            11,689,512 parameters   1.814 GMAC   69.758
    resnet34            21,797,672              3.664        73.314
    resnet50            25,557,032              4.089        76.130   80.858
    resnet101           44,549,160              7.801        77.374   81.886
    resnet152           60,192,808             11.514        78.312   82.284
    wide_resnet50_2     68,883,240             11.398        78.468   81.602
    wide_resnet101_2   126,886,696             22.753        78.848   82.510
    resnext50_32x4d     25,028,904              4.230        77.618   81.198
    resnext101_32x8d    88,791,336             16.414        79.312   82.834
    resnext101_64x4d    83,455,272             15.460        83.246 (its recipe is V2's)
"""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.errors import UserError
from morphism.models.base import Features, Images, Model
from morphism.models.layers import BatchNorm, Dtype, conv, max_pool, relu, rematted, torch_bias, torch_uniform
from morphism.ops.precision import full_precision


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, figure 5 left)."""

    channels: int
    stride: int
    norm: partial
    dtype: Dtype
    zero_init_residual: bool
    expansion = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        y = conv(self.channels, 3, self.stride, dtype=self.dtype, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y))
        y = conv(self.channels, 3, dtype=self.dtype, name="conv2")(y)
        y = self.norm(scale_init=_last_scale(self), name="bn2")(y)
        return relu(y + _shortcut(self, x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al. 2015, figure 5 right).

    The 3x3 is `width` channels wide, in `groups`, and carries the stride, which `stride_in_1x1` moves to the first 1x1.
    """

    channels: int
    stride: int
    norm: partial
    dtype: Dtype
    zero_init_residual: bool
    width: int
    groups: int
    dilation: int
    stride_in_1x1: bool
    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        middle = {"dilation": self.dilation, "groups": self.groups}
        y = conv(self.width, 1, first, dtype=self.dtype, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y))
        y = conv(self.width, 3, second, **middle, dtype=self.dtype, name="conv2")(y)
        y = relu(self.norm(name="bn2")(y))
        y = conv(self.channels * self.expansion, 1, dtype=self.dtype, name="conv3")(y)
        y = self.norm(scale_init=_last_scale(self), name="bn3")(y)
        return relu(y + _shortcut(self, x))


def _last_scale(block: BasicBlock | Bottleneck) -> nn.initializers.Initializer:
    """Initial scale of a block's last batch norm."""
    return nn.initializers.zeros if block.zero_init_residual else nn.initializers.ones


def _shortcut(block: BasicBlock | Bottleneck, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
    """The identity, or option B of He et al. 2015: a strided 1x1 projection where the shape changes."""
    channels = block.channels * block.expansion
    if block.stride == 1 and x.shape[-1] == channels:
        return x
    x = conv(channels, 1, block.stride, dtype=block.dtype, name="downsample.0")(x)
    return block.norm(name="downsample.1")(x)


class ResNet(Model):
    """images [B, H, W, 3], any H and W >= 1  ->  logits [B, K] float32.

    With `features` it returns the maps after the stem ("relu", stride 2) and after each stage ("layer1" to "layer4",
    strides 4 to 32); initialised so, it has no parameters of a head.

    Args:
      block: BasicBlock or Bottleneck.
      layers: blocks per stage.
      remat: what of each block the backward pass computes again (models/layers.py): less memory for more time.
      groups, width_per_group: the 3x3 convolution of a bottleneck has channels * width_per_group / 64 * groups
        channels, in `groups` groups.
      output_stride: 32; or 16 or 8, where the last one or two stages dilate instead of striding, as torchvision's
        replace_stride_with_dilation does: the first block of a dilated stage keeps the dilation of the stage before.
      stride_in_1x1: the stride is on the first 1x1 of a bottleneck, as in the original weights (MSRA, Caffe), instead
        of on the 3x3, as in torchvision's ("v1.5").
      zero_init_residual: every block starts as the identity (Goyal et al. 2017, section 5.1).
      width: channels of the stem and of the first stage, doubled at each stage.
      deep_stem: three 3x3 convolutions instead of the 7x7 (mmsegmentation's ResNetV1c; He et al. 2018, "Bag of
        tricks").

    Raises UserError where basic blocks have options of bottlenecks.
    """

    has_features: ClassVar[bool] = True

    block: type[nn.Module]
    layers: tuple[int, ...]
    num_classes: int = 1000
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    remat: str = ""
    groups: int = 1
    width_per_group: int = 64
    output_stride: int = 32
    stride_in_1x1: bool = False
    zero_init_residual: bool = False
    width: int = 64
    deep_stem: bool = False

    @nn.compact
    def __call__(self, images: Images, *, train: bool, features: bool = False) -> Float[Array, "b k"] | Features:
        self._check()
        norm = partial(self.norm, train=train)
        maps = {"relu": self._stem(jnp.asarray(images, self.dtype), norm)}
        maps |= self._stages(max_pool(maps["relu"], 3, 2, 1), norm)
        if features:
            return maps
        x = jnp.mean(full_precision(maps[f"layer{len(self.layers)}"]), axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=torch_uniform, bias_init=torch_bias(x.shape[-1]), name="fc")(x)

    @nn.nowrap
    def _stem(self, x: Float[Array, "b h w 3"], norm: partial) -> Float[Array, "b h2 w2 c"]:
        if not self.deep_stem:
            x = conv(self.width, 7, 2, dtype=self.dtype, name="conv1")(x)
            return relu(norm(name="bn1")(x))
        for index, channels, stride in ((0, self.width // 2, 2), (3, self.width // 2, 1), (6, self.width, 1)):
            x = conv(channels, 3, stride, dtype=self.dtype, name=f"stem.{index}")(x)
            x = relu(norm(name=f"stem.{index + 1}")(x))
        return x

    @nn.nowrap
    def _stages(self, x: Float[Array, "b h w c"], norm: partial) -> Features:
        """The map after each stage."""
        block = rematted(self.block, self.remat)
        block = partial(block, norm=norm, dtype=self.dtype, zero_init_residual=self.zero_init_residual)
        maps, dilation, reached = {}, 1, 4
        for stage, blocks in enumerate(self.layers):
            stride, first_dilation = (2 if stage > 0 else 1), dilation
            if reached * stride > self.output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            channels = self.width * 2**stage
            for index in range(blocks):
                first = index == 0
                options = self._bottleneck_options(channels, first_dilation if first else dilation)
                name = f"layer{stage + 1}.{index}"
                x = block(channels=channels, stride=stride if first else 1, **options, name=name)(x)
            maps[f"layer{stage + 1}"] = x
        return maps

    @nn.nowrap
    def _bottleneck_options(self, channels: int, dilation: int) -> dict[str, Any]:
        if self.block is not Bottleneck:
            return {}
        return {
            "width": channels * self.width_per_group // 64 * self.groups,
            "groups": self.groups,
            "dilation": dilation,
            "stride_in_1x1": self.stride_in_1x1,
        }

    @nn.nowrap
    def _check(self) -> None:
        if self.output_stride not in (8, 16, 32):
            raise UserError(f"config.model.options.output_stride is {self.output_stride}; it must be 8, 16 or 32")
        plain = (self.output_stride, self.groups, self.width_per_group, self.stride_in_1x1) == (32, 1, 64, False)
        if self.block is BasicBlock and not plain:
            raise UserError(
                "config.model.options: output_stride, groups, width_per_group and stride_in_1x1 are for bottlenecks, "
                "which resnet18 and resnet34 have not; take resnet50 or deeper"
            )


_50, _101 = {"block": Bottleneck, "layers": (3, 4, 6, 3)}, {"block": Bottleneck, "layers": (3, 4, 23, 3)}

MODELS = {
    "resnet18": partial(ResNet, block=BasicBlock, layers=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, block=BasicBlock, layers=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, **_50),
    "resnet101": partial(ResNet, **_101),
    "resnet152": partial(ResNet, block=Bottleneck, layers=(3, 8, 36, 3)),
    "wide_resnet50_2": partial(ResNet, **_50, width_per_group=128),
    "wide_resnet101_2": partial(ResNet, **_101, width_per_group=128),
    "resnext50_32x4d": partial(ResNet, **_50, groups=32, width_per_group=4),
    "resnext101_32x8d": partial(ResNet, **_101, groups=32, width_per_group=8),
    "resnext101_64x4d": partial(ResNet, **_101, groups=64, width_per_group=4),
}
