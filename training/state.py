"""Everything that a training step reads and writes."""

from collections.abc import Callable
from functools import cache
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from morphism import models
from morphism.runtime import checkpoint
from morphism.runtime.mesh import compiler_options


@flax.struct.dataclass
class TrainState:
    """No random key is stored: keys are made of the seed and the step.

    `ema` is None or {"params", "batch_stats"}, the moving averages that evaluation then uses.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, *, image_size: int, seed: Any, ema: bool
) -> TrainState:
    variables = models.init(model, jax.random.key(seed), image_size)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema else None,
    )


def restarted(state: TrainState, variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The fresh `state` with `variables`, "params" and "batch_stats", instead of its own."""
    return state.replace(
        **variables,
        opt_state=optimizer.init(variables["params"]),
        ema=state.ema and jax.tree.map(jnp.copy, variables),
    )


def eval_variables(state: TrainState) -> dict[str, Any]:
    """What the model is evaluated with."""
    return checkpoint.eval_variables(state.params, state.batch_stats, state.ema)


def not_finite(variables: dict[str, Any]) -> list[str]:
    """The names of the arrays that hold a number that is not finite."""
    finite = jax.device_get(_all_finite()(variables))
    leaves = jax.tree_util.tree_leaves_with_path(finite)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, each in leaves if not each]


@cache
def _all_finite() -> Callable[[Any], Any]:
    """Variables -> in their structure, whether all of an array is finite."""
    return jax.jit(
        lambda variables: jax.tree.map(lambda x: jnp.isfinite(x).all(), variables),
        compiler_options=compiler_options(once=True),
    )
