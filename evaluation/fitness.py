"""Checks, from shapes alone, that a model fits its task and the sizes of its images."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism.data.pipeline import empty_eval_batches
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.evaluation.loop import eval_batch_size
from morphism.runtime.mesh import HOST_ONLY
from morphism.tasks import Task
from morphism.tasks.task import Counts


def check_model(model: nn.Module, task: Task, config: ConfigDict, classes: Counts, variables: dict[str, Any]) -> None:
    """Checks the shapes of a model's outputs, and that it has the batch norms that the config sets.

    Args:
      model: what config.model describes.
      task: what the model is for.
      config: the resolved configuration.
      classes: K of the data.
      variables: the model's, or their shapes.

    Raises: UserError if outputs are not the task's for K classes, or batch norms are missing.
    """
    if not variables.get("batch_stats"):
        for field in ("sync_bn", "frozen_bn"):
            if config.model[field]:
                raise UserError(
                    f"config.model.{field}: {config.model.name} with these options has no batch norm; set it to False"
                )
    size = config.data.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    outputs = jax.eval_shape(lambda variables, image: model.apply(variables, image, train=False), variables, image)
    wrong = task.misfit(model, outputs, classes)
    if wrong:
        raise UserError(f"config.model.name={config.model.name}: {wrong}; choose or mend the architecture")


def check_sizes(eval_step: Callable, variables: Any, source: Source, config: ConfigDict, mesh: Mesh) -> None:
    """Traces the evaluation of the smallest batch of each size; `variables` may be their shapes.

    Raises UserError if the network cannot take images of that size.
    """
    data = config.data
    for batch in empty_eval_batches(source, config, eval_batch_size(config, mesh)):
        height, width = batch["image"].shape[1:3]
        sent = {key: value for key, value in batch.items() if key not in HOST_ONLY}
        try:
            jax.eval_shape(eval_step, variables, sent)
        except (UserError, ValueError, TypeError, ZeroDivisionError) as error:  # whatever a network raises for a size
            field = "eval_size" if data.get("eval_size") else "canvases" if data.get("canvases") else "image_size"
            reason = str(error).partition("; ")[0].splitlines()[0]
            raise UserError(
                f"config.data.{field}: the network cannot evaluate images of {height}x{width} ({reason}); enlarge it"
            ) from error
