"""Training, from a configuration to a finished run. Reads from top to bottom."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

import models
import tasks
from data import sources
from data.oddities import Oddities
from data.pipeline import train_batches
from errors import UserError
from evaluation.loop import evaluate, predict
from lengths import due, exact_steps, to_steps
from models import cost
from training.checkpoint import Checkpoints, has_steps
from training.fitness import check_model, check_norms
from training.initial import fitting, read_weights, start_from
from training.manifest import claim_classes, claimed, write_manifest
from training.mesh import AXIS, check_batch, compiler_options, make_mesh, replicated, to_devices
from training.optimizer import make_optimizer
from training.schedule import make_schedule
from training.state import eval_variables, init_state
from training.step import make_eval_step, make_train_step
from training.validation import check_classes, check_config
from training.writer import Writer


class NonFiniteLoss(UserError):
    """The loss, or another of the step's numbers, became infinite or no number."""


def train(config: ConfigDict, workdir: Path, started: float | None = None) -> dict[str, float]:
    """Trains as `config` says, going on from the newest checkpoint of `workdir`; returns the last evaluation.

    `started` is when the command began, in time.time()'s seconds, for the report of the first step.
    Raises UserError for bad input, before anything is built where that is possible.
    """
    started = started or time.time()
    check_config(config)
    mesh = make_mesh()
    task = tasks.get(config.task)
    check_batch(config.batch_size, config.accumulate, task.mixed(config.augment), mesh.size)
    source = sources.load(config.data, config.data.train_split)
    val_source = sources.load(config.data, config.data.val_split)
    check_classes(config.data.source, source.classes, task)
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

    def init():
        return init_state(model, optimizer, config.data.image_size, config.seed, ema=config.ema.decay > 0)

    shapes = jax.eval_shape(init)
    check_model(model, task, config, classes, {"params": shapes.params, "batch_stats": shapes.batch_stats})
    check_norms(train_step, source, config, shapes, mesh)
    weights = None
    if config.init_from and not has_steps(workdir):  # what does not fit must not leave a workdir behind
        weights = read_weights(config.init_from, print)
        fitting(weights, {"params": shapes.params, "batch_stats": shapes.batch_stats}, config)
    main_process = jax.process_index() == 0
    with (
        claimed(workdir, config) if main_process else nullcontext(),
        Checkpoints(workdir, config.keep, config.best, writer=True) as checkpoints,
    ):
        start = checkpoints.latest() or 0
        if main_process:
            claim_classes(workdir, source.classes)
            begun = {"init_from": weights.origin, "init_sha256": weights.sha256} if weights and not start else {}
            write_manifest(workdir, config, _cost(model, shapes, config.data.image_size) | begun)
        notes = []
        if start:
            state = checkpoints.restore(start, shapes, replicated(mesh))
        else:
            state = jax.jit(init, out_shardings=replicated(mesh), compiler_options=compiler_options(once=True))()
            if config.init_from:
                weights = weights or read_weights(config.init_from, print)
                state, notes = start_from(weights, state, optimizer, config, replicated(mesh))
        with Writer(workdir, total, start, main_process) as writer:
            writer.say(
                f"{config.model.name}: {cost.parameters(shapes.params):,} parameters, {len(source):,} examples, "
                f"{classes} classes; {mesh.size} {jax.devices()[0].device_kind} device(s); {workdir}"
            )
            for note in notes:
                writer.say(note)
            if start:
                writer.say(f"going on from step {start} of {total}" if start < total else f"finished at step {start}")
            host = train_batches(
                source,
                config,
                start_step=start,
                stop_step=total,
                process_index=jax.process_index(),
                processes=jax.process_count(),
            )
            odd, val_odd = Oddities(source, writer.say), Oddities(val_source, writer.say)
            stop = StopRequest()
            window = Window(config.batch_size)
            results: dict[str, float] = {}
            for step, (on_host, batch) in enumerate(window.timed(to_devices(odd.watch(host), mesh)), start + 1):
                state, scalars = train_step(state, batch)
                window.add(scalars, on_host["id"])
                if step == start + 1:
                    jax.block_until_ready(scalars)
                    writer.say(f"first step done {time.time() - started:.1f} s after the start")
                    window.restart_clock()

                stopping = stop.agreed(step, every["log"])
                evaluating = step == total or due(step, every["eval"])
                saving = (evaluating or stopping or due(step, every["checkpoint"])) and every["checkpoint"] > 0
                if stopping or evaluating or saving or due(step, every["log"]):
                    values = window.close(step)
                    eta = (total - step) * config.batch_size / values["train/images_per_s"]
                    writer.record(step, {**values, "train/learning_rate": float(schedule(step - 1))})
                    writer.training_line(
                        step, values["train/loss"], values["train/images_per_s"], values["train/input_wait"], eta
                    )
                if evaluating:
                    predictions = predict(eval_step, eval_variables(state), val_source, config, mesh, val_odd)
                    summary = evaluate(task, val_source, predictions)
                    results = {key: summary[key] for key in task.HEADLINE}
                    writer.record(step, {f"val/{key}": value for key, value in results.items()})
                    shown = "  ".join(f"{key} {value:.4f}" for key, value in results.items())
                    writer.say(f"step {step}/{total}  {config.data.val_split}: {shown}")
                if saving:
                    checkpoints.save(step, state, results if evaluating else None)
                if evaluating or saving:
                    window.restart_clock()
                if stopping and step < total:
                    odd.tell()
                    kept = f"saved; the same command goes on from step {step}" if saving else "nothing saved"
                    writer.say(f"stopped by a signal after step {step} of {total}, {kept}")
                    break
    return results


