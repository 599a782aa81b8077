"""The semantic head of Panoptic FPN as detectron2 has it (Kirillov et al. 2019, "Panoptic feature pyramid networks").

On four maps of 256 channels, with 128 channels and 54 classes (COCO's 53 stuff classes and one for all things), it has
1,630,774 parameters. Submodules carry detectron2's names (modeling/meta_arch/semantic_seg.py, SemSegFPNHead).
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphism.errors import UserError
from morphism.models.fpn import Maps
from morphism.models.layers import Dtype, conv, relu
from morphism.ops.precision import full_precision
from morphism.ops.resize import resize_bilinear


class SemanticFPNHead(nn.Module):
    """Maps of a pyramid, finest first, each half as large as the one before  ->  logits [B, h, w, K] of the finest.

    Each map is brought to the size of the finest by 3x3 convolutions with group norm and ReLU, each followed by a
    bilinear upsampling to the size of the next finer map; then all are added up. Where sizes are divisible that is
    detectron2's upsampling to twice the size; detectron2 pads images so that they are.

    Args:
      num_classes: K.
      channels: of the convolutions, a multiple of `groups`.
      groups: of the group norms.
      finest: level of the finest map that it takes, of stride 2^finest pixels; 0: the neck's finest. Levels that the
        neck lacks are the backbone's own. Read by models/multitask.py.
      first: level of the neck's finest map. Names of submodules begin with that of the first of `maps`.

    Raises UserError for other channels.
    """

    num_classes: int
    channels: int = 128
    groups: int = 32
    finest: int = 0
    dtype: Dtype = jnp.float32
    first: int = 2

    @nn.compact
    def __call__(self, maps: Maps, *, train: bool) -> Float[Array, "b _h _w {self.num_classes}"]:
        if self.channels % self.groups:
            raise UserError(f"channels is {self.channels}; semantic_fpn needs a multiple of its groups, {self.groups}")
        sizes = [x.shape[1:3] for x in maps]
        total = 0
        for index, x in enumerate(maps):
            for step in range(max(index, 1)):
                # Every second number of detectron2's is an upsampling.
                x = self._block(x, f"p{self.level + index}.{2 * step}")
                x = resize_bilinear(x, *sizes[max(index - 1 - step, 0)])
            total += x
        predictor = conv(self.num_classes, 1, dtype=self.dtype, bias=True, name="predictor")
        return full_precision(predictor(total))

    @property
    def level(self) -> int:
        """Of the first of `maps`."""
        return self.finest or self.first

    @nn.nowrap
    def _block(self, x: Float[Array, "b h w c"], name: str) -> Float[Array, "b h w {self.channels}"]:
        norm = partial(nn.GroupNorm, num_groups=self.groups, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype)
        x = conv(self.channels, 3, dtype=self.dtype, name=name)(x)
        return relu(norm(name=f"{name}.norm")(x))
