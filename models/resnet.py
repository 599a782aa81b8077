"""ResNet as torchvision has it (He et al. 2015, "Deep residual learning"; v1.5: stride 2 on the 3x3 convolution).

Submodules carry torchvision's names (torchvision/models/resnet.py), so that a parameter's path joined with dots is the
checkpoint's key. At 1000 classes, multiply-accumulates at 224, ImageNet top-1 of torchvision's IMAGENET1K_V1:

    resnet18    11,689,512 parameters   1.814 GMAC   69.758
    resnet34    21,797,672              3.664        73.314
    resnet50    25,557,032              4.089        76.130
    resnet101   44,549,160              7.801        77.374
    resnet152   60,192,808             11.514        78.312
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.layers import BatchNorm, Dtype, conv, max_pool, relu, torch_linear


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
        last_scale = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        y = conv(self.channels, 3, self.stride, dtype=self.dtype, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y))
        y = conv(self.channels, 3, dtype=self.dtype, name="conv2")(y)
        y = self.norm(scale_init=last_scale, name="bn2")(y)
        return relu(y + _shortcut(self, x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions and a shortcut (He et al. 2015, figure 5 right)."""

    channels: int
    stride: int
    norm: partial
    dtype: Dtype
    zero_init_residual: bool
    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        last_scale = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        y = conv(self.channels, 1, dtype=self.dtype, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y))
        y = conv(self.channels, 3, self.stride, dtype=self.dtype, name="conv2")(y)
        y = relu(self.norm(name="bn2")(y))
        y = conv(self.channels * self.expansion, 1, dtype=self.dtype, name="conv3")(y)
        y = self.norm(scale_init=last_scale, name="bn3")(y)
        return relu(y + _shortcut(self, x))


def _shortcut(block: BasicBlock | Bottleneck, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
    """The identity, or option B of He et al. 2015: a strided 1x1 projection where the shape changes."""
    channels = block.channels * block.expansion
    if block.stride == 1 and x.shape[-1] == channels:
        return x
    x = conv(channels, 1, block.stride, dtype=block.dtype, name="downsample.0")(x)
    return block.norm(name="downsample.1")(x)


class ResNet(nn.Module):
    """images [B,H,W,3], any H and W >= 1  ->  logits [B,num_classes] float32.

    `remat` recomputes each block's activations in the backward pass: less memory for about a third more time.
    `zero_init_residual` starts every block as the identity (Goyal et al. 2017, section 5.1).
    """

    block: type[nn.Module]
    layers: tuple[int, int, int, int]
    num_classes: int = 1000
    dtype: Dtype = jnp.float32
    bn_axis: str | None = None
    remat: bool = False
    zero_init_residual: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b k"]:
        norm = partial(BatchNorm, train=train, axis_name=self.bn_axis, dtype=self.dtype)
        block = nn.remat(self.block) if self.remat else self.block
        x = conv(64, 7, 2, dtype=self.dtype, name="conv1")(images.astype(self.dtype))
        x = relu(norm(name="bn1")(x))
        x = max_pool(x, 3, 2, 1)
        for stage, blocks in enumerate(self.layers):
            for index in range(blocks):
                x = block(
                    channels=64 * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    norm=norm,
                    dtype=self.dtype,
                    zero_init_residual=self.zero_init_residual,
                    name=f"layer{stage + 1}.{index}",
                )(x)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=torch_linear, name="fc")(x)


MODELS = {
    "resnet18": partial(ResNet, block=BasicBlock, layers=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, block=BasicBlock, layers=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, block=Bottleneck, layers=(3, 4, 6, 3)),
    "resnet101": partial(ResNet, block=Bottleneck, layers=(3, 4, 23, 3)),
    "resnet152": partial(ResNet, block=Bottleneck, layers=(3, 8, 36, 3)),
}
