"""The evaluation step of every task, mapped over the devices of a mesh by jit(shard_map)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool
from ml_collections import ConfigDict

from morphism import models
from morphism.runtime.arithmetic import compiled
from morphism.runtime.mesh import AXIS, gathered, specs
from morphism.tasks import Task
from morphism.tasks.task import Batch

NONE = np.iinfo(np.int32).max  # no record has this number


def make_eval_step(
    model: nn.Module, task: Task, config: ConfigDict, mesh: Mesh, views: str = "center"
) -> Callable[[dict[str, Any], Batch], dict[str, Any]]:
    """(variables, batch) -> the task's predictions for the global batch; the rows of a device stay there.

    They also hold `valid` bool [B], and what is the same on every device: `totals`, those of the task over the global
    batch, and `broken` int32 []: the least `id` of the valid examples for which an output of the network or a
    prediction is not finite, NONE if there is none.

    Args:
      model: a linen module that takes (images, train=False, **models.inputs).
      task: normalises images, combines views and turns outputs into predictions.
      config: the resolved configuration.
      mesh: the devices that share the batch.
      views: how each image is seen, one of task.views.
    """

    def on_device(layout, shards, batch):
        variables = gathered(shards, layout)

        def apply(images, batch):
            return model.apply(variables, images, train=False, **models.inputs(model, batch))

        outputs = task.infer(apply, task.normalise(batch, config.augment), batch, config.data, views)
        predictions = task.predict(model, outputs, batch)
        broken = batch["valid"] & ~_finite((outputs, predictions), len(batch["id"]))
        least = jnp.min(jnp.where(broken, batch["id"], NONE))
        totals = jax.lax.psum(task.totals(outputs, predictions, batch), AXIS)
        return predictions | {"valid": batch["valid"]}, {"totals": totals, "broken": jax.lax.pmin(least, AXIS)}

    def step(variables, batch):
        layout = specs(variables, mesh)
        mapped = jax.shard_map(
            partial(on_device, layout),
            mesh=mesh,
            in_specs=(layout, P(AXIS)),
            out_specs=(P(AXIS), P()),
            check_vma=False,  # it does not know that the gathered parameters are the same on all devices
        )
        predictions, shared = mapped(variables, batch)
        return predictions | shared

    return compiled(step, config)


def _finite(outputs: Any, rows: int) -> Bool[Array, "b"]:
    """Whether all numbers of each example in a tree are finite; argmax finds a class even among NaNs."""
    finite = jnp.ones(rows, bool)
    for x in jax.tree.leaves(outputs):
        if jnp.issubdtype(x.dtype, jnp.inexact) and x.shape[:1] == (rows,):  # not anchors, which all examples share
            finite &= jnp.isfinite(x).reshape(rows, -1).all(axis=1)
    return finite
