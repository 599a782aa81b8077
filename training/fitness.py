"""Whether a model fits its configuration and data: found from shapes alone, before any step or workdir."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data.pipeline import smallest_batch
from data.sources import Source
from errors import UserError
from training.mesh import HOST_ONLY
from training.state import TrainState
from training.step import TrainStep


def initial_shapes(init: Callable[[], Any], config: ConfigDict) -> Any:
    """The shapes of what `init` makes. Raises UserError where the architecture cannot be built as `config` says."""
    try:
        return jax.eval_shape(init)
    except UserError:
        raise
    except Exception as error:  # whatever an architecture makes of options out of its range
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"config.model: {config.model.name} cannot be built with these options and config.data.image_size="
            f"{config.data.image_size} ({reason}); change one of them"
        ) from error


def check_model(
    model: nn.Module, task: ModuleType, config: ConfigDict, classes: int, variables: dict[str, Any]
) -> None:
    """Raises UserError for outputs that are not the task's for so many classes, and for norms that are not there.

    `variables` are the model's, or their shapes.
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


def check_norms(train_step: TrainStep, source: Source, config: ConfigDict, state: TrainState, mesh: Mesh) -> None:
    """Raises UserError for a batch norm that would train on one value per channel (models/layers.py).

    That takes a single image to normalise over; the step is traced with the smallest canvas then.
    """
    images = config.batch_size // config.accumulate // (1 if config.model.sync_bn else mesh.size)
    if images > 1 or config.model.frozen_bn or not state.batch_stats:
        return
    batch = smallest_batch(source, config)
    like = {key: jax.ShapeDtypeStruct(x.shape, x.dtype) for key, x in batch.items() if key not in HOST_ONLY}
    jax.eval_shape(train_step, state, like)
