"""PSPNet as mmsegmentation has it (Zhao et al. 2016, "Pyramid scene parsing network").

At 19 classes, with the auxiliary head:

    pspnet_resnet50     48,975,494 parameters   mIoU 78.55 on Cityscapes val, 80k steps (mmsegmentation)
    pspnet_resnet101    67,967,622                   79.76

Submodules carry mmsegmentation's names (decode_heads/psp_head.py with configs/_base_/models/pspnet_r50-d8.py), whose
table says 48.98 M. It resizes with align_corners=False, where the authors' code has True.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.layers import BatchNorm, Dtype, adaptive_avg_pool
from models.segmentation import AuxiliaryHead, ConvModule, Logits, at_size_of, conv_seg, dilated_resnet
from ops.resize import resize_bilinear

BINS = (1, 2, 3, 6)


class PyramidHead(nn.Module):
    """Means of the map over 1, 2x2, 3x3 and 6x6 bins, enlarged again, beside it; then a 3x3 and a 1x1 to classes."""

    num_classes: int
    norm: partial
    train: bool
    dtype: Dtype
    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.num_classes}"]:
        block = partial(ConvModule, self.channels, norm=self.norm, dtype=self.dtype)
        parts = [x]
        for index, bins in enumerate(BINS):
            mean = block(1, name=f"psp_modules.{index}.1")(adaptive_avg_pool(x, bins, bins))
            parts.append(resize_bilinear(mean, *x.shape[1:3]))
        x = block(3, name="bottleneck")(jnp.concatenate(parts, axis=-1))
        return conv_seg(self.num_classes, self.train, self.dtype)(x)


class PSPNet(nn.Module):
    """images [B,H,W,3], any H and W >= 1  ->  models/segmentation.py's outputs.

    deep_stem: mmsegmentation's ResNetV1c; without it the backbone is torchvision's and begins from its weights.
    output_stride, stride_in_1x1, remat: of the backbone (models/resnet.py). channels: of the head.
    """

    backbone: str
    num_classes: int = 19
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    remat: bool = False
    aux: bool = True
    output_stride: int = 8
    stride_in_1x1: bool = False
    deep_stem: bool = True
    channels: int = 512

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Logits]:
        options = (self.output_stride, self.norm, self.dtype, self.remat, self.stride_in_1x1, self.deep_stem)
        norm = partial(self.norm, train=train)
        maps = dilated_resnet(self.backbone, *options)(images, train=train, features=True)
        head = PyramidHead(self.num_classes, norm, train, self.dtype, self.channels, name="decode_head")
        outputs = {"out": at_size_of(images, head(maps["layer4"]))}
        if self.aux:
            aux = AuxiliaryHead(self.num_classes, norm, train, self.dtype, name="auxiliary_head")
            outputs["aux"] = at_size_of(images, aux(maps["layer3"]))
        return outputs


MODELS = {
    "pspnet_resnet50": partial(PSPNet, backbone="resnet50"),
    "pspnet_resnet101": partial(PSPNet, backbone="resnet101"),
}
