"""What a training step of a configuration needs: memory, as the compiler states it, and time, as a few steps take it.

The programs are those that the training runs (training/programs.py): nothing is compiled twice.
"""

import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from morphism.data.oddities import Oddities
from morphism.data.pipeline import largest_batch
from morphism.evaluation.loop import eval_batch_size, predict
from morphism.models import cost
from morphism.ops.platform import on_cpu
from morphism.runtime import resident
from morphism.runtime.mesh import AXIS, HOST_ONLY, compiler_options, laid_out
from morphism.training.build import Parts
from morphism.training.feed import training_pairs
from morphism.training.state import eval_variables

OF_DEVICE, OF_HOST = 0.9, 0.5  # shares of the memory that a step may need
CGROUP = Path("/sys/fs/cgroup/memory.max")
STEPS = 3  # that are timed, after one that compiles
BATCHES = 2  # of the evaluation that are timed, after one that compiles
EFFICIENCY = 0.8  # of a training step, against one convolution; measured: 0.9, Faster R-CNN at 96x128 on CPU


def memory_limit() -> int:
    """Bytes that a step may need on each device: of its memory, or on CPU of the host's, which the devices share."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(OF_DEVICE * stats["bytes_limit"])
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if CGROUP.exists() and (text := CGROUP.read_text().strip()).isdigit():
        host = min(host, int(text))
    return int(OF_HOST * host / jax.local_device_count())


def memory_needed(parts: Parts) -> int:
    """Bytes that the compiled training step needs on a device: state, batch on the largest canvas, and activations."""
    shapes = largest_batch(parts.data.train, parts.config)
    rows = NamedSharding(parts.mesh, P(AXIS))
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
        for name, x in shapes.items()
        if name not in HOST_ONLY
    }
    state = laid_out(parts.shapes, parts.mesh)
    found = parts.programs.train_step.lower(state, batch, parts.hyper).compile().memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
        + found.generated_code_size_in_bytes
        + (
            resident.bytes_of(parts.data.train, parts.data.val, parts.config, parts.mesh)
            if parts.config.data.on_device
            else 0
        )
    )


def seconds_per_step(parts: Parts) -> tuple[float, float]:
    """Seconds of a training step, input included, and of compiling it and making the first state.

    The steps are real ones, from a random state that is then dropped.
    """
    since = time.perf_counter()
    state = parts.init()
    seconds, before = [], since
    for _, batch in training_pairs(parts.data.train, parts.config, parts.mesh, 0, 1 + STEPS):
        state, scalars = parts.programs.train_step(state, batch, parts.hyper)
        jax.block_until_ready(scalars)
        seconds.append(time.perf_counter() - before)
        before = time.perf_counter()
    return float(np.mean(seconds[1:])), seconds[0]


def seconds_per_evaluation(parts: Parts) -> float:
    """Seconds of an evaluation of the whole validation split, from a few of its batches."""
    state = parts.init()
    odd = Oddities(parts.data.val, lambda line: None)
    seconds, before = [], time.perf_counter()
    found = predict(parts.programs.eval_step, eval_variables(state), parts.data.val, parts.config, parts.mesh, odd)
    for _, predictions in zip(range(1 + BATCHES), found, strict=False):
        seconds.append(time.perf_counter() - before)
        rows, before = len(predictions.rows["id"]), time.perf_counter()
    batches = -(-len(parts.data.val) // eval_batch_size(parts.config, parts.mesh))
    return float(np.mean(seconds[1:] or seconds)) * batches if rows else 0.0


def images_per_second(parts: Parts) -> Any:
    """height, width -> an estimate of how many images of that size are trained on per second, without compiling.

    The model's multiply-accumulates are counted at two sizes and taken to be linear in the pixels: those of
    convolutions are, those of boxes are constant. A step has three times those of an evaluation.
    """
    variables, model = parts.shapes.variables, parts.programs.model
    sides = (320, 448)  # that every network takes
    counts = [cost.multiply_accumulates(model, variables, (side, side, 3)) for side in sides]
    slope = (counts[1] - counts[0]) / (sides[1] ** 2 - sides[0] ** 2)
    rest = max(counts[0] - slope * sides[0] ** 2, 0)
    rate = EFFICIENCY * _convolution_rate(parts.mesh) * parts.mesh.size
    return lambda height, width: rate / (3 * (slope * height * width + rest))


def _convolution_rate(mesh: Mesh) -> float:
    """Multiply-accumulates per second of a 3x3 convolution and its gradients on one device."""
    rows, side, channels = (4, 64, 64) if on_cpu() else (32, 128, 128)

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(jnp.square(y))

    step = jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=compiler_options())
    arrays = jnp.ones((rows, side, side, channels)), jnp.ones((3, 3, channels, channels))
    jax.block_until_ready(step(*arrays))
    since = time.perf_counter()
    jax.block_until_ready([step(*arrays) for _ in range(STEPS)])
    return STEPS * 3 * rows * side**2 * 9 * channels**2 / (time.perf_counter() - since)
