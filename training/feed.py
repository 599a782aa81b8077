"""The batches of a training, on the devices: from the host's pipeline, or of a split that stays there."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism.data.intensity import settle
from morphism.data.pipeline import Batch, train_batches
from morphism.data.records import Source
from morphism.runtime.mesh import to_devices
from morphism.runtime.resident import Resident


def training_pairs(
    source: Source,
    config: ConfigDict,
    mesh: Mesh,
    start: int,
    stop: int,
    watch: Callable[[Iterable[Batch]], Iterable[Batch]] = iter,
    feed: Callable[..., Iterator[Batch]] = train_batches,
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """Pairs of what the host has of a batch, and the global batch on the devices, for steps start .. stop - 1.

    The host has all of it, or with config.data.on_device id, draw, valid and HOST_ONLY. watch: sees each of the host's
    parts. feed: makes the host's batches, with the arguments of train_batches.
    """
    if config.data.on_device:
        settled = settle(config, source) if config.data.pixels == "auto" else config
        resident = Resident.of(source, settled, mesh)
        return resident.pairs(watch(resident.on_host_batches(start, stop)))
    batches = feed(
        source,
        config,
        start_step=start,
        stop_step=stop,
        process_index=jax.process_index(),
        processes=jax.process_count(),
    )
    return to_devices(watch(batches), mesh)
