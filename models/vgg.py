"""VGG as torchvision has it (Simonyan & Zisserman 2014, table 1, configurations A, B, D and E), without and with BN.

At 1000 classes, multiply-accumulates at 224, ImageNet top-1 of torchvision's IMAGENET1K_V1:

    vgg11   132,863,336 parameters    7.609 GMAC   69.020      vgg11_bn   132,868,840   70.370
    vgg13   133,047,848              11.308        69.928      vgg13_bn   133,053,736   71.586
    vgg16   138,357,544              15.470        71.592      vgg16_bn   138,365,992   73.360
    vgg19   143,667,240              19.632        72.376      vgg19_bn   143,678,248   74.218
"""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.errors import UserError
from morphism.models.base import Features, Images, Model
from morphism.models.layers import BatchNorm, Dtype, adaptive_avg_pool, conv, flatten, max_pool, relu
from morphism.ops.precision import full_precision

# Convolutions per stage. The five stages have 64, 128, 256, 512 and 512 channels; each ends in a 2x2 max-pooling.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(Model):
    """images [B, H, W, 3], H and W >= 32  ->  logits [B, K] float32.

    With `features` it returns the activations before each pooling and the last pooled ones, under torchvision's names
    (in vgg16 features.3, features.8, features.15, features.22, features.29 and features.30), at strides 1, 2, 4, 8, 16
    and 32.

    Args:
      depth: 11, 13, 16 or 19.
      batch_norm: after each convolution.
      width: channels of the first stage.
      pooled: height and width of the map that the dense layers see.
      hidden: width of the two hidden dense layers.
      dropout: rate after each of the two.

    Raises UserError for images that the network pools away.
    """

    has_features: ClassVar[bool] = True

    depth: int
    batch_norm: bool
    num_classes: int = 1000
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    width: int = 64
    pooled: int = 7
    hidden: int = 4096
    dropout: float = 0.5

    @nn.compact
    def __call__(self, images: Images, *, train: bool, features: bool = False) -> Float[Array, "b k"] | Features:
        if min(images.shape[1:3]) < 32:
            raise UserError(
                f"images of {images.shape[1]}x{images.shape[2]} are too small for VGG, which needs 32x32; enlarge "
                "config.data.image_size"
            )
        x, maps, index = jnp.asarray(images, self.dtype), {}, 0
        for stage, convolutions in enumerate(STAGES[self.depth]):
            for _ in range(convolutions):
                channels = self.width * min(2**stage, 8)
                x = conv(channels, 3, dtype=self.dtype, bias=True, name=f"features.{index}")(x)
                if self.batch_norm:
                    x = self.norm(train=train, name=f"features.{index + 1}")(x)
                x = relu(x)
                index += 3 if self.batch_norm else 2
            maps[f"features.{index - 1}"] = x
            x = max_pool(x, 2, 2, 0)
            index += 1
        if features:
            return maps | {f"features.{index - 1}": x}
        x = flatten(adaptive_avg_pool(x, self.pooled, self.pooled))
        for name in ("classifier.0", "classifier.3"):
            x = relu(nn.Dense(self.hidden, dtype=self.dtype, kernel_init=nn.initializers.normal(0.01), name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="classifier.6")(
            full_precision(x)
        )


MODELS = {f"vgg{depth}": partial(VGG, depth=depth, batch_norm=False) for depth in STAGES} | {
    f"vgg{depth}_bn": partial(VGG, depth=depth, batch_norm=True) for depth in STAGES
}
