"""SegNet (Badrinarayanan, Kendall & Cipolla 2015): VGG-16's encoder, and a decoder with max-unpooling.

    segnet    29,449,355 parameters at 11 classes    106.288 GMAC at 360x480    mIoU 60.10 on CamVid

The result is that of the paper's table 3, after a long training on 3,433 road scenes.

The encoder carries torchvision's names of vgg16_bn under "encoder", the decoder those of the authors' Caffe network
(segnet_train.prototxt); no library has it.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from morphism.models.base import Images, Model
from morphism.models.layers import BatchNorm, Dtype, conv, kaiming_fan_in, relu
from morphism.models.segmentation import Logits
from morphism.models.vgg import STAGES, VGG
from morphism.ops.pooling import max_pool_positions, max_unpool
from morphism.ops.precision import full_precision


class SegNet(Model):
    """images [B, H, W, 3], H and W >= 32  ->  {"out": logits}.

    width: channels of the first stage; the other stages scale with it as in VGG.

    Raises UserError for images that the encoder pools away.
    """

    num_classes: int = 11
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    width: int = 64

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, Logits]:
        encoder = VGG(16, True, dtype=self.dtype, norm=self.norm, width=self.width, name="encoder")
        *stages, x = encoder(images, train=train, features=True).values()
        for stage in reversed(range(len(stages))):
            before = stages[stage]
            x = max_unpool(x, max_pool_positions(before), *before.shape[1:3])
            for number in reversed(range(1, STAGES[16][stage] + 1)):
                name = f"conv{stage + 1}_{number}_D"
                if (stage, number) == (0, 1):
                    x = self._conv(self.num_classes, name)(full_precision(x))
                    break
                channels = self.width * min(2 ** (stage - (number == 1)), 8)
                x = self._conv(channels, name)(x)
                x = relu(self.norm(train=train, name=f"{name}_bn")(x))
        return {"out": full_precision(x)}

    @nn.nowrap
    def _conv(self, channels: int, name: str) -> nn.Conv:
        return conv(channels, 3, dtype=self.dtype, bias=True, kernel_init=kaiming_fan_in, name=name)


MODELS = {"segnet": SegNet}
