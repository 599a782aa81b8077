"""The evaluation step of every task, mapped over the devices of a mesh by jit(shard_map)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool
from ml_collections import ConfigDict

from morphism import models
from morphism.runtime.arithmetic import compiled
from morphism.runtime.mesh import AXIS
from morphism.tasks import Task
from morphism.tasks.task import Batch


def make_eval_step(
    model: nn.Module, task: Task, config: ConfigDict, mesh: Mesh, views: str = "center"
) -> Callable[[dict[str, Any], Batch], dict[str, Array]]:
    """(variables, batch) -> the task's predictions for the global batch, complete on every process.

    They also hold `valid` bool [B], and `finite` bool [B]: whether all of the network's outputs for an example are.

    Args:
      model: a linen module that takes (images, train=False, **models.inputs).
      task: normalises images, combines views and turns outputs into predictions.
      config: the resolved configuration.
      mesh: the devices that share the batch.
      views: how each image is seen, one of task.views.
    """

    def step(variables, batch):
        def apply(images, batch):
            return model.apply(variables, images, train=False, **models.inputs(model, batch))

        outputs = task.infer(apply, task.normalise(batch, config.augment), batch, config.data, views)
        predictions = task.predict(model, outputs, batch)
        predictions |= {"valid": batch["valid"], "finite": _finite(outputs, len(batch["id"]))}
        return jax.lax.all_gather(predictions, AXIS, tiled=True)

    # all_gather's result is the same on all devices, which shard_map's check cannot infer.
    return compiled(jax.shard_map(step, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(), check_vma=False), config)


def _finite(outputs: Any, rows: int) -> Bool[Array, "b"]:
    """Whether all outputs of each example are finite; argmax finds a class even among NaNs."""
    finite = jnp.ones(rows, bool)
    for x in jax.tree.leaves(outputs):
        if jnp.issubdtype(x.dtype, jnp.inexact) and x.shape[:1] == (rows,):  # not anchors, which all examples share
            finite &= jnp.isfinite(x).reshape(rows, -1).all(axis=1)
    return finite
