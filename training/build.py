"""Builds what a configuration describes, and checks it before anything runs."""

from collections.abc import Sized
from dataclasses import dataclass
from functools import cached_property

import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism import tasks
from morphism.data import sources
from morphism.data.checks import check_split
from morphism.data.fingerprint import Fingerprint, fingerprint
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.evaluation.fitness import check_model, check_sizes
from morphism.lengths import due, exact_steps, to_steps
from morphism.runtime import peaks, resident
from morphism.runtime.mesh import check_batch, make_mesh
from morphism.runtime.validation import check_config
from morphism.runtime.writers import check_installed
from morphism.tasks.task import counts
from morphism.training.fitness import check_norms, initial_shapes
from morphism.training.hyper import HyperParameters, hyper_parameters, on_devices
from morphism.training.programs import Programs, programs
from morphism.training.schedule import make_schedule
from morphism.training.state import TrainState, eval_variables


@dataclass(frozen=True)
class Data:
    """The two splits of a training."""

    train: Source
    stored_val: Source  # with the classes that it stores
    val: Source  # with the classes of `train`


@dataclass(frozen=True)
class Lengths:
    """The length of the training, and the intervals of logs, evaluations and checkpoints, in steps; 0 is never."""

    total: int
    log: float
    eval: float
    checkpoint: float

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows `step`."""
        return step == self.total or due(step, self.eval)


@dataclass(frozen=True)
class Parts:
    """What a configuration describes, before anything has run."""

    config: ConfigDict
    data: Data
    mesh: Mesh
    lengths: Lengths
    programs: Programs
    hyper: HyperParameters  # on the devices
    schedule: optax.Schedule  # step, from 0 -> learning rate; on the host
    shapes: TrainState  # of the state that `init` makes
    peak: float | None  # FLOP/s of all devices together, where known (runtime/peaks.py)

    @cached_property
    def fingerprints(self) -> dict[str, Fingerprint]:
        """Of the data of each split."""
        names = self.config.data
        return {names.val_split: fingerprint(self.data.stored_val), names.train_split: fingerprint(self.data.train)}

    def init(self) -> TrainState:
        """A random first state, on the devices."""
        return self.programs.init(self.hyper, self.shapes.ema is not None)


def build(config: ConfigDict, data: Data | None = None) -> Parts:
    """The parts of `config`; `data`, if given, is what `load` returned. Raises UserError if it cannot be trained."""
    check_config(config)
    check_installed(config.writers)
    mesh, task = make_mesh(fsdp=config.mesh.fsdp), tasks.of(config)
    check_batch(config.batch_size, config.accumulate, task.mixed(config.augment), mesh.size)
    data = data or load(config)
    resident.check(data.train, data.val, config, mesh)
    epoch = steps_per_epoch(data.train, config)
    lengths = lengths_of(config, epoch)
    hyper = on_devices(hyper_parameters(config, epoch), mesh)
    classes = counts(task.class_names(data.train))
    made = programs(task.resolve(config, data.train), classes, mesh)
    shapes = initial_shapes(made.init, hyper, config)
    check_model(made.model, task, config, classes, shapes.variables)
    check_norms(made.train_step, source=data.train, config=config, state=shapes, hyper=hyper, mesh=mesh)
    check_sizes(made.eval_step, eval_variables(shapes), data.val, config, mesh)
    return Parts(
        config=config,
        data=data,
        mesh=mesh,
        lengths=lengths,
        programs=made,
        hyper=hyper,
        schedule=make_schedule(config, epoch),
        shapes=shapes,
        peak=peak_of(mesh, config),
    )


def peak_of(mesh: Mesh, config: ConfigDict) -> float | None:
    """The FLOP/s that the devices of `mesh`, all of one kind, reach at most in the types of `config`, if known."""
    one = peaks.flops(mesh.devices.flat[0].device_kind, config.model.dtype, config.precision)
    return one and one * mesh.size


def load(config: ConfigDict) -> Data:
    """The splits of `config`. Raises UserError if one cannot be used for training or evaluation."""
    train_split, val_split = config.data.train_split, config.data.val_split
    train, task = sources.load(config.data, train_split), tasks.of(config)
    check_split(train, config, train_split, training=True)
    classes = task.class_names(train)
    task.check_classes(config.data.source, classes)
    stored = sources.load(config.data, val_split)
    val = task.with_classes(stored, classes, f"{config.data.source} {val_split}")
    check_split(val, config, val_split, training=False)
    for name, metric in {"best": config.best, "stop.metric": config.stop.metric}.items():
        if metric.partition("/")[0] in task.unjudged(val):
            raise UserError(
                f"config.{name} is {metric!r}, which {config.data.source} {val_split} has no truths for; set it to a "
                'metric of another part, or to ""'
            )
    return Data(train, stored, val)


def steps_per_epoch(train: Sized, config: ConfigDict) -> float:
    return len(train) / config.batch_size


def lengths_of(config: ConfigDict, steps_per_epoch: float) -> Lengths:
    """The lengths in `config`, in steps. Raises UserError if one is malformed."""
    total = to_steps(config.duration, steps_per_epoch, "duration")
    intervals = ("log", "eval", "checkpoint")
    return Lengths(total, **{x: exact_steps(config[f"{x}_every"], steps_per_epoch, f"{x}_every") for x in intervals})
