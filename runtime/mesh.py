"""The devices: one mesh with one axis, over which batches are split and states replicated."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from morphism.errors import UserError
from morphism.ops.platform import backend

AXIS = "data"
HOST_ONLY = ("odd",)  # keys of a batch that stay on the host: no step reads them


def make_mesh(count: int | None = None) -> Mesh:
    """All devices of all processes, or the first `count`, in the order of the processes.

    That order, which jax.make_mesh does not promise, gives process p the rows p*b .. (p+1)*b of the global batch.
    Raises UserError where there are fewer than `count`.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if count is not None:
        if count > len(devices):
            raise UserError(f"there are only {len(devices)} devices, not {count}")
        devices = devices[:count]
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch(batch_size: int, accumulate: int, mixed: int, devices: int) -> None:
    """Raises UserError unless a batch splits evenly over devices and micro-batches into groups of `mixed` images."""
    share = devices * accumulate * mixed
    if batch_size % share:
        groups = f" x groups of {mixed} to mix" if mixed > 1 else ""
        parts = f"{devices} devices x {accumulate} micro-batches{groups}"
        near = max(share, round(batch_size / share) * share)
        raise UserError(f"config.batch_size={batch_size} does not split over {parts}; try {near}")


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def compiler_options(*, once: bool = False, deterministic: bool = False) -> dict[str, Any]:
    """Options for jax.jit. `once`: for a program that runs once, such as a model's initialisation.

    deterministic: config.deterministic. On GPUs, XLA then does not choose algorithms by timing them, and replaces those
    whose order of addition varies. XLA's programs for CPU and TPU compute the same bits in every run as they are.

    On CPU, XLA compiles convolutions itself: YNNPACK, its default, takes twice as long for the gradients of kernels.
    YNNPACK's sums are left out since JAX 0.11: with 0.11.2, means of bfloat16 maps were NaN.
    A program that runs once has LLVM's second lowest optimisation level: it compiles six times as fast, to the same
    bits.
    """
    if backend() != "cpu":
        return {"xla_gpu_deterministic_ops": True} if deterministic and backend() == "gpu" else {}
    return ({"xla_backend_optimization_level": 1} if once else {}) | (_NO_YNN if _knows_ynn() else {})


_YNN = ("DOT",) if jax.__version_info__ >= (0, 11) else ("DOT", "REDUCE")
_NO_YNN = {"xla_cpu_experimental_ynn_fusion_type": ",".join(f"LIBRARY_FUSION_TYPE_{each}" for each in _YNN)}


@cache
def _knows_ynn() -> bool:
    """Whether this version of XLA has that option, which is experimental."""
    try:
        jax.jit(lambda: 0, compiler_options=_NO_YNN)()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def to_devices(batches: Iterable[dict], mesh: Mesh, ahead: int = 2) -> Iterator[tuple[dict, dict]]:
    """Pairs of host batch and global device batch; the next `ahead` batches are already being transferred.

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
