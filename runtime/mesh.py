"""The devices: a mesh of two axes, over which batches are split, and over the second one large arrays of the state.

Where an array of the state lies is one rule, `spec_of`: with config.mesh.fsdp=1 every device has a whole copy.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from morphism.errors import UserError
from morphism.ops.platform import backend

DATA, FSDP = "data", "fsdp"
AXIS = (DATA, FSDP)  # the axes that the rows of a batch are split over, and that collectives go over: all devices
SMALL = 2**14  # an array with fewer values is repeated on every device
HOST_ONLY = ("odd", "unread")  # keys of a batch that stay on the host: no step reads them


def make_mesh(count: int | None = None, fsdp: int = 1, *, own: bool = False) -> Mesh:
    """All devices of all processes, or the first `count`, in the order of the processes: [count / fsdp, fsdp].

    That order, which jax.make_mesh does not promise, gives process p the rows p*b .. (p+1)*b of the global batch, and
    lets neighbours, such as the devices of a host, share a copy of the state.

    fsdp: config.mesh.fsdp; 0: all devices. own: only devices of this process, which then waits for no other.

    Raises UserError where there are fewer than `count`, and where they do not split into groups of `fsdp`.
    """
    found = jax.local_devices() if own else jax.devices()
    devices = sorted(found, key=lambda device: (device.process_index, device.id))
    if count is not None:
        if count > len(devices):
            raise UserError(f"there are only {len(devices)} devices, not {count}")
        devices = devices[:count]
    fsdp = fsdp or len(devices)
    if len(devices) % fsdp:
        near = max(divisor for divisor in range(1, min(fsdp, len(devices) + 1)) if len(devices) % divisor == 0)
        raise UserError(f"config.mesh.fsdp={fsdp} does not divide the {len(devices)} devices; try {near}")
    return Mesh(np.array(devices).reshape(-1, fsdp), AXIS, axis_types=(AxisType.Auto,) * 2)


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


def spec_of(shape: tuple[int, ...], fsdp: int) -> P:
    """How an array of a state is split over the axis FSDP: along its longest axis that `fsdp` divides.

    Of equally long axes it is the last. P(): whole on every device, as arrays without such an axis are, and arrays of
    fewer than SMALL values.
    """
    axes = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < SMALL or not axes:
        return P()
    longest = max(axes, key=lambda axis: (shape[axis], axis))
    return P(*(FSDP if axis == longest else None for axis in range(longest + 1)))


def specs(tree: Any, mesh: Mesh) -> Any:
    """The `spec_of` every array of a state, or of a part of it; arrays, or their shapes."""
    return jax.tree.map(lambda x: spec_of(x.shape, mesh.shape[FSDP]), tree)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """`specs` on these devices."""
    return jax.tree.map(lambda x: NamedSharding(mesh, spec_of(x.shape, mesh.shape[FSDP])), tree)


def laid_out(tree: Any, mesh: Mesh) -> Any:
    """The shapes and types of the arrays of a state, with their `shardings`."""
    wanted = shardings(tree, mesh)
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree, wanted)


def placed(tree: Any, mesh: Mesh) -> Any:
    """Inside jit: the same arrays, where `specs` want them."""
    return jax.lax.with_sharding_constraint(tree, shardings(tree, mesh))


def gathered(shards: Any, layout: Any) -> Any:
    """Inside shard_map: whole arrays of a device's own shards, which `specs` laid out.

    The gradient with respect to a shard is the sum of those of the devices that share the array, by reduce-scatter.
    """

    def whole(shard: Array, spec: P) -> Array:
        return jax.lax.all_gather(shard, FSDP, axis=len(spec) - 1, tiled=True) if len(spec) else shard

    return jax.tree.map(whole, shards, layout)


def mean_gradients(gradients: Any, layout: Any) -> Any:
    """Inside shard_map: means over all devices of gradients with respect to shards that were `gathered`."""

    def mean(gradient: Array, spec: P) -> Array:
        return jax.lax.pmean(gradient, DATA) / jax.lax.axis_size(FSDP) if len(spec) else jax.lax.pmean(gradient, AXIS)

    return jax.tree.map(mean, gradients, layout)


def varying(shards: Any, layout: Any) -> Any:
    """Inside shard_map: the same arrays, marked as each device's own, so that their gradients are not summed."""
    return jax.tree.map(lambda x, spec: jax.lax.pcast(x, DATA if len(spec) else AXIS, to="varying"), shards, layout)


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


def share_of(mesh: Mesh) -> tuple[int, int]:
    """Which of the processes that have devices in the mesh this one is, from 0, and how many they are."""
    processes = sorted({device.process_index for device in mesh.devices.flat})
    return processes.index(jax.process_index()), len(processes)


def own_rows(batch: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The rows of a batch, split over all devices, that lie on devices of this process; in order, on the host."""

    def rows(x: jax.Array) -> np.ndarray:
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([shard.data for shard in shards])

    return jax.tree.map(rows, batch) if jax.process_count() > 1 else jax.device_get(batch)


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
