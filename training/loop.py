"""Training, from a configuration to a finished run. Reads from top to bottom."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism import models, tasks
from morphism.data import sources
from morphism.data.checks import check_split
from morphism.data.fingerprint import fingerprint
from morphism.data.intensity import settle, with_fields
from morphism.data.oddities import Oddities
from morphism.data.pipeline import train_batches
from morphism.data.records import Source
from morphism.errors import NonFinite
from morphism.evaluation.fitness import check_model, check_sizes
from morphism.evaluation.loop import evaluate, predict
from morphism.evaluation.step import make_eval_step
from morphism.lengths import due, exact_steps, to_steps
from morphism.models import cost
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.manifest import (
    claim_classes,
    claim_config,
    claim_data,
    claim_intensity,
    claimed,
    has_steps,
    read_intensity,
    write_manifest,
)
from morphism.runtime.mesh import AXIS, check_batch, compiler_options, make_mesh, replicated, to_devices
from morphism.runtime.paths import AnyPath, is_local
from morphism.runtime.processes import check_shared
from morphism.runtime.signals import Stopped, StopRequest
from morphism.runtime.validation import check_config
from morphism.runtime.writer import Writer
from morphism.tasks import Task
from morphism.training.begin import start_from
from morphism.training.fitness import check_norms, initial_shapes
from morphism.training.optimizer import make_optimizer
from morphism.training.schedule import make_schedule
from morphism.training.state import TrainState, eval_variables, init_state, not_finite
from morphism.training.step import make_train_step
from morphism.training.window import REMEDY, NonFiniteLoss, Window
from morphism.weights.opening import Weights, fitting, read_weights

LOOK = 50  # steps at most between two looks at signals and at whether the numbers are finite


def train(config: ConfigDict, workdir: AnyPath, started: float | None = None) -> dict[str, float]:
    """Trains as `config` says, going on from the newest checkpoint of `workdir`; returns the last evaluation.

    `started` is when the command began, in time.time()'s seconds, for the report of the first step.
    Raises UserError for bad input, before anything is built where that is possible.
    """
    started = started or time.time()
    parts = build(config)
    weights = None
    if config.init_from and not has_steps(workdir):  # what does not fit must not leave a workdir behind
        weights = read_weights(config.init_from, print)
        fitting(weights, {"params": parts.shapes.params, "batch_stats": parts.shapes.batch_stats}, config)
    check_shared(workdir)
    main_process = jax.process_index() == 0
    with (
        claimed(workdir) if main_process else nullcontext(),
        StopRequest() as stop,
        Checkpoints(workdir, config.keep, config.best, writer=True) as checkpoints,
    ):
        start = checkpoints.latest() or 0
        notes = _claim(config, parts, workdir, start, weights) if main_process else []
        state, more = _first_state(config, parts, checkpoints, start, weights)
        owed = start > 0 and parts.evaluates(start) and checkpoints.metrics(start) is None
        with Writer(workdir, parts.total, start, main_process, evaluates_again=owed) as writer:
            writer.say(
                f"{config.model.name}: {cost.parameters(parts.shapes.params):,} parameters, "
                f"{len(parts.source):,} examples, {len(parts.source.classes)} classes; {parts.mesh.size} "
                f"{jax.devices()[0].device_kind} device(s); {workdir}"
            )
            for note in [*notes, *more]:
                writer.say(note)
            if start:
                finished = start >= parts.total and not owed
                writer.say(f"finished at step {start}" if finished else f"going on from step {start} of {parts.total}")
            known = read_intensity(workdir) if start else {}
            config = with_fields(config, known) if known else settle(config, parts.source, writer.say)
            if main_process:
                claim_intensity(workdir, config)
            stop.listen()
            return Loop(config, parts, checkpoints, writer, stop, started).run(state, start, owed)


@dataclass(frozen=True)
class Parts:
    """What a configuration describes, before anything of it has run. `total` and `every` are in steps."""

    source: Source
    val_data: Source  # as it is stored
    val_source: Source  # with the classes of `source`
    task: Task
    mesh: Mesh
    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: Callable
    shapes: TrainState
    init: Callable[[], TrainState]
    train_step: Callable
    eval_step: Callable
    total: int
    every: dict[str, float]

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows `step`."""
        return step == self.total or due(step, self.every["eval"])


