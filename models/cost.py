"""The cost of a model and of a training step, counted from shapes without running anything.

A multiply-accumulate is two floating-point operations (FLOP).
"""

import math
import re
from collections import Counter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from morphism.ops.platform import as_accelerator
from morphism.ops.resize import SCOPE

UNCOUNTED = {SCOPE, "rematted_computation"}  # names of scopes; the second is JAX's own


def parameters(params: Any) -> int:
    """The number of values in all arrays of `params`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def multiply_accumulates(model: nn.Module, variables: Any, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image's evaluation in convolutions and matrix products: torchvision's "GFLOPS".

    Products that resize a map (ops/resize.py) do not count, as torchvision counts none for its interpolation.
    """
    return by_scope(model, variables, image_shape).total()


def by_scope(model: nn.Module, variables: Any, image_shape: tuple[int, int, int]) -> Counter[str]:
    """`multiply_accumulates` per module, such as "ResNet/layer1.0/conv1"."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with as_accelerator():
        jaxpr = jax.make_jaxpr(lambda variables, image: model.apply(variables, image, train=False))(variables, image)
    return _count(jaxpr.jaxpr, "")


def of_program(jaxpr: Any) -> int:
    """Multiply-accumulates of convolutions and matrix products in a jaxpr, such as that of a whole training step.

    What config.model.remat computes a second time does not count: it saves memory and is no work of the model. Of
    branches the most expensive counts, and a loop without a fixed number of rounds counts once.
    """
    return _count(jaxpr, "").total()


def _count(jaxpr: Any, scope: str) -> Counter[str]:
    """Counts a jaxpr. Its names are relative to `scope`, the scope of the equation that contains it."""
    total: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        here = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
        if UNCOUNTED & set(re.split(r"[/()]", here)):  # vmap makes "vmap(bilinear)" of a scope
            continue
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            output_channel = equation.params["dimension_numbers"].rhs_spec[0]
            per_output = math.prod(kernel) // kernel[output_channel]
            # The gradient of a strided convolution spreads its input with zeros, which are no work.
            spread = math.prod(equation.params["lhs_dilation"])
            total[here] += math.prod(equation.outvars[0].aval.shape) * per_output // spread
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            per_output = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total[here] += math.prod(equation.outvars[0].aval.shape) * per_output
        inner = [_count(each, here) for each in jaxprs_in_params(equation.params)]
        if equation.primitive.name == "cond":
            inner = [max(inner, key=Counter.total)]
        rounds = equation.params["length"] if equation.primitive.name == "scan" else 1
        for each in inner:
            total += Counter({name: count * rounds for name, count in each.items()})
    return total
