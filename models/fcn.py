"""Fully convolutional networks (Long, Shelhamer & Darrell 2015), on ResNet as torchvision has them, on VGG-16 as Caffe.

At 21 classes, with the auxiliary head; multiply-accumulates at 520x520, of FCN-32s to 8s at 500x500:

    fcn_resnet50     35,322,218 parameters   152.717 GMAC   mIoU 60.5 on COCO val2017 with VOC's classes (torchvision)
    fcn_resnet101    54,314,346              232.738             63.7
    fcn32s_vgg16    136,152,917              181.425             63.6 on seg11valid (the authors' repository)
    fcn16s_vgg16    134,815,994                                  65.0
    fcn8s_vgg16     134,489,759              181.546             65.5

Submodules of the first two carry torchvision's names (torchvision/models/segmentation/fcn.py); the others those of
torchvision's VGG-16, dense layers included, so that training can start from its checkpoint, and the Caffe reference's
where VGG has none.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.models.base import Features, Images, Model, Sizes
from morphism.models.layers import ConvTranspose, Dtype, bilinear_kernel, conv, max_pool, relu
from morphism.models.segmentation import FCNHead, Logits, OnResNet
from morphism.ops.precision import full_precision

PAD = 100  # around the image: the reference's, so that the coarsest map covers every pixel of any image
CONVOLUTIONS = (2, 2, 3, 3, 3)  # of VGG-16's stages
SKIPS = {32: (), 16: ((4, 5),), 8: ((4, 5), (3, 9))}  # stride -> stages fused in, and the crop of their scores
CROPS = {32: 19, 16: 27, 8: 31}  # of the last upsampled scores
AT_ONCE = {4: 0.01, 3: 0.0001}  # scale of a stage's pooled maps before their scores, with at_once


class FCNResNet(OnResNet):
    """images [B, H, W, 3], any H and W >= 1  ->  models/segmentation.py's outputs.

    classifier: called as classifier(map of layer 4, train=). The other fields are OnResNet's.
    """

    @nn.nowrap
    def head(self, maps: Features, cells: Sizes | None, train: bool) -> Float[Array, "b h w k"]:
        standard = partial(FCNHead, self.num_classes, self.norm, self.dtype)
        return self.part(self.classifier, standard, "classifier")(maps["layer4"], train=train)


class FCNVGG16(Model):
    """images [B, H, W, 3], any H and W >= 1  ->  {"out": logits}.

    Args:
      stride: 32, 16 or 8, of the finest map whose scores are fused with those of fc7.
      at_once: pooled maps are scaled before their scores, so that FCN-16s and 8s train in one go; otherwise each starts
        from the trained coarser one.
      dropout: after fc6 and fc7.
      width: channels of the first stage.
      hidden: channels of fc6 and fc7.

    Scores are initially 0, and upsampling is bilinear, which the reference does not train:
    config.optimizer.freeze=("upscore*",). fc6 and fc7 are convolutions of 7x7 and 1x1 under the names and with the
    shapes of VGG's dense layers "classifier.0" and "classifier.3".

    Source: voc-fcn*/net.py of fcn.berkeleyvision.org, whose names the scores and upsampling layers carry.
    """

    stride: int
    num_classes: int = 21
    dtype: Dtype = jnp.float32
    at_once: bool = False
    dropout: float = 0.5
    width: int = 64
    hidden: int = 4096

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, Logits]:
        x, pooled, index = jnp.asarray(images, self.dtype), {}, 0
        for stage, convolutions in enumerate(CONVOLUTIONS, start=1):
            for _ in range(convolutions):
                pad = PAD if index == 0 else 1
                channels = self.width * min(2 ** (stage - 1), 8)
                x = relu(conv(channels, 3, pad=pad, dtype=self.dtype, bias=True, name=f"features.{index}")(x))
                index += 2
            index += 1
            pooled[stage] = x = max_pool(x, 2, 2, 0, ceil=True)
        for kernel, name in ((7, "classifier.0"), (1, "classifier.3")):
            x = relu(DenseAsConv(self.hidden, kernel, self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)

        def score(x: Array, name: str) -> Array:
            zeros = nn.initializers.zeros
            return conv(self.num_classes, 1, dtype=self.dtype, bias=True, kernel_init=zeros, name=name)(x)

        def upsampled(x: Array, factor: int, name: str) -> Array:
            init = {"bias": False, "kernel_init": bilinear_kernel, "dtype": self.dtype}
            return ConvTranspose(self.num_classes, 2 * factor, factor, **init, name=name)(x)

        x = score(x, "score_fr")
        for number, (stage, crop) in enumerate(SKIPS[self.stride]):
            x = upsampled(x, 2, "upscore2" if number == 0 else "upscore_pool4")
            scale = AT_ONCE[stage] if self.at_once else 1.0
            skip = score(pooled[stage] * scale, f"score_pool{stage}")
            x += skip[:, crop : crop + x.shape[1], crop : crop + x.shape[2]]
        x = upsampled(x, self.stride, "upscore" if self.stride == 32 else f"upscore{self.stride}")
        crop, (height, width) = CROPS[self.stride], images.shape[1:3]
        return {"out": full_precision(x[:, crop : crop + height, crop : crop + width])}


class DenseAsConv(nn.Module):
    """A dense layer over flattened kernel x kernel maps, applied to larger maps as a convolution.

    Its weights have the shape of the dense layer, channels first, as torch flattens.
    """

    features: int
    kernel: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.features}"]:
        channels, size = x.shape[-1], self.kernel
        shape = (channels * size * size, self.features)
        dense = self.param("kernel", nn.initializers.normal(0.01), shape, jnp.float32)
        kernel = dense.reshape(channels, size, size, self.features).transpose(1, 2, 0, 3).astype(self.dtype)
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)


MODELS = {
    "fcn_resnet50": partial(FCNResNet, backbone="resnet50"),
    "fcn_resnet101": partial(FCNResNet, backbone="resnet101"),
    **{f"fcn{stride}s_vgg16": partial(FCNVGG16, stride=stride) for stride in SKIPS},
}
