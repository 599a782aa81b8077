"""The feature pyramid (Lin et al. 2016, "Feature pyramid networks for object detection") as torchvision has it.

Source: torchvision/ops/feature_pyramid_network.py, whose names the submodules carry.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.models.base import Images
from morphism.models.layers import Dtype, conv, relu

kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # torch.nn.init.kaiming_uniform_(a=1)

Maps = Sequence[Float[Array, "b _h _w _c"]]


class FeaturePyramid(nn.Module):
    """A backbone's maps, finest first, each half as large as the one before  ->  maps of `channels`, and coarser ones.

    Half a size is rounded up, as convolutions of stride 2 do.

    top: the coarser maps. "p5": two, by strided 3x3 convolutions of the pyramid's last map; "c5": the same of the
      backbone's last map (P6 and P7 of RetinaNet); "pool": every second pixel of the pyramid's last (Faster R-CNN).
    norm: batch norm of the convolutions, made for training or evaluation; None: biases instead.
    """

    top: str
    channels: int = 256
    dtype: Dtype = jnp.float32
    norm: partial | None = None

    @nn.compact
    def __call__(self, maps: Maps) -> list[Float[Array, "b _h _w {self.channels}"]]:
        def layer(name: str, kernel: int, stride: int = 1) -> nn.Conv:
            options = {"dtype": self.dtype, "bias": True, "kernel_init": kaiming_uniform}
            return conv(self.channels, kernel, stride, **options, name=name)

        def block(name: str, kernel: int, x: Array) -> Array:
            if self.norm is None:
                return layer(f"{name}.0", kernel)(x)
            x = conv(self.channels, kernel, dtype=self.dtype, kernel_init=kaiming_uniform, name=f"{name}.0")(x)
            return self.norm(name=f"{name}.1")(x)

        pyramid, coarser = [], None
        for index, x in reversed(list(enumerate(maps))):
            x = block(f"inner_blocks.{index}", 1, x)
            coarser = x if coarser is None else x + upsample(coarser, *x.shape[1:3])
            pyramid.insert(0, block(f"layer_blocks.{index}", 3, coarser))
        if self.top == "pool":
            return [*pyramid, pyramid[-1][:, ::2, ::2]]
        p6 = layer("extra_blocks.p6", 3, 2)({"p5": pyramid, "c5": maps}[self.top][-1])
        return [*pyramid, p6, layer("extra_blocks.p7", 3, 2)(relu(p6))]


class Backbone(nn.Module):
    """A detector's backbone of any model with features: images -> the maps `layers`, or a pyramid of them.

    body: the model; layers: names of its feature maps, finest first; fpn: a FeaturePyramid of them.

    Source: torchvision/models/detection/backbone_utils.py, BackboneWithFPN.
    """

    body: nn.Module
    layers: tuple[str, ...]
    fpn: nn.Module | None = None

    def __call__(self, images: Images, *, train: bool) -> Maps:
        features = self.body(images, train=train, features=True)
        maps = [features[name] for name in self.layers]
        return maps if self.fpn is None else self.fpn(maps)


def upsample(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """Nearest-neighbour upsampling to twice the size of `x`, or one pixel less.

    For these sizes torch.nn.functional.interpolate(mode="nearest"), which takes pixel floor(i h / height), equals
    doubling every pixel and cropping.
    """
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, :height, :width]