class Window:
    """The steps since the last report: their scalars, still on the device, and where the time went."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._scalars: list[dict[str, jax.Array]] = []
        self._ids: list[np.ndarray] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves what came before (compiling, evaluating, saving) out of images per second."""
        self._since, self._waited, self._timed_from = time.perf_counter(), 0.0, len(self._scalars)

    def timed(self, batches: Iterator[tuple[dict, dict]]) -> Iterator[tuple[dict, dict]]:
        """The batches, counting how long each is waited for."""
        while True:
            before = time.perf_counter()
            pair = next(batches, None)
            self._waited += time.perf_counter() - before
            if pair is None:
                return
            yield pair

    def add(self, scalars: dict[str, jax.Array], ids: np.ndarray) -> None:
        """A step's scalars, and the records of this process's rows of its batch."""
        self._scalars.append(scalars)
        self._ids.append(ids)

    def close(self, step: int) -> dict[str, float]:
        """Means of the scalars over the window that `step` ends, images per second, share of time spent waiting.

        Raises NonFiniteLoss naming the first step whose numbers are not finite, which of them, and its examples.
        """
        steps = jax.device_get(self._scalars)
        elapsed = time.perf_counter() - self._since
        for offset, scalars in enumerate(steps):
            for name, value in scalars.items():
                if not math.isfinite(value):
                    raise NonFiniteLoss(
                        f"step {step - len(steps) + 1 + offset}: {name} is {value}, on examples "
                        f"{', '.join(map(str, self._ids[offset]))}; the last checkpoint is from before. Lower "
                        "config.optimizer.learning_rate, lengthen config.schedule.warmup, or set "
                        "config.optimizer.clip_norm; then start in a new --workdir"
                    )
        values = {f"train/{name}": float(jnp.mean(jnp.array([s[name] for s in steps]))) for name in steps[0]}
        timed = len(steps) - self._timed_from
        self._scalars, self._ids = [], []
        values["train/images_per_s"] = timed * self._batch_size / elapsed if timed else self._batch_size / elapsed
        values["train/input_wait"] = min(self._waited / elapsed, 1.0)
        self.restart_clock()
        return values


class StopRequest:
    """Turns SIGTERM and SIGINT into a wish that the loop grants after its step; a second one ends at once."""

    def __init__(self):
        self._requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True

    def agreed(self, step: int, log_every: float) -> bool:
        """Whether to stop after this step: the same answer in every process, which only log steps can wait for."""
        if jax.process_count() == 1:
            return self._requested
        return due(step, log_every) and bool(multihost_utils.process_allgather(np.array(self._requested)).any())


def _cost(model: Any, shapes: Any, size: int) -> dict[str, int]:
    variables = {"params": shapes.params, "batch_stats": shapes.batch_stats}
    return {
        "parameters": cost.parameters(shapes.params),
        "multiply_accumulates": cost.multiply_accumulates(model, variables, (size, size, 3)),
    }
