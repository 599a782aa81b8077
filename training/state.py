"""The state that a training step reads and writes."""

from collections.abc import Callable
from functools import cache
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from morphism import models
from morphism.runtime import checkpoint
from morphism.runtime.digest import by_path
from morphism.runtime.mesh import compiler_options


@flax.struct.dataclass
class TrainState:
    """The state of a training. It holds no random key: keys are made from the seed and the step.

    ema: None or {"params", "batch_stats"}, the moving averages that evaluation uses.
    """

    step: Any  # int32 []
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, *, image_size: int, seed: Any, ema: bool
) -> TrainState:
    """A random state; `ema`: whether moving averages are kept."""
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
    """The fresh `state` with other `variables`: "params" and "batch_stats"."""
    return state.replace(
        **variables,
        opt_state=optimizer.init(variables["params"]),
        ema=state.ema and jax.tree.map(jnp.copy, variables),
    )


def eval_variables(state: TrainState) -> dict[str, Any]:
    """The variables for evaluation: the moving averages, if they are kept."""
    return checkpoint.eval_variables(state.params, state.batch_stats, state.ema)


def not_finite(variables: dict[str, Any]) -> list[str]:
    """The paths of the arrays with a value that is not finite."""
    return [path for path, finite in by_path(jax.device_get(_all_finite()(variables))).items() if not finite]


@cache
def _all_finite() -> Callable[[Any], Any]:
    """Variables -> for each array, in the same structure, whether all its values are finite."""
    return jax.jit(
        lambda variables: jax.tree.map(lambda x: jnp.isfinite(x).all(), variables),
        compiler_options=compiler_options(once=True),
    )
