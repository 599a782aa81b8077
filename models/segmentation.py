"""What the segmenters share. A segmenter returns, in training and evaluation alike,

    {"out": logits float32 [B, H, W, K] at the size of the images, "aux": those of an auxiliary head, if it has one}

as torchvision's do; tasks/segmentation.py trains and evaluates them.

A model that pools over the whole map reads `sizes` [B, 2], the height and width of the image at the top left of each
canvas, and pools over that part alone. Without `sizes` the whole canvas is image.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.errors import check_choice
from morphism.models import resnet
from morphism.models.base import Features, Images, Model, Sizes
from morphism.models.layers import BatchNorm, Dtype, conv, relu, torch_bias, torch_uniform
from morphism.ops.precision import full_precision
from morphism.ops.resize import resize_bilinear

Logits = Float[Array, "b h w k"]

BOTTLENECKS = tuple(name for name in resnet.MODELS if name not in ("resnet18", "resnet34"))


def at_size_of(images: Images, logits: Float[Array, "b _h _w k"]) -> Logits:
    """Logits of a coarser map, in float32, resized to the images' size (bilinear)."""
    return resize_bilinear(full_precision(logits), *images.shape[1:3])


class OnResNet(Model):
    """A segmenter on a dilated ResNet: images [B, H, W, 3], any H and W >= 1  ->  the outputs above.

    Args:
      backbone: one of BOTTLENECKS.
      aux: with the auxiliary head, on the backbone's third stage.
      remat, output_stride, stride_in_1x1, deep_stem: of the backbone (models/resnet.py).
      classifier: module in place of the architecture's head, called with the same arguments.
      aux_classifier: module in place of the auxiliary head, called as aux_classifier([B, h, w, C], train=).
    """

    head_names: ClassVar[tuple[str, str]] = ("classifier", "aux_classifier")

    backbone: str
    num_classes: int = 21
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    remat: str = ""
    aux: bool = True
    output_stride: int = 8
    stride_in_1x1: bool = False
    deep_stem: bool = False
    classifier: nn.Module | None = None
    aux_classifier: nn.Module | None = None

    @nn.compact
    def __call__(self, images: Images, *, train: bool, sizes: Sizes | None = None) -> dict[str, Logits]:
        self.check_options()
        backbone = resnet.MODELS[self.backbone](
            dtype=self.dtype,
            norm=self.norm,
            remat=self.remat,
            output_stride=self.output_stride,
            stride_in_1x1=self.stride_in_1x1,
            deep_stem=self.deep_stem,
            name="backbone",
        )
        maps = backbone(images, train=train, features=True)
        # The part of layer 4's map that shows the image: every halving rounds up.
        cells = None if sizes is None else -(-sizes // self.output_stride)
        outputs = {"out": at_size_of(images, self.head(maps, cells, train))}
        if self.aux:
            head = self.part(self.aux_classifier, self.standard_aux_head(), self.head_names[1])
            outputs["aux"] = at_size_of(images, head(maps["layer3"], train=train))
        return outputs

    @nn.nowrap
    def head(self, maps: Features, cells: Sizes | None, train: bool) -> Float[Array, "b h w k"]:
        """Logits of the backbone's maps. `cells` [B, 2]: the part of layer 4's map, at the top left, that is image."""
        raise NotImplementedError

    @nn.nowrap
    def standard_aux_head(self) -> Callable[..., nn.Module]:
        """The constructor of the auxiliary head: torchvision's."""
        return partial(FCNHead, self.num_classes, self.norm, self.dtype)

    @nn.nowrap
    def check_options(self) -> None:
        """Raises UserError for options out of range."""
        check_choice("config.model.options.backbone", self.backbone, BOTTLENECKS)


class MMSegmenter(OnResNet):
    """A segmenter as mmsegmentation has it.

    deep_stem: of the backbone, which is mmsegmentation's ResNetV1c; without it, it is torchvision's, whose weights it
      takes.
    channels: of the head.
    """

    head_names: ClassVar[tuple[str, str]] = ("decode_head", "auxiliary_head")

    num_classes: int = 19
    deep_stem: bool = True
    channels: int = 512

    @nn.nowrap
    def standard_aux_head(self) -> Callable[..., nn.Module]:
        """The constructor of mmsegmentation's auxiliary head."""
        return partial(AuxiliaryHead, self.num_classes, self.norm, self.dtype)


class FCNHead(nn.Module):
    """torchvision's FCNHead: a 3x3 convolution to a quarter of the channels, batch norm, dropout, a 1x1 to classes."""

    num_classes: int
    norm: partial = partial(BatchNorm)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w {self.num_classes}"]:
        channels = x.shape[-1] // 4
        x = conv(channels, 3, dtype=self.dtype, kernel_init=torch_uniform, name="0")(x)
        x = relu(self.norm(train=train, name="1")(x))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return classify(self.num_classes, channels, self.dtype, "4")(x)


def classify(num_classes: int, channels: int, dtype: Dtype, name: str) -> nn.Conv:
    """A 1x1 convolution of `channels` channels to a logit per class, with torch's initial values."""
    init = {"kernel_init": torch_uniform, "bias_init": torch_bias(channels)}
    return conv(num_classes, 1, dtype=dtype, bias=True, **init, name=name)


class ConvModule(nn.Module):
    """mmcv's ConvModule: convolution "conv", batch norm "bn", ReLU. `norm` is made for training or evaluation."""

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
    """mmsegmentation's FCNHead with one convolution: a 3x3 to 256 channels, dropout of whole channels, a 1x1."""

    num_classes: int
    norm: partial = partial(BatchNorm)
    dtype: Dtype = jnp.float32
    channels: int = 256

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w {self.num_classes}"]:
        x = ConvModule(self.channels, 3, partial(self.norm, train=train), self.dtype, name="convs.0")(x)
        return conv_seg(self.num_classes, train, self.dtype)(x)


def conv_seg(num_classes: int, train: bool, dtype: Dtype) -> Callable[[Array], Array]:
    """mmsegmentation's last step of a head: dropout of whole channels, and a 1x1 convolution to a logit per class."""
    dropout = nn.Dropout(0.1, broadcast_dims=(1, 2), deterministic=not train)
    last = conv(num_classes, 1, dtype=dtype, bias=True, kernel_init=nn.initializers.normal(0.01), name="conv_seg")
    return lambda x: last(dropout(x))
