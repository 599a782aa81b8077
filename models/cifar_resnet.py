"""The ResNets for 32x32 images of He et al. 2015, section 4.2: 6n+2 layers of 16, 32 and 64 channels.

Shortcuts are the paper's option A: identity, subsampled by 2 and padded with zero channels, hence without parameters.
Parameters at 10 classes, multiply-accumulates at 32x32, and the paper's CIFAR-10 error in percent (table 6):

    cifar_resnet20     269,722   0.041 GMAC   8.75
    cifar_resnet32     464,154   0.069        7.51
    cifar_resnet44     658,586   0.097        7.17
    cifar_resnet56     853,018   0.125        6.97
    cifar_resnet110  1,727,962   0.253        6.43 (best of five; mean 6.61)
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.models.base import Images, Model
from morphism.models.layers import BatchNorm, Dtype, conv, kaiming_fan_in, relu, rematted, torch_uniform
from morphism.ops.precision import full_precision


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    channels: int
    stride: int
    norm: partial
    dtype: Dtype
    zero_init_residual: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        last_scale = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        y = conv(self.channels, 3, self.stride, dtype=self.dtype, kernel_init=kaiming_fan_in, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y))
        y = conv(self.channels, 3, dtype=self.dtype, kernel_init=kaiming_fan_in, name="conv2")(y)
        y = self.norm(scale_init=last_scale, name="bn2")(y)
        return relu(y + shortcut_a(x, self.channels, self.stride))


def shortcut_a(x: Float[Array, "b h w c"], channels: int, stride: int) -> Float[Array, "b h2 w2 c2"]:
    """Option A of He et al. 2015, section 3.3: every stride-th pixel, with channels of zeros, half on either side."""
    x = x[:, ::stride, ::stride]
    extra = channels - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


class CifarResNet(Model):
    """images [B, H, W, 3], any H and W >= 1  ->  logits [B, K] float32.

    depth: 6n+2. zero_init_residual: every block starts as the identity. remat: as in models/resnet.py.
    """

    depth: int
    num_classes: int = 10
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    remat: str = ""
    zero_init_residual: bool = False

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> Float[Array, "b k"]:
        norm = partial(self.norm, train=train)
        options = {"norm": norm, "dtype": self.dtype, "zero_init_residual": self.zero_init_residual}
        block = partial(rematted(Block, self.remat), **options)
        x = conv(16, 3, dtype=self.dtype, kernel_init=kaiming_fan_in, name="conv1")(jnp.asarray(images, self.dtype))
        x = relu(norm(name="bn1")(x))
        for stage in range(3):
            for index in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and index == 0 else 1
                x = block(16 * 2**stage, stride, name=f"layer{stage + 1}.{index}")(x)
        x = jnp.mean(full_precision(x), axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=torch_uniform, name="fc")(x)


MODELS = {f"cifar_resnet{depth}": partial(CifarResNet, depth=depth) for depth in (8, 14, 20, 32, 44, 56, 110)}
