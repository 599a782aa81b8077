"""The state that a training begins with where it is given trained weights."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding
from ml_collections import ConfigDict

from morphism.training.state import TrainState
from morphism.weights.convert import from_torch
from morphism.weights.opening import Weights, fitting


def start_from(
    weights: Weights, state: TrainState, optimizer: optax.GradientTransformation, config: ConfigDict, sharding: Sharding
) -> tuple[TrainState, list[str]]:
    """The fresh `state` with the values of `weights` that are `fitting`, and lines that tell what was left out."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    tensors, notes = fitting(weights, variables, config)

    def begin(state: TrainState, variables: dict[str, Any]) -> TrainState:
        return state.replace(
            **variables,
            opt_state=optimizer.init(variables["params"]),
            ema=state.ema and jax.tree.map(jnp.copy, variables),
        )

    state = jax.jit(begin, out_shardings=sharding)(state, from_torch(tensors, variables))
    return state, [f"begins with {len(tensors)} arrays of {weights.origin}", *notes]
