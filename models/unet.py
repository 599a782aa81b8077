"""U-Net (Ronneberger, Fischer & Brox 2015, "U-Net: convolutional networks for biomedical image segmentation").

    unet    31,037,698 parameters at 2 classes     with batch norm, convolutions that keep the size
            31,031,810                             valid=True, batch_norm=False: the paper's network, on RGB

On images of one channel the paper's network has 31,030,658 parameters. Its results: a warping error of 0.0003529 on
ISBI 2012, IoU 0.9203 on PhC-U373. Submodules carry the names of milesial/Pytorch-UNet, which has public weights.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from morphism.errors import UserError
from morphism.models.base import Model
from morphism.models.layers import BatchNorm, ConvTranspose, Dtype, conv, kaiming_fan_in, max_pool, relu
from morphism.models.segmentation import Logits, classify
from morphism.ops.precision import full_precision


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each followed by ReLU, with batch norm `norm` or, where that is None, biases."""

    features: int
    pad: int
    norm: partial | None
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.features}"]:
        step = 2 if self.norm is None else 3
        for index in (0, step):
            options = {"pad": self.pad, "dtype": self.dtype, "bias": self.norm is None, "kernel_init": kaiming_fan_in}
            x = conv(self.features, 3, **options, name=f"double_conv.{index}")(x)
            x = relu(x if self.norm is None else self.norm(name=f"double_conv.{index + 1}")(x))
        return x


class UNet(Model):
    """images [B, H, W, C], H and W >= 2^stages  ->  {"out": logits [B, H, W, K]}.

    Args:
      width: channels at the images' size.
      stages: how often the images are halved, and the channels doubled.
      valid: convolutions without padding, as in the paper. The image is mirrored at its border as far as they need for
        logits of the whole image (the paper's overlap-tile strategy), for any size.
      batch_norm: batch norm; without it biases, as in the paper.
      dropout: rate after the two coarsest stages of the contracting path (0.5 in the paper).

    Raises UserError for images too small to halve so often.
    """

    num_classes: int = 2
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    width: int = 64
    stages: int = 4
    valid: bool = False
    batch_norm: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: Float[Array | np.ndarray, "b h w c"], *, train: bool) -> dict[str, Logits]:
        height, width = images.shape[1:3]
        if self.stages < 1:
            raise UserError(f"config.model.options.stages is {self.stages}; a U-Net has one at least")
        if min(height, width) < 2**self.stages:
            raise UserError(
                f"images of {height}x{width} are too small for U-Net, which needs {2**self.stages}x{2**self.stages}; "
                "enlarge config.data.crop"
            )
        norm = partial(self.norm, train=train) if self.batch_norm else None
        block = partial(DoubleConv, pad=0 if self.valid else 1, norm=norm, dtype=self.dtype)
        x = jnp.asarray(images, self.dtype)
        if self.valid:
            margins = _mirrored(height, self.stages), _mirrored(width, self.stages)
            x = jnp.pad(x, ((0, 0), *margins, (0, 0)), mode="reflect")
        x, skips = block(self.width, name="inc")(x), []
        for stage in range(1, self.stages + 1):
            skips.append(self._dropped(x, stage - 1, train))
            x = block(self.width * 2**stage, name=f"down{stage}.maxpool_conv.1")(max_pool(skips[-1], 2, 2, 0))
        x = self._dropped(x, self.stages, train)
        for stage, skip in enumerate(reversed(skips), start=1):
            channels = self.width * 2 ** (self.stages - stage)
            x = ConvTranspose(channels, 2, 2, dtype=self.dtype, name=f"up{stage}.up")(x)
            x = jnp.concatenate([_middle(skip, x) if self.valid else skip, x if self.valid else _padded(x, skip)], -1)
            x = block(channels, name=f"up{stage}.conv")(x)
        if self.valid:
            x = x[:, :height, :width]
        return {"out": full_precision(classify(self.num_classes, self.width, self.dtype, "outc.conv")(x))}

    @nn.nowrap
    def _dropped(self, x: Array, stage: int, train: bool) -> Array:
        if self.dropout == 0 or stage < self.stages - 1:
            return x
        return nn.Dropout(self.dropout, deterministic=not train)(x)


def _mirrored(size: int, stages: int) -> tuple[int, int]:
    """Mirrored pixels that the paper's network needs before and after `size` pixels.

    From n pixels at the coarsest stage, every stage up makes 2 n - 4, and every stage down needed 2 (n + 4).
    """
    scale = 2**stages
    lost = 4 * (scale - 1)  # on the way up: 60 in the paper
    margin = 6 * scale - 4  # of context on each side: 92 in the paper
    coarsest = -(-(size + lost) // scale)  # the least n that gives scale n - lost >= size pixels
    return margin, scale * coarsest - lost + margin - size


def _middle(skip: Array, x: Array) -> Array:
    """`skip` cropped around its centre to the size of `x`."""
    top, left = ((a - b) // 2 for a, b in zip(skip.shape[1:3], x.shape[1:3], strict=True))
    return jax.lax.slice(skip, (0, top, left, 0), (skip.shape[0], top + x.shape[1], left + x.shape[2], skip.shape[3]))


def _padded(x: Array, skip: Array) -> Array:
    """`x` padded with zeros to the size of `skip`, an odd row or column at the end."""
    spare = [a - b for a, b in zip(skip.shape[1:3], x.shape[1:3], strict=True)]
    return jnp.pad(x, ((0, 0), *((each // 2, each - each // 2) for each in spare), (0, 0)))


MODELS = {"unet": UNet}
