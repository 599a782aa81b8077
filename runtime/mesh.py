"""The devices: one mesh with one axis, over which every batch is split and every state repeated."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from morphism.errors import UserError
from morphism.ops.platform import on_cpu

AXIS = "data"
HOST_ONLY = ("odd",)  # keys of a batch that no step reads


def make_mesh() -> Mesh:
    """All devices of all processes, in the order of the processes.

    That order, which jax.make_mesh does not promise, gives process p the rows p*b .. (p+1)*b of the global batch.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch(batch_size: int, accumulate: int, mixed: int, devices: int) -> None:
    """Raises UserError where a batch does not split evenly over devices and micro-batches, groups of `mixed` whole."""
    share = devices * accumulate * mixed
    if batch_size % share:
        groups = f" x groups of {mixed} to mix" if mixed > 1 else ""
        parts = f"{devices} devices x {accumulate} micro-batches{groups}"
        near = max(share, round(batch_size / share) * share)
        raise UserError(f"config.batch_size={batch_size} does not split over {parts}; try {near}")


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def compiler_options(*, once: bool = False) -> dict[str, Any]:
    """jit's, for what a mesh runs often, or but `once`. Only CPUs have any.

    There they leave convolutions to XLA itself: YNNPACK, its default, takes twice as long for the gradients of their
    kernels. What runs once, such as a model's random beginning, has LLVM's lowest level of optimisation but one: it
    compiles six times as fast, and to the same bits.
    """
    if not on_cpu():
        return {}
    return ({"xla_backend_optimization_level": 1} if once else {}) | (_NO_YNN if _knows_ynn() else {})


_NO_YNN = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"}


@cache
def _knows_ynn() -> bool:
    """Whether this version of XLA has that option, which is an experimental one."""
    try:
        jax.jit(lambda: 0, compiler_options=_NO_YNN)()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def to_devices(batches: Iterable[dict], mesh: Mesh, ahead: int = 2) -> Iterator[tuple[dict, dict]]:
    """(host batch, global device batch) pairs, with the transfers of the next `ahead` batches already under way.

    The keys of HOST_ONLY stay on the host.
    """
    sharding = NamedSharding(mesh, P(AXIS))
    waiting = deque()
    for batch in batches:
        sent = {key: value for key, value in batch.items() if key not in HOST_ONLY}
        waiting.append((batch, jax.make_array_from_process_local_data(sharding, sent)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
