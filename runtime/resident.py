"""Splits that stay on the devices, decoded: a training step needs only the numbers of its records from the host.

Batches are those of data/pipeline.py to the bit. Every device holds the examples of the whole training split and copies
rows of them, or parts of rows, mirrored or not, where the host would have drawn such windows. Of the validation split
each device keeps its rows of every batch (evaluation/loop.py).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from morphism.data.fixed import MOVED, Kept
from morphism.data.fixed import check as check_fixed
from morphism.data.intensity import settle_pixels
from morphism.data.pipeline import Batch, eval_bytes
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.runtime.mesh import AXIS, HOST_ONLY, compiler_options, replicated

MOST = 0.5  # of a device's memory, or on CPU of the host's, which the devices share
ROW = "row"


def check(train: Source, val: Source, config: Any, mesh: Mesh) -> None:
    """Raises UserError for config.data.on_device with windows that are drawn on the host, or without enough room."""
    if not config.data.on_device:
        return
    check_fixed(train, config)
    needed, room = bytes_of(train, val, config, mesh), _room()
    if needed > MOST * room:
        raise UserError(
            f"config.data.on_device: the decoded images take {needed / 1e9:,.1f} GB on each device, more than "
            f"{MOST:.0%} of its {room / 1e9:,.1f} GB; set it to False"
        )


def bytes_of(train: Source, val: Source, config: Any, mesh: Mesh) -> int:
    """Bytes on each device: all of the training split, and each device's share of the validation split."""
    config = settle_pixels(config, train)
    return Kept.of(train, config).bytes() + eval_bytes(val, config) // mesh.size


def _room() -> int:
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(jax.local_devices())


@dataclass(frozen=True)
class Resident:
    """The examples of a split on all devices of `mesh`, and on the host what it needs of them."""

    kept: Kept
    mesh: Mesh
    tables: dict[str, jax.Array]
    on_host: Batch
    pick: Callable

    @classmethod
    def of(cls, source: Source, config: Any, mesh: Mesh) -> "Resident":
        """Loads every example once, as `train_batches` would. config.data.pixels must be settled."""
        kept = Kept.of(source, config, jax.process_index(), jax.process_count())
        examples = kept.examples()
        on_host = {key: examples.pop(key) for key in HOST_ONLY if key in examples} | {"id": examples["id"]}
        whole = replicated(mesh)
        tables = {key: jax.make_array_from_process_local_data(whole, value) for key, value in examples.items()}
        return cls(kept, mesh, tables, on_host, _picker(kept, mesh))

    def on_host_batches(self, start: int, stop: int) -> Iterator[Batch]:
        """For steps start .. stop - 1 what stays on the host of this process's rows: id, draw, valid and HOST_ONLY."""
        for step in range(start, stop):
            records, draws = self.kept.draws(step)
            own = {key: value[records] for key, value in self.on_host.items()}
            yield own | {ROW: records, "draw": draws, "valid": np.ones(len(records), bool)}

    def pairs(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, dict[str, jax.Array]]]:
        """Each of `on_host_batches`, and the batch on the devices."""
        sharding = NamedSharding(self.mesh, P(AXIS))
        for batch in batches:
            rows = {ROW: batch[ROW], "draw": batch["draw"]}
            if self.kept.moves:
                rows |= self.kept.windows(batch["id"], batch["draw"])
            yield batch, self.pick(self.tables, jax.make_array_from_process_local_data(sharding, rows))


def _picker(kept: Kept, mesh: Mesh) -> Callable:
    """(tables, rows) -> the batch, each device its own rows."""
    pick = partial(_picked, canvas=kept.shape, shown=kept.shown) if kept.moves else _rows
    mapped = jax.shard_map(pick, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS))
    return jax.jit(mapped, compiler_options=compiler_options())


def _rows(tables: dict[str, jax.Array], rows: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {key: value[rows[ROW]] for key, value in tables.items()} | {"draw": rows["draw"]}


def _picked(
    tables: dict[str, jax.Array], rows: dict[str, jax.Array], canvas: tuple[int, int], shown: tuple[int, int]
) -> dict[str, jax.Array]:
    """Rows of the tables, of which what follows the window is cut at the corner, and flipped within the shown part."""
    found = _rows({key: value for key, value in tables.items() if key not in MOVED}, rows)

    def moved(value: jax.Array) -> jax.Array:
        def one(row: jax.Array, corner: jax.Array, flip: jax.Array) -> jax.Array:
            rest = (0,) * (value.ndim - 3)
            sizes = (1, *canvas, *value.shape[3:])
            part = jax.lax.dynamic_slice(value, (row, corner[0], corner[1], *rest), sizes)[0]
            mirrored = part.at[:, : shown[1]].set(part[:, : shown[1]][:, ::-1])
            return jnp.where(flip, mirrored, part)

        return jax.vmap(one)(rows[ROW], rows["corner"], rows["flip"])

    found |= {key: moved(value) for key, value in tables.items() if key in MOVED}
    if "size" in found:
        found["size"] = jnp.broadcast_to(jnp.array(shown, found["size"].dtype), found["size"].shape)
    return found
