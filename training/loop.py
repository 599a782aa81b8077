"""Training, from a configuration to a finished run."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from morphism.data.intensity import settle, with_fields
from morphism.data.oddities import Oddities
from morphism.data.pipeline import Batch, train_batches
from morphism.errors import UserError
from morphism.lengths import due, to_steps
from morphism.models import cost
from morphism.runtime.checkpoint import Checkpoints, best_by
from morphism.runtime.manifest import claim_intensity, claimed, read_intensity
from morphism.runtime.mesh import own_rows
from morphism.runtime.paths import AnyPath, folder
from morphism.runtime.processes import check_shared
from morphism.runtime.resume import flat
from morphism.runtime.stopping import StopRequest
from morphism.runtime.writer import Writer, duration, recorded
from morphism.tasks.task import counted, counts
from morphism.training.begin import Beginning, begin, check_processes, opened
from morphism.training.build import Parts, build, steps_per_epoch
from morphism.training.clock import DeviceClock
from morphism.training.derive import derived
from morphism.training.drawer import Drawer
from morphism.training.feed import training_pairs
from morphism.training.hyper import HyperParameters
from morphism.training.meter import REMEDY, Meter, NonFiniteLoss
from morphism.training.profiling import Profiler, Span
from morphism.training.programs import Programs
from morphism.training.state import TrainState, eval_variables, not_finite
from morphism.training.validation import Validation, judge_of

LOOK = 50  # steps at most between two checks for stop requests and for values that are not finite


class Progress(NamedTuple):
    """How far a training has come.

    step: the last step that was done.
    metrics: of the last evaluation; {} if there was none.
    over: whether the training has ended, by its length or by early stopping.
    paused: whether it has come to `until`, with the metrics of that step. Neither: it was stopped.
    """

    step: int
    metrics: dict[str, float]
    over: bool = False
    paused: bool = False


class Call(NamedTuple):
    """A step that a training asks for: the arguments of programs.train_step."""

    programs: Programs
    state: TrainState
    batch: dict[str, jax.Array]
    hyper: HyperParameters

    def answer(self) -> "Answer":
        return self.programs.train_step(self.state, self.batch, self.hyper)


Answer = tuple[TrainState, dict[str, jax.Array]]  # of a step: the next state, and scalars
Training = Generator[Call, Answer, Progress]
Feed = Callable[..., Iterator[Batch]]  # with the arguments of train_batches


def train(
    config: ConfigDict,
    workdir: AnyPath | str,
    *,
    until: int | str | None = None,
    stop: StopRequest | None = None,
    started: float | None = None,
    command: Sequence[str] = (),
    profile: Span | None = None,
) -> dict[str, float]:
    """Trains by `config`, continuing from the newest checkpoint in `workdir`.

    It may be called in any thread, any number of times. It listens to no signals: callers that do pass `stop`.

    Args:
      config: the whole configuration, locked or not; it is not changed.
      workdir: the folder of the run; it is made if it does not exist.
      until: pauses after this step, or length such as "3ep", of the whole schedule: evaluates, saves and returns.
        Another call goes on, and ends with the bits of a run that never paused. An evaluation that the run would not
        have had without the pause is only returned: metrics, best checkpoint and early stopping do not see it.
      stop: asked after every step; once a stop is requested, the run saves and returns.
      started: when the caller started, in seconds of time.time(), for the report of the first step.
      command: the command line, for the manifest; empty if Python code calls this.
      profile: steps to trace into the workdir.

    Returns: the metrics of the last evaluation.

    Raises UserError for bad input, if possible before anything is built.
    """
    given = {"until": until, "stop": stop, "started": started, "command": command, "profile": profile}
    return advance(config, workdir, **given).metrics


def advance(config: ConfigDict, workdir: AnyPath | str, **options: Any) -> Progress:
    """What `train` does, with the same options; returns how far it has come."""
    return answered(training(config, workdir, **options))


def answered(calls: Training) -> Progress:
    """Runs each step of a training in a program of its own, to the end."""
    try:
        call = next(calls)
        while True:
            try:
                answer = call.answer()
            except BaseException as error:
                call = calls.throw(error)
            else:
                call = calls.send(answer)
    except StopIteration as end:
        return end.value


def training(
    config: ConfigDict,
    workdir: AnyPath | str,
    *,
    until: int | str | None = None,
    stop: StopRequest | None = None,
    started: float | None = None,
    command: Sequence[str] = (),
    profile: Span | None = None,
    feed: Feed = train_batches,
) -> Training:
    """What `advance` does, except for the steps: each is yielded as a Call, and its results have to be sent back.

    So whoever answers may run the steps of several trainings in one program (training/together.py). `feed` makes the
    batches, as train_batches does. The other arguments are those of `train`.
    """
    started, stop = started or time.time(), stop or StopRequest()
    workdir = folder(workdir) if isinstance(workdir, str) else workdir
    main = jax.process_index() == 0
    found = derived(config, workdir, started, print if main else lambda line: None)
    config = found.config
    parts = build(config, found.data)
    if profile:
        profile.check(0, parts.lengths.total)
    pause = pause_of(until, parts)
    weights = found.weights or opened(config, parts.shapes.variables, workdir)
    check_shared(workdir)
    check_processes(parts)
    with (
        claimed(workdir) if main else nullcontext(),
        Checkpoints(workdir, config.keep, **best_by(config), writer=True) as checkpoints,
    ):
        beginning = begin(parts, workdir, checkpoints, weights, command, found.reasons)
        if profile:
            profile.check(beginning.step, parts.lengths.total)
        with (
            Writer(
                workdir,
                parts.lengths.total,
                beginning.step,
                main,
                evaluates_again=beginning.owed,
                writers=config.writers,
                config=flat(config),
            ) as writer,
            Drawer(workdir, writer, active=config.plots and main) as drawer,
            Profiler(profile, workdir / "profile") as profiler,
            DeviceClock() as clock,
        ):
            introduce(parts, workdir, beginning, writer)
            config = settled(parts, workdir, beginning, writer)
            odd = Oddities(parts.data.train, writer.say)
            validation = Validation(
                config,
                parts,
                writer=writer,
                drawer=drawer,
                stop=stop,
                odd=Oddities(parts.data.val, writer.say, odd.said),
                judged=recorded(workdir, judge_of(config), beginning.step + (not beginning.owed)),
            )
            loop = Loop(
                config,
                parts,
                validation,
                checkpoints=checkpoints,
                writer=writer,
                drawer=drawer,
                stop=stop,
                started=started,
                profiler=profiler,
                meter=Meter(config.batch_size, clock, parts.peak),
                odd=odd,
                feed=feed,
                pause=pause,
            )
            return (yield from loop.run(beginning))


def pause_of(until: int | str | None, parts: Parts) -> int:
    """The step after which to pause; the last step if there is no pause. Raises UserError unless it is positive."""
    if until is None:
        return parts.lengths.total
    step = to_steps(str(until), steps_per_epoch(parts.data.train, parts.config), "until")
    if step < 1:
        raise UserError(f"until is {until!r}, which is before the first step; give 1 or more steps, or epochs")
    return min(step, parts.lengths.total)


def introduce(parts: Parts, workdir: AnyPath, beginning: Beginning, writer: Writer) -> None:
    """Reports what is trained, on which data and devices, and from which step."""
    source, total, step = parts.data.train, parts.lengths.total, beginning.step
    classes = parts.programs.task.class_names(source)
    writer.say(
        f"{parts.config.model.name}: {cost.parameters(parts.shapes.params):,} parameters, "
        f"{len(source):,} examples, {counted(counts(classes))}; {parts.mesh.size} "
        f"{jax.devices()[0].device_kind} device(s); {workdir}"
    )
    for note in beginning.notes:
        writer.say(note)
    if step:
        finished = step >= total and not beginning.owed
        writer.say(f"finished at step {step}" if finished else f"going on from step {step} of {total}")


def settled(parts: Parts, workdir: AnyPath, beginning: Beginning, writer: Writer) -> ConfigDict:
    """The configuration with the pixels and intensities of the run, known or found now; the workdir records them."""
    known = read_intensity(workdir) if beginning.step else {}
    config = with_fields(parts.config, known) if known else settle(parts.config, parts.data.train, writer.say)
    if jax.process_index() == 0:
        claim_intensity(workdir, config)
    return config


class Loop:
    """Runs the steps, and between them logs, saves, evaluates and checks the stop request."""

    def __init__(
        self,
        config: ConfigDict,
        parts: Parts,
        validation: Validation,
        *,
        checkpoints: Checkpoints,
        writer: Writer,
        drawer: Drawer,
        stop: StopRequest,
        started: float,
        profiler: Profiler,
        meter: Meter,
        odd: Oddities,
        feed: Feed,
        pause: int,
    ):
        """`config` is the `settled` configuration of `parts`; `pause` the step after which to return."""
        self._config, self._parts, self._validation, self._started = config, parts, validation, started
        self._checkpoints, self._writer, self._drawer, self._stop = checkpoints, writer, drawer, stop
        self._profiler, self._meter, self._odd, self._feed, self._pause = profiler, meter, odd, feed, pause
        self._flops: dict[tuple[int, ...], int] = {}  # of a step, by the shape of its images
        self._spent = {"start": 0.0, "evaluation": 0.0, "saving": 0.0}  # seconds
        self._saves = parts.lengths.checkpoint > 0
        self._look = min(parts.lengths.log or LOOK, LOOK)

    def run(self, beginning: Beginning) -> Training:
        """Continues after `beginning`, until the pause or the end."""
        self._stop.ready()
        step, total = beginning.step, self._parts.lengths.total
        results: dict[str, float] = self._checkpoints.metrics(step) or {}
        if beginning.owed:
            results = self._evaluate(step, beginning.state)
            if results is None:
                self._report_stop(step, saved=True, evaluated=False)
                return Progress(step, {})
        if self._is_over(step) or step == total:
            return Progress(step, results, over=True)
        if step >= self._pause:
            return self._paused(step, beginning.state, results)
        meter, state = self._meter, beginning.state
        pairs = training_pairs(
            self._parts.data.train,
            self._config,
            self._parts.mesh,
            beginning.step,
            total,
            watch=self._odd.watch,
            feed=self._feed,
        )
        for step, (on_host, batch) in enumerate(meter.timed(pairs), beginning.step + 1):
            state = yield from self._step(step, state, on_host, batch, first=step == beginning.step + 1)
            evaluating, stopping = self._parts.lengths.evaluates(step), self._asks(step) and self._stop.agreed()
            pausing = step == self._pause and step < total
            saving = pausing or (self._saves and (evaluating or stopping or due(step, self._parts.lengths.checkpoint)))
            if stopping or evaluating or saving or due(step, self._parts.lengths.log):
                self._log(step, meter.close(step))
            elif due(step, self._look):
                meter.check(step)
            if saving:
                with self._spending("saving"):
                    self._save(step, state)
            found = None
            if evaluating and not stopping:
                with self._spending("evaluation"):
                    found = self._evaluate(step, state)
            results = found or results
            if evaluating or saving or step == beginning.step + 1:  # the first log line compiles the schedule
                meter.restart_clock()
            if stopping or (evaluating and found is None):
                self._report_stop(step, saved=saving, evaluated=not evaluating)
                return Progress(step, results)
            over = evaluating and self._is_over(step)
            if over or step == total:
                self._writer.say(where_time_went(step - beginning.step, time.time() - self._started, self._spent))
            if over:
                return Progress(step, results, over=True)
            if pausing:
                return self._paused(step, state, found or {})
        return Progress(step, results, over=True)

    def _paused(self, step: int, state: TrainState, results: dict[str, float]) -> Progress:
        """Ends at the pause, with the metrics of its step: `results`, or of an evaluation that is not recorded."""
        results = results or self._validation.unrecorded(step, state) or {}
        if not results:
            self._report_stop(step, saved=True, evaluated=False)
            return Progress(step, {})
        self._odd.report()
        self._drawer.curves()
        self._writer.say(f"paused after step {step} of {self._parts.lengths.total}, saved")
        return Progress(step, results, paused=True)

    def _is_over(self, step: int) -> bool:
        """Whether to stop early after the evaluation of `step`; says so."""
        if why := self._validation.gave_up(step):
            self._odd.report()
            self._writer.say(why)
        return bool(why)

    def _step(
        self, step: int, state: TrainState, on_host: dict[str, np.ndarray], batch: dict[str, jax.Array], first: bool
    ) -> Generator[Call, Answer, TrainState]:
        """Asks for one step; returns the state after it. `first`: of this start."""
        parts, meter = self._parts, self._meter
        if step == 1:
            self._draw_first(on_host if "image" in on_host else own_rows(batch))  # while the step is compiled
        flops = self._step_flops(state, batch)
        with self._profiler.step(step, state):
            meter.dispatching(flops)
            state, scalars = yield Call(parts.programs, state, batch, parts.hyper)
        meter.add(scalars, on_host["id"])
        profiled = self._profiler.after(step, scalars)
        if profiled:
            self._writer.say(profiled)
        if first:
            jax.block_until_ready(scalars)
            self._drawer.wait()
            self._spent["start"] = time.time() - self._started
            self._writer.say(f"first step done {self._spent['start']:.1f} s after the start")
        if first or profiled:
            meter.restart_clock()
        return state

    def _draw_first(self, batch: dict[str, np.ndarray]) -> None:
        programs, config = self._parts.programs, self._config
        augment = partial(programs.augment, np.uint32(config.seed))
        mixed = programs.task.mixed(config.augment)
        self._drawer.first_batch(batch, mixed, augment, self._parts.data.train, config.augment)

    def _step_flops(self, state: TrainState, batch: dict[str, Any]) -> int:
        shape = batch["image"].shape
        if shape not in self._flops:  # a new program, which has to be traced anyway
            self._flops[shape] = self._parts.programs.train_flops(state, batch, self._parts.hyper)
        return self._flops[shape]

    @contextmanager
    def _spending(self, kind: str) -> Iterator[None]:
        """Measures what does not belong to the steps: "evaluation" or "saving"."""
        before = time.perf_counter()
        yield
        seconds = time.perf_counter() - before
        self._spent[kind] += seconds
        self._meter.spend(kind, seconds)

    def _asks(self, step: int) -> bool:
        """Whether to check for a stop after `step`: not after every one if several processes have to agree."""
        return jax.process_count() == 1 or due(step, self._look) or self._parts.lengths.evaluates(step)

    def _log(self, step: int, values: dict[str, float]) -> None:
        self._writer.record(step, {**values, "train/learning_rate": float(self._parts.schedule(step - 1))})
        self._writer.training_line(step, values, (self._parts.lengths.total - step) * self._config.batch_size)

    def _save(self, step: int, state: TrainState) -> None:
        """Saves `state`. Raises NonFiniteLoss, and saves nothing, if a variable is not finite after `step`."""
        broken = not_finite(eval_variables(state))
        if broken:
            raise NonFiniteLoss(
                f"step {step}: {broken[0]} is not finite after it; the last checkpoint is from before. {REMEDY}"
            )
        self._checkpoints.save(step, state)

    def _evaluate(self, step: int, state: TrainState) -> dict[str, float] | None:
        """Evaluates and records, in the checkpoint of the step too if there is one; None if stopped before."""
        results = self._validation.recorded(step, state)
        if results is not None and (self._saves or step == self._pause < self._parts.lengths.total):
            self._checkpoints.add_metrics(step, results)
        return results

    def _report_stop(self, step: int, saved: bool, evaluated: bool) -> None:
        self._odd.report()
        self._drawer.curves()
        goes_on = f"the same command goes on from step {step}" + ("" if evaluated else ", with its evaluation")
        done = f"saved; {goes_on}" if saved else "nothing saved"
        self._writer.say(f"stopped {self._stop.reason} after step {step} of {self._parts.lengths.total}, {done}")


def where_time_went(steps: int, seconds: float, spent: dict[str, float]) -> str:
    """A line on the `seconds` since the start; `spent`: those of them that were not spent on steps after the first."""
    spent = {"start and compilation": spent["start"], "evaluation": spent["evaluation"], "saving": spent["saving"]}
    spent = {"steps": max(seconds - sum(spent.values()), 0.0), **spent}
    shares = "  ".join(f"{name} {100 * each / seconds:.0f} %" for name, each in spent.items())
    return f"{steps:,} steps in {duration(seconds)}: {shares}"
