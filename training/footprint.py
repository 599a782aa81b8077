"""What a configuration costs on given devices, from shapes alone: neither data nor parameters exist.

The programs are those of a training, compiled but not run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from morphism import tasks
from morphism.data.canvases import Shape
from morphism.data.pipeline import blank_batch
from morphism.evaluation.loop import eval_batch_size
from morphism.models import cost
from morphism.runtime.mesh import AXIS, HOST_ONLY, check_batch, laid_out
from morphism.tasks.blank import blank, without_rules
from morphism.tasks.task import Counts
from morphism.training.fitness import initial_shapes
from morphism.training.hyper import hyper_parameters, on_devices
from morphism.training.programs import programs
from morphism.training.state import eval_variables

EPOCH = 1000  # steps per epoch, for lengths in epochs: no cost depends on it
DURATION = "1000000000"  # steps, so that no length of the schedule is too long


@dataclass(frozen=True)
class Footprint:
    """The cost of one compiled program. Memory is in bytes per device.

    shape: height and width of the images. images: over all devices.
    flops: floating-point operations of convolutions and matrix products for all images.
    trace_s, compile_s: seconds to trace and to compile it here, without the cache of compiled programs.
    arguments: what the program takes, by kind: parameters, statistics, optimizer, averages, batch.
    outputs: what it returns besides arguments that it replaces in place.
    temporaries: intermediate values: activations, gradients. program: its own code.
    """

    shape: tuple[int, int]
    images: int
    flops: int
    trace_s: float
    compile_s: float
    arguments: dict[str, int]
    outputs: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        """All that must fit in the memory of a device at once."""
        return sum(self.arguments.values()) + self.outputs + self.temporaries + self.program


@dataclass(frozen=True)
class Costs:
    """Of a configuration: its model's parameters, and its two programs."""

    parameters: int
    training: Footprint
    evaluation: Footprint


def costs(config: ConfigDict, classes: Counts, mesh: Mesh, train_shape: Shape, eval_shape: Shape) -> Costs:
    """Compiles the training and the evaluation step of `config` on batches of these canvases.

    Raises UserError for a batch that does not split over the devices, and for options that the model rejects.
    """
    task = tasks.of(config)
    check_batch(config.batch_size, config.accumulate, task.mixed(config.augment), mesh.size)
    config = _settled(config, classes)
    made = programs(task.resolve(config, blank(config, classes, EPOCH * config.batch_size)), classes, mesh)
    hyper = on_devices(hyper_parameters(config, EPOCH), mesh)
    state = initial_shapes(made.init, hyper, config)
    variables = eval_variables(state)

    def batch(rows: int, shape: Shape, training: bool) -> Any:
        one = blank_batch(1, shape, config, training)
        split = NamedSharding(mesh, P(AXIS))
        return {
            key: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=split)
            for key, x in one.items()
            if key not in HOST_ONLY
        }

    state, variables = laid_out(state, mesh), laid_out(variables, mesh)
    train_batch = batch(config.batch_size, train_shape, True)
    eval_rows = eval_batch_size(config, mesh)
    eval_batch = batch(eval_rows, eval_shape, False)
    kinds = {
        "parameters": state.params,
        "statistics": state.batch_stats,
        "optimizer": state.opt_state,
        "averages": state.ema,
        "batch": train_batch,
    }
    return Costs(
        parameters=cost.parameters(state.params),
        training=_compiled(made.train_step, (state, train_batch, hyper), kinds, train_shape, config.batch_size, mesh),
        evaluation=_compiled(
            made.eval_step,
            (variables, eval_batch),
            {"parameters": variables["params"], "statistics": variables["batch_stats"], "batch": eval_batch},
            eval_shape,
            eval_rows,
            mesh,
        ),
    )


def _settled(config: ConfigDict, classes: Counts) -> ConfigDict:
    """`config` without what only data can tell."""
    found = without_rules(config, classes)
    with found.unlocked():
        found.duration = DURATION
        if found.data.pixels == "auto":
            found.data.pixels = "uint8"
    return found


def _compiled(
    program: Callable, arguments: tuple, kinds: dict[str, Any], shape: Shape, images: int, mesh: Mesh
) -> Footprint:
    """Compiles a jitted `program`. `kinds`: its arguments but for a few numbers."""
    started = time.perf_counter()
    traced = program.trace(*arguments)
    lowered = traced.lower()
    ready = time.perf_counter()
    compiled = lowered.compile()
    ended = time.perf_counter()
    memory = compiled.memory_analysis()
    sizes = {kind: _bytes(tree) for kind, tree in kinds.items()}
    # What the program does not use is no argument of it; what is left over are numbers such as the learning rate.
    sizes["other"] = max(memory.argument_size_in_bytes - sum(sizes.values()), 0)
    return Footprint(
        shape=tuple(shape[:2]),
        images=images,
        flops=2 * mesh.size * cost.of_program(traced.jaxpr.jaxpr),
        trace_s=ready - started,
        compile_s=ended - ready,
        arguments=sizes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        program=memory.generated_code_size_in_bytes,
    )


def _bytes(tree: Any) -> int:
    """Of the shards of one device."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)
