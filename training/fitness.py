"""Checks that a model fits its configuration and data: from shapes alone, before any step or workdir."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism.data.pipeline import smallest_batch
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.runtime.mesh import HOST_ONLY
from morphism.training.hyper import HyperParameters
from morphism.training.state import TrainState
from morphism.training.step import TrainStep


def initial_shapes(
    init: Callable[[HyperParameters, bool], TrainState], hyper: HyperParameters, config: ConfigDict
) -> TrainState:
    """The shapes of the state that `init` makes. Raises UserError if the architecture rejects the options."""
    try:
        return jax.eval_shape(init, hyper, config.ema.decay > 0)
    except UserError:
        raise
    except Exception as error:  # an architecture may raise anything for options out of range
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"config.model: {config.model.name} cannot be built with these options and config.data.image_size="
            f"{config.data.image_size} ({reason}); change one of them"
        ) from error


def check_norms(
    train_step: TrainStep, *, source: Source, config: ConfigDict, state: TrainState, hyper: HyperParameters, mesh: Mesh
) -> None:
    """Raises UserError for a batch norm that would train on one value per channel (models/layers.py).

    That needs a norm over a single image; only then is the step traced, with the smallest canvas.
    """
    images = config.batch_size // config.accumulate // (1 if config.model.sync_bn else mesh.size)
    if images > 1 or config.model.frozen_bn or not state.batch_stats:
        return
    batch = smallest_batch(source, config)
    like = {key: jax.ShapeDtypeStruct(x.shape, x.dtype) for key, x in batch.items() if key not in HOST_ONLY}
    jax.eval_shape(train_step, state, like, hyper)
