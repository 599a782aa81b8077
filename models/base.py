"""What every architecture states of itself, and how modules take the place of its parts."""

from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, Int

Images = Float[Array | np.ndarray, "b h w 3"]
Sizes = Int[Array | np.ndarray, "b 2"]  # height and width of the image on each canvas
Features = dict[str, Float[Array, "b _h _w _c"]]  # feature maps by name


class Model(nn.Module):
    """An architecture; models/__init__.py has the contract of its call.

    reads: what the call takes besides `images` and `train`, by name.
      "targets": a batch's boxes and sizes, as models/detection.py lists them. Evaluation reads their `size` alone.
      "sizes": [B, 2], height and width of the image on its canvas, for models that pool over the whole map.
    has_features: whether the call takes `features` as well: the model can serve as a backbone.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    has_features: ClassVar[bool] = False

    @nn.nowrap
    def check_parts(self) -> None:
        """Raises UserError for parts of the network that do not go together; models.create asks."""

    @nn.nowrap
    def part(self, given: nn.Module | None, standard: Callable[..., nn.Module] | None, name: str) -> nn.Module:
        """The submodule `name`: the field `given`, if it holds a module, or else standard(name=name).

        Linen names a module in a field after the field; here its parameters get the reference's names instead.
        """
        if given is None:
            return standard(name=name)
        return given if given.name == name else given.clone(parent=self, name=name)
