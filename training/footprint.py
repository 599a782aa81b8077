"""What a configuration costs on given devices, from shapes alone: neither data nor parameters exist.

The programs are those of a training, compiled but not run.
"""

import math
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
from morphism.ops.platform import as_accelerator
from morphism.runtime.mesh import AXIS, HOST_ONLY, check_batch, laid_out
from morphism.tasks.blank import blank, without_rules
from morphism.tasks.task import Counts
from morphism.training.fitness import initial_shapes
from morphism.training.hyper import HyperParameters, hyper_parameters, on_devices
from morphism.training.programs import Programs, programs
from morphism.training.state import TrainState, eval_variables
from morphism.training.step import Step, keys_of

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
    plan = Plan.of(config, classes, mesh)
    return Costs(cost.parameters(plan.state.params), plan.training(train_shape), plan.evaluation(eval_shape))


@dataclass(frozen=True)
class Plan:
    """The programs of a configuration, and the shapes of their arguments.

    config: without what only data can tell; resolved: as its task resolves it.
    """

    config: ConfigDict
    resolved: ConfigDict
    classes: Counts
    mesh: Mesh
    made: Programs
    hyper: HyperParameters
    state: TrainState

    @classmethod
    def of(cls, config: ConfigDict, classes: Counts, mesh: Mesh) -> "Plan":
        """Raises UserError as `costs` does."""
        task = tasks.of(config)
        check_batch(config.batch_size, config.accumulate, task.mixed(config.augment), mesh.size)
        config = _settled(config, classes)
        resolved = task.resolve(config, blank(config, classes, EPOCH * config.batch_size))
        made = programs(resolved, classes, mesh)
        hyper = on_devices(hyper_parameters(config, EPOCH), mesh)
        state = laid_out(initial_shapes(made.init, hyper, config), mesh)
        return cls(config, resolved, classes, mesh, made, hyper, state)

    def training(self, shape: Shape) -> Footprint:
        """The training step, on a batch of this canvas."""
        rows = self.config.batch_size
        batch = self._batch(rows, shape, training=True)
        arguments = (self.state, batch, self.hyper)
        return _compiled(self.made.train_step, arguments, self._kinds() | {"batch": batch}, shape, rows, self.mesh)

    def evaluation(self, shape: Shape) -> Footprint:
        """The evaluation step, likewise."""
        variables, rows = eval_variables(self.state), eval_batch_size(self.config, self.mesh)
        batch = self._batch(rows, shape, training=False)
        kinds = {"parameters": variables["params"], "statistics": variables["batch_stats"], "batch": batch}
        return _compiled(self.made.eval_step, (variables, batch), kinds, shape, rows, self.mesh)

    def state_bytes(self) -> int:
        """Of the state, per device."""
        return sum(map(_bytes, self._kinds().values()))

    def kept_bytes(self, shape: Shape) -> int:
        """What the forward pass of a micro-batch keeps for the backward pass on a device, besides the parameters.

        It is what JAX traces for accelerators; compilers merge some of it.
        """
        config, state = self.config, self.state
        step = Step(self.made.model.clone(), self.made.task, self.resolved, self.classes, self.mesh)
        batch = self._batch(config.batch_size // self.mesh.size // config.accumulate, shape, training=True)
        keys = jax.eval_shape(keys_of, jax.ShapeDtypeStruct((), np.uint32))

        def backward(params: Any, stats: Any, batch: Any, keys: Any) -> Any:
            return jax.vjp(lambda params: step.loss(params, {}, stats, batch, keys), params, has_aux=True)[1]

        with as_accelerator():
            traced = jax.make_jaxpr(backward)(state.params, state.batch_stats, batch, keys).jaxpr
        kept = {id(each): each.aval for each in traced.outvars if each not in traced.invars}
        return sum(math.prod(each.shape) * each.dtype.itemsize for each in kept.values())

    def _kinds(self) -> dict[str, Any]:
        state = self.state
        return {
            "parameters": state.params,
            "statistics": state.batch_stats,
            "optimizer": state.opt_state,
            "averages": state.ema,
        }

    def _batch(self, rows: int, shape: Shape, *, training: bool) -> Any:
        one = blank_batch(1, shape, self.config, training)
        split = NamedSharding(self.mesh, P(AXIS))
        return {
            key: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=split)
            for key, x in one.items()
            if key not in HOST_ONLY
        }


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
