"""AlexNet as torchvision has it (Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks").

    alexnet   61,100,840 parameters   0.714 GMAC at 224   ImageNet top-1 56.522 (torchvision IMAGENET1K_V1)

The original (Krizhevsky et al. 2012) is another network: 96, 256, 384, 384, 256 channels in two columns, one per GPU,
so that the second, fourth and fifth convolutions see half of the channels before them (two groups); local response
normalisation after the first two; 60,965,224 parameters. It reported 40.7 % top-1 and 18.2 % top-5 error on the
validation set of 2012, averaged over ten crops. Here, as in torchvision, there is one column of 64, 192, 384, 256, 256
channels, no normalisation, and dropout before the two hidden dense layers instead of after them.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.errors import UserError
from morphism.models.base import Features, Images, Model
from morphism.models.layers import Dtype, adaptive_avg_pool, conv, flatten, max_pool, relu, torch_bias, torch_uniform
from morphism.ops.precision import full_precision

# Index, channels, kernel, stride and padding; POOLED are those that a 3x3 max-pooling of stride 2 follows.
CONVOLUTIONS = ((0, 64, 11, 4, 2), (3, 192, 5, 1, 2), (6, 384, 3, 1, 1), (8, 256, 3, 1, 1), (10, 256, 3, 1, 1))
POOLED = (0, 3, 10)


class AlexNet(Model):
    """images [B, H, W, 3], H and W >= 63 with torchvision's stem  ->  logits [B, K] float32.

    With `features` it returns the activations before each pooling and the last pooled ones, under torchvision's names:
    features.1, features.4, features.11 and features.12, at strides 4, 8, 16 and 32.

    stem: kernel, stride and padding of the first convolution; a smaller stride admits smaller images.
    pooled: height and width of the map that the dense layers see.
    hidden: width of the two hidden dense layers.
    dropout: rate before each of the two.

    Raises UserError for images that the network pools away.
    """

    has_features: ClassVar[bool] = True

    num_classes: int = 1000
    dtype: Dtype = jnp.float32
    stem: tuple[int, int, int] = (11, 4, 2)
    pooled: int = 6
    hidden: int = 4096
    dropout: float = 0.5

    @nn.compact
    def __call__(self, images: Images, *, train: bool, features: bool = False) -> Float[Array, "b k"] | Features:
        x, maps = jnp.asarray(images, self.dtype), {}
        for index, channels, *window in CONVOLUTIONS:
            kernel, stride, pad = self.stem if index == 0 else window
            init = {"kernel_init": torch_uniform, "bias_init": torch_bias(kernel * kernel * x.shape[-1])}
            options = {"pad": pad, "dtype": self.dtype, "bias": True, **init}
            x = relu(conv(channels, kernel, stride, **options, name=f"features.{index}")(x))
            if index in POOLED:
                maps[f"features.{index + 1}"] = x
                if min(x.shape[1:3]) < 3:
                    kernel, stride, pad = self.stem
                    least = 14 * stride + kernel - 2 * pad  # three poolings of 3x3 leave 1x1 of the stem's 15x15
                    raise UserError(
                        f"images of {images.shape[1]}x{images.shape[2]} are too small for AlexNet with its stem of "
                        f"{self.stem}, which needs {least}x{least}; enlarge config.data.image_size, or set "
                        "config.model.options.stem"
                    )
                x = max_pool(x, 3, 2, 0)
        if features:
            return maps | {f"features.{POOLED[-1] + 2}": x}
        x = flatten(adaptive_avg_pool(x, self.pooled, self.pooled))
        for name in ("classifier.1", "classifier.4"):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = relu(_dense(self.hidden, x, self.dtype, name))
        return _dense(self.num_classes, full_precision(x), None, "classifier.6")


def _dense(width: int, x: Float[Array, "b f"], dtype: Dtype | None, name: str) -> Float[Array, "b {width}"]:
    return nn.Dense(width, dtype=dtype, kernel_init=torch_uniform, bias_init=torch_bias(x.shape[-1]), name=name)(x)


MODELS = {"alexnet": AlexNet}
