"""How the programs of a configuration compute: config.precision and config.deterministic take effect here alone.

Both belong to a compiled program, not to the process: several configurations can train in one process, in threads too.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
from ml_collections import ConfigDict

from morphism.runtime.mesh import compiler_options


def compiled(function: Callable, config: ConfigDict, *, once: bool = False, **options: Any) -> Callable:
    """jax.jit of `function`, computing as `config` says.

    once: for a program that runs once (runtime/mesh.py). options: of jax.jit.
    """
    return jax.jit(
        at_precision(function, config.precision),
        compiler_options=compiler_options(once=once, deterministic=config.deterministic),
        **options,
    )


def at_precision(function: Callable, precision: str) -> Callable:
    """`function` with float32 convolutions and matrix products, gradients included, at config.precision.

    "default" leaves them as JAX's own setting, jax_default_matmul_precision, has them. Products whose code names a
    precision keep it.
    """
    if precision == "default":
        return function

    @wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*args, **kwargs)

    return traced