def build(config: ConfigDict) -> Parts:
    """Raises UserError for what cannot be trained or evaluated as `config` says."""
    check_config(config)
    mesh = make_mesh()
    task = tasks.of(config)
    check_batch(config.batch_size, config.accumulate, task.mixed(config.augment), mesh.size)
    source = sources.load(config.data, config.data.train_split)
    task.check_classes(config.data.source, source.classes)
    check_split(source, config, config.data.train_split, training=True)
    val_data = sources.load(config.data, config.data.val_split)
    val_where = f"{config.data.source} {config.data.val_split}"
    val_source = sources.with_classes(val_data, source.classes, val_where)
    check_split(val_source, config, config.data.val_split, training=False)
    classes = len(source.classes)
    model = models.create(config.model, classes, AXIS)

    epoch = len(source) / config.batch_size  # in steps
    total = to_steps(config.duration, epoch, "duration")
    intervals = ("log", "eval", "checkpoint")
    every = {name: exact_steps(config[f"{name}_every"], epoch, f"{name}_every") for name in intervals}
    ema_every, ema_ramp = (to_steps(config.ema[name], epoch, f"ema.{name}") for name in ("every", "ramp"))
    schedule = make_schedule(config, epoch)
    optimizer = make_optimizer(config.optimizer, schedule)
    warmup = to_steps(config.schedule.warmup, epoch, "schedule.warmup")
    resolved = task.resolve(config, source)
    train_step = make_train_step(model, task, optimizer, resolved, classes, ema_every, mesh, warmup, ema_ramp)
    eval_step = make_eval_step(model, task, config, mesh)

    def init() -> TrainState:
        return init_state(model, optimizer, config.data.image_size, config.seed, ema=config.ema.decay > 0)

    shapes = initial_shapes(init, config)
    check_model(model, task, config, classes, {"params": shapes.params, "batch_stats": shapes.batch_stats})
    check_norms(train_step, source, config, shapes, mesh)
    check_sizes(eval_step, eval_variables(shapes), val_source, config, mesh)
    once = jax.jit(init, out_shardings=replicated(mesh), compiler_options=compiler_options(once=True))
    return Parts(
        *(source, val_data, val_source, task, mesh, model, optimizer, schedule),
        *(shapes, once, train_step, eval_step, total, every),
    )


