"""What the segmenters share. Each returns, in training and evaluation alike,

    {"out": logits float32 [B,H,W,K] at the size of the images, "aux": the same of an auxiliary head, where it has one}

as torchvision's do; tasks/segmentation.py trains and judges them.

A model that takes a mean over the whole map also takes `sizes` [B,2], the height and width of what of each canvas is
image, at the top left, and leaves the rest out of the mean. Without `sizes` the whole canvas is image.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from morphism.errors import check_choice
from morphism.models import resnet
from morphism.models.layers import BatchNorm, Dtype, conv, full_precision, relu, torch_bias, torch_uniform
from morphism.ops.resize import resize_bilinear

Logits = Float[Array, "b h w k"]
Maps = dict[str, Float[Array, "b _h _w _c"]]
Sizes = Int[Array, "b 2"]

BOTTLENECKS = tuple(name for name in resnet.MODELS if name not in ("resnet18", "resnet34"))


def at_size_of(images: Float[Array, "b h w 3"], logits: Float[Array, "b _h _w k"]) -> Logits:
    """Logits of a coarser map, float32, bilinear at the images' size."""
    return resize_bilinear(full_precision(logits), *images.shape[1:3])


class OnResNet(nn.Module):
    """What segmenters on a dilated ResNet have alike: images [B,H,W,3], any H and W >= 1  ->  the outputs above.

    backbone: one of BOTTLENECKS. aux: the auxiliary head is there.
    remat, output_stride, stride_in_1x1, deep_stem: of the backbone (models/resnet.py).
    """

    backbone: str
    num_classes: int = 21
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    remat: bool = False
    aux: bool = True
    output_stride: int = 8
    stride_in_1x1: bool = False
    deep_stem: bool = False

    def cells(self, sizes: Sizes | None) -> Sizes | None:
        """The part of layer 4's map that shows images of `sizes`: every halving rounds up."""
        return None if sizes is None else -(-sizes // self.output_stride)

    def outputs(
        self,
        images: Float[Array, "b h w 3"],
        train: bool,
        head: Callable[[Maps], Array],
        aux_head: Callable[[Array], Array],
    ) -> dict[str, Logits]:
        """Of the backbone's maps `head` makes "out", with `aux` `aux_head` makes "aux" of layer 3's."""
        check_choice("config.model.options.backbone", self.backbone, BOTTLENECKS)
        maps = resnet.MODELS[self.backbone](
            dtype=self.dtype,
            norm=self.norm,
            remat=self.remat,
            output_stride=self.output_stride,
            stride_in_1x1=self.stride_in_1x1,
            deep_stem=self.deep_stem,
            name="backbone",
        )(images, train=train, features=True)
        outputs = {"out": at_size_of(images, head(maps))}
        if self.aux:
            outputs["aux"] = at_size_of(images, aux_head(maps["layer3"]))
        return outputs


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
