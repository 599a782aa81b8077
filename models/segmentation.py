"""What the segmenters share. Each returns, in training and evaluation alike,

    {"out": logits float32 [B,H,W,K] at the size of the images, "aux": the same of an auxiliary head, where it has one}

as torchvision's do; tasks/segmentation.py trains and judges them.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from errors import check_choice
from models import resnet
from models.layers import Dtype, conv, full_precision, relu, torch_bias, torch_uniform
from ops.resize import resize_bilinear

Logits = Float[Array, "b h w k"]
Maps = dict[str, Float[Array, "b _h _w _c"]]

BOTTLENECKS = tuple(name for name in resnet.MODELS if name not in ("resnet18", "resnet34"))


def at_size_of(images: Float[Array, "b h w 3"], logits: Float[Array, "b _h _w k"]) -> Logits:
    """Logits of a coarser map, float32, bilinear at the images' size."""
    return resize_bilinear(full_precision(logits), *images.shape[1:3])


def dilated_resnet(
    name: str, output_stride: int, norm: partial, dtype: Dtype, remat: bool, stride_in_1x1: bool, deep_stem: bool
) -> nn.Module:
    """The submodule "backbone": one of BOTTLENECKS, whose last stages dilate so that it ends at `output_stride`."""
    check_choice("config.model.options.backbone", name, BOTTLENECKS)
    return resnet.MODELS[name](
        dtype=dtype,
        norm=norm,
        remat=remat,
        output_stride=output_stride,
        stride_in_1x1=stride_in_1x1,
        deep_stem=deep_stem,
        name="backbone",
    )


class FCNHead(nn.Module):
    """torchvision's FCNHead: a 3x3 convolution to a quarter of the channels, batch norm, dropout, a 1x1 to classes."""

    num_classes: int
    norm: partial  # made for training or evaluation
    train: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.num_classes}"]:
        channels = x.shape[-1] // 4
        x = conv(channels, 3, dtype=self.dtype, kernel_init=torch_uniform, name="0")(x)
        x = relu(self.norm(name="1")(x))
        x = nn.Dropout(0.1, deterministic=not self.train)(x)
        return classify(self.num_classes, channels, self.dtype, "4")(x)


def classify(num_classes: int, channels: int, dtype: Dtype, name: str) -> nn.Conv:
    """A 1x1 convolution of `channels` channels to a logit a class, as torch begins it."""
    init = {"kernel_init": torch_uniform, "bias_init": torch_bias(channels)}
    return conv(num_classes, 1, dtype=dtype, bias=True, **init, name=name)


class ConvModule(nn.Module):
    """mmcv's ConvModule: convolution "conv", batch norm "bn", ReLU."""

    features: int
    kernel: int
    norm: partial
    dtype: Dtype
    dilation: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.features}"]:
        options = {"dilation": self.dilation, "groups": self.groups, "dtype": self.dtype}
        return relu(self.norm(name="bn")(conv(self.features, self.kernel, **options, name="conv")(x)))


class AuxiliaryHead(nn.Module):
    """mmsegmentation's FCNHead of one convolution: a 3x3 to 256 channels, dropout of whole channels, a 1x1."""

    num_classes: int
    norm: partial
    train: bool
    dtype: Dtype
    channels: int = 256

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.num_classes}"]:
        x = ConvModule(self.channels, 3, self.norm, self.dtype, name="convs.0")(x)
        return conv_seg(self.num_classes, self.train, self.dtype)(x)


def conv_seg(num_classes: int, train: bool, dtype: Dtype) -> Callable[[Array], Array]:
    """mmsegmentation's last step of a head: dropout of whole channels, and a 1x1 convolution to a logit a class."""
    dropout = nn.Dropout(0.1, broadcast_dims=(1, 2), deterministic=not train)
    last = conv(num_classes, 1, dtype=dtype, bias=True, kernel_init=nn.initializers.normal(0.01), name="conv_seg")
    return lambda x: last(dropout(x))