class Loop:
    """The steps of a run, and between them what is logged, saved, evaluated and asked of the signals."""

    def __init__(
        self,
        config: ConfigDict,
        parts: Parts,
        checkpoints: Checkpoints,
        writer: Writer,
        stop: StopRequest,
        started: float,
    ):
        self._config, self._parts, self._started = config, parts, started
        self._checkpoints, self._writer, self._stop = checkpoints, writer, stop
        self._saves = parts.every["checkpoint"] > 0
        self._look = min(parts.every["log"] or LOOK, LOOK)
        self._odd = Oddities(parts.source, writer.say)
        self._val_odd = Oddities(parts.val_source, writer.say, self._odd.said)

    def run(self, state: TrainState, start: int, owed: bool) -> dict[str, float]:
        """Goes on after `start`, the step of `state`, whose evaluation comes first where it is `owed`."""
        results = self._checkpoints.metrics(start) or {}
        if owed:
            results = self._evaluate(start, state)
            if results is None:
                self._tell_stop(start, saved=True, evaluated=False)
                return {}
        window = Window(self._config.batch_size)
        pairs = to_devices(self._batches(start), self._parts.mesh)
        for step, (on_host, batch) in enumerate(window.timed(pairs), start + 1):
            state, scalars = self._parts.train_step(state, batch)
            window.add(scalars, on_host["id"])
            if step == start + 1:
                jax.block_until_ready(scalars)
                self._writer.say(f"first step done {time.time() - self._started:.1f} s after the start")
                window.restart_clock()

            stopping = self._asks(step) and self._stop.agreed()
            evaluating = self._parts.evaluates(step)
            saving = self._saves and (evaluating or stopping or due(step, self._parts.every["checkpoint"]))
            if stopping or evaluating or saving or due(step, self._parts.every["log"]):
                self._log(step, window.close(step))
            elif due(step, self._look):
                window.check(step)
            if saving:
                self._save(step, state)
            found = self._evaluate(step, state) if evaluating and not stopping else None
            results = found or results
            if evaluating or saving or step == start + 1:  # the first log line compiles the schedule
                window.restart_clock()
            if stopping or (evaluating and found is None):
                self._tell_stop(step, saved=saving, evaluated=not evaluating)
                break
        return results

    def _asks(self, step: int) -> bool:
        """Whether to look for a signal after `step`: where several processes have to agree, not after every one."""
        return jax.process_count() == 1 or due(step, self._look) or self._parts.evaluates(step)

    def _batches(self, start: int) -> Any:
        host = train_batches(
            self._parts.source,
            self._config,
            start_step=start,
            stop_step=self._parts.total,
            process_index=jax.process_index(),
            processes=jax.process_count(),
        )
        return self._odd.watch(host)

    def _log(self, step: int, values: dict[str, float]) -> None:
        self._writer.record(step, {**values, "train/learning_rate": float(self._parts.schedule(step - 1))})
        self._writer.training_line(step, values, (self._parts.total - step) * self._config.batch_size)

    def _save(self, step: int, state: TrainState) -> None:
        """Raises NonFiniteLoss, and saves nothing, where the update of `step` made a parameter infinite or NaN."""
        broken = not_finite(eval_variables(state))
        if broken:
            raise NonFiniteLoss(
                f"step {step}: {broken[0]} is not finite after it; the last checkpoint is from before. {REMEDY}"
            )
        self._checkpoints.save(step, state)

    def _evaluate(self, step: int, state: TrainState) -> dict[str, float] | None:
        """The task's headline over the validation split, written and added to the checkpoint; None where stopped."""
        parts, config = self._parts, self._config
        batches = predict(parts.eval_step, eval_variables(state), parts.val_source, config, parts.mesh, self._val_odd)
        try:
            summary = evaluate(parts.task, parts.val_source, self._stop.watch(batches))
        except Stopped:
            return None
        except NonFinite as error:
            raise NonFiniteLoss(f"step {step}: {error}. {REMEDY}") from error
        results = {key: summary[key] for key in parts.task.headline}
        self._writer.record(step, {f"val/{key}": value for key, value in results.items()})
        if self._saves:
            self._checkpoints.add_metrics(step, results)
        table = parts.task.table(summary)  # without what the split has none of
        shown = "  ".join(f"{key} {value:.4f}" for key, value in results.items() if key in table)
        self._writer.say(f"step {step}/{parts.total}  {config.data.val_split}: {shown}")
        return results

    def _tell_stop(self, step: int, saved: bool, evaluated: bool) -> None:
        self._odd.tell()
        goes_on = f"the same command goes on from step {step}" + ("" if evaluated else ", with its evaluation")
        done = f"saved; {goes_on}" if saved else "nothing saved"
        self._writer.say(f"stopped by a signal after step {step} of {self._parts.total}, {done}")


def _claim(config: ConfigDict, parts: Parts, workdir: AnyPath, start: int, weights: Weights | None) -> list[str]:
    """Makes the workdir this run's own; lines that tell what is worth telling. Raises UserError for another run's."""
    notes = claim_config(workdir, config, parts.source)
    claim_classes(workdir, parts.source.classes)
    train_split = config.data.train_split
    splits = {config.data.val_split: parts.val_data, train_split: parts.source}
    notes += claim_data(workdir, {split: fingerprint(source) for split, source in splits.items()}, train_split)
    begun = {"init_from": weights.origin, "init_sha256": weights.sha256} if weights and not start else {}
    write_manifest(workdir, config, _cost(parts, config.data.image_size) | begun)
    if is_local(workdir):
        return notes
    return [*notes, f"{workdir} cannot be locked: make sure that no other run writes there"]


def _first_state(
    config: ConfigDict, parts: Parts, checkpoints: Checkpoints, start: int, weights: Weights | None
) -> tuple[TrainState, list[str]]:
    """That of the checkpoint `start`, else a fresh one, or one made of `weights`; lines that tell what was left out."""
    if start:
        return checkpoints.restore(start, parts.shapes, replicated(parts.mesh)), []
    state = parts.init()
    if not config.init_from:
        return state, []
    weights = weights or read_weights(config.init_from, print)
    return start_from(weights, state, parts.optimizer, config, replicated(parts.mesh))


def _cost(parts: Parts, size: int) -> dict[str, int]:
    variables = {"params": parts.shapes.params, "batch_stats": parts.shapes.batch_stats}
    return {
        "parameters": cost.parameters(parts.shapes.params),
        "multiply_accumulates": cost.multiply_accumulates(parts.model, variables, (size, size, 3)),
    }
