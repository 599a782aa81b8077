"""PSPNet as mmsegmentation has it (Zhao et al. 2016, "Pyramid scene parsing network").

At 19 classes, with the auxiliary head:

    pspnet_resnet50     48,975,494 parameters   mIoU 78.55 on Cityscapes val, 80k steps (mmsegmentation)
    pspnet_resnet101    67,967,622                   79.76

Submodules carry mmsegmentation's names (decode_heads/psp_head.py with configs/_base_/models/pspnet_r50-d8.py), whose
table says 48.98 M. It resizes with align_corners=False, where the authors' code has True.
"""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.models.base import Features, Sizes
from morphism.models.layers import Dtype, adaptive_avg_pool
from morphism.models.segmentation import ConvModule, MMSegmenter, conv_seg
from morphism.ops.pooling import mean_of_parts
from morphism.ops.resize import resize_bilinear, resize_parts

BINS = (1, 2, 3, 6)


class PyramidHead(nn.Module):
    """The map and its means over 1, 2x2, 3x3 and 6x6 bins, resized to its size; then a 3x3 and a 1x1 to classes.

    With `cells` [B, 2] the bins divide that top left part of each map, and are resized to it.
    """

    num_classes: int
    norm: partial
    dtype: Dtype
    channels: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], cells: Sizes | None, *, train: bool
    ) -> Float[Array, "b h w {self.num_classes}"]:
        block = partial(ConvModule, self.channels, norm=partial(self.norm, train=train), dtype=self.dtype)
        parts = [x]
        for index, bins in enumerate(BINS):
            mean = block(1, name=f"psp_modules.{index}.1")(_pooled(x, bins, cells))
            parts.append(_enlarged(mean, cells, *x.shape[1:3]))
        x = block(3, name="bottleneck")(jnp.concatenate(parts, axis=-1))
        return conv_seg(self.num_classes, train, self.dtype)(x)


def _pooled(x: Float[Array, "b h w c"], bins: int, cells: Sizes | None) -> Float[Array, "b {bins} {bins} c"]:
    """The means over bins x bins of the whole map, or of the part of `cells`."""
    return adaptive_avg_pool(x, bins, bins) if cells is None else mean_of_parts(x, cells, bins, bins)


def _enlarged(
    means: Float[Array, "b n n c"], cells: Sizes | None, height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """The bins resized (bilinear) to the whole map, or to the part of `cells`, beyond which its border is repeated."""
    if cells is None:
        return resize_bilinear(means, height, width)
    return resize_parts(means, jnp.full_like(cells, means.shape[1]), cells, height, width)


class PSPNet(MMSegmenter):
    """images [B, H, W, 3], any H and W >= 1  ->  models/segmentation.py's outputs.

    classifier: called as classifier(map of layer 4, cells, train=). The other fields are MMSegmenter's.
    """

    reads: ClassVar[tuple[str, ...]] = ("sizes",)

    @nn.nowrap
    def head(self, maps: Features, cells: Sizes | None, train: bool) -> Float[Array, "b h w k"]:
        standard = partial(PyramidHead, self.num_classes, self.norm, self.dtype, self.channels)
        return self.part(self.classifier, standard, "decode_head")(maps["layer4"], cells, train=train)


MODELS = {
    "pspnet_resnet50": partial(PSPNet, backbone="resnet50"),
    "pspnet_resnet101": partial(PSPNet, backbone="resnet101"),
}
