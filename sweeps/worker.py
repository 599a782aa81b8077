"""A worker: runs trials of a sweep in its process, one after another, until none is left.

It may be ended at any moment, and any number of workers may run, on all machines that see the sweep's folder and
storage. What it does next depends on nothing but these:

1. a running trial that has lost its owner is taken over, and goes on from its checkpoint;
2. an interrupted trial that waits goes on;
3. a trial that may be promoted goes on from its rung;
4. otherwise the next trial is sampled.

With --stack it trains several trials side by side (training/together.py). Trials that differ only
in hyper-parameters which change no shape share this process's compiled programs.
"""

import contextlib
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from optuna.trial import FrozenTrial, TrialState

from morphism.errors import Busy, Unwritable, UserError, one_line
from morphism.runtime.stopping import StopRequest
from morphism.sweeps import sampling, space
from morphism.sweeps.claims import Heartbeat, Watch, claim, exclusive, let_go, owner_of_this_process, take_over
from morphism.sweeps.folder import Plan, check_space, delete_checkpoints, open_sweep, size_of
from morphism.sweeps.rungs import hopeless, promotable, to_evict
from morphism.sweeps.storage import Store
from morphism.sweeps.trials import ERROR, GOAL, PLAN, SECONDS, STEPS, Record, ranked

POLL_S = 0.5  # between two looks for work, while others run the last trials
ATTEMPTS = 100  # at sampling a point that no trial has
LOOKED_AT = 2  # trials of other programs, for each trial of a stack, after which it is full enough


class Ended(StopRequest):
    """The stop request of one trial: by its own heartbeat, or by that of the worker."""

    def __init__(self, worker: StopRequest):
        super().__init__()
        self._worker = worker

    def agreed(self) -> bool:
        return super().agreed() or self._worker.agreed()


class Worker:
    """Runs trials of the sweep `plan` in `folder`, whose truth is in `store`, until `stop` is requested."""

    def __init__(self, folder: Path, plan: Plan, store: Store, stop: StopRequest):
        self._folder, self._plan, self._store, self._stop = folder, plan, store, stop
        self._space = plan.opened_space()
        self._sampler = sampling.Sampler(plan.sampler, plan.sampler_seed, self._space, plan.lower)
        self._me = owner_of_this_process()
        self._watch = Watch(self._me)

    def run(self) -> None:
        """Returns once every trial is over, or a stop was requested. Raises Unwritable if the disk refuses."""
        while not self._stop.agreed():
            self.tidy()
            trial = self._next()
            if trial is not None:
                self._train([trial, *self._mates(trial)])
            elif all(each.over for each in self._mine(self._store.slots())):
                return
            else:
                time.sleep(POLL_S)

    def _mine(self, slots: Sequence[Record]) -> list[Record]:
        """Those of `slots` that belong to the sweep: lowering --trials leaves sampled ones in it."""
        return [each for each in slots if each.id or each.number < self._plan.total]

    def _next(self, held: Collection[int] = ()) -> Record | None:
        """A trial that is now this worker's, sampled and with its goal; None if there is nothing to do for now.

        held: keys of the trials that this worker has already.
        """
        slots = self._mine(self._store.slots())
        for trial in slots:
            lost = trial.state == "running" and trial.key not in held and self._watch.lost(trial)
            if lost and take_over(self._store, self._folder, trial, self._me):
                return self._ready(trial)
        for trial in slots:
            if trial.state == "waiting" and trial.id and claim(self._store, trial, self._me):
                return self._ready(trial)
        sampled = [each for each in slots if each.id]
        searching = [each for each in sampled if each.number < self._plan.searched]
        for trial in promotable(searching, self._plan.searched, self._plan.rules):
            if claim(self._store, trial, self._me):
                self._store.note(trial.key, **{GOAL: trial.rung})
                return self._ready(trial)
        for trial in slots:
            if trial.state == "waiting" and not trial.id and claim(self._store, trial, self._me):
                return self._ready(trial)
        searched = all(each.over for each in slots if each.number < self._plan.searched)
        if len(slots) < (self._plan.total if searched else self._plan.searched):
            self._store.add_slot()
            return self._next(held)
        return None

    def _mates(self, trial: Record) -> list[Record]:
        """More trials that are now this worker's, to be trained side by side with `trial`; those of other programs
        that it met on its way wait. A trial with which a process died trains alone, so that no other dies with it.
        """
        found: list[Record] = []
        others: list[Record] = []
        if trial.deaths or not (own := self._kind(trial)):
            return []
        while len(found) + 1 < self._plan.stack and len(others) < LOOKED_AT * self._plan.stack:
            other = self._next([each.key for each in (trial, *found, *others)])
            if other is None:
                break
            (others if other.deaths or self._kind(other) != own else found).append(other)
        for other in others:
            let_go(self._store, other.key)
        return found

    def _kind(self, trial: Record) -> Any:
        """What trials of one program have in common; None if the fields of `trial` are impossible."""
        from morphism.training.programs import kind

        try:
            return kind(self._config(trial))
        except UserError:
            return None

    def _ready(self, trial: Record) -> Record | None:
        """This worker's `trial`, sampled; None if there is nothing to run: it was at its goal, or repeats another."""
        if not trial.id and not self._sample(trial):
            return None
        self._store_params(trial.key)
        trial = self._store.record(trial.key)
        if trial.rung > trial.goal:  # its worker ended between the report and the pause
            let_go(self._store, trial.key)
            return None
        return trial

    def _sample(self, trial: Record) -> bool:
        """Chooses the values of a trial, once: what is written as PLAN stays. False if the trial is then over."""
        if trial.number >= self._plan.searched:
            return self._repeat_best(trial)
        point, repeat = divmod(trial.number, self._plan.per_point)
        if repeat:
            return self._repeat(trial, point * self._plan.per_point, repeat)
        try:
            for attempt in range(ATTEMPTS):
                draw, overrides = self._sampler.sample(point, lambda: self._history(trial.number), attempt)
                plan = self._planned(draw.params, overrides, repeat=0)
                if self._twin(trial, plan["id"]) is None:
                    self._store.note(trial.key, **{PLAN: plan})
                    if self._twin(trial, plan["id"]) is None:  # another worker may have sampled it meanwhile
                        return True
        except UserError as error:
            return self._over(trial, one_line(error), failed=True)
        twin = self._twin(trial, plan["id"])
        self._store.note(trial.key, **{PLAN: plan | {"id": f"same-as-{twin.number}", "workdir": ""}})
        return self._over(trial, f"the sampler found no point that differs from trial {twin.number}", failed=False)

    def _twin(self, trial: Record, name: str) -> Record | None:
        """The trial of a lower number that is called `name`."""
        return next((each for each in self._store.records() if each.id == name and each.number < trial.number), None)

    def _repeat(self, trial: Record, first: int, repeat: int) -> bool:
        """Plans `trial` as the trial number `first` with another seed; False if that is over, or not sampled yet."""
        found = next(each for each in self._store.slots() if each.number == first)
        if not found.id and not found.over:
            let_go(self._store, trial.key)
            return False
        if not found.workdir:
            return self._over(trial, found.error, found.state == "failed")
        overrides = dict(found.overrides) | {"seed": found.seed}
        self._store.note(trial.key, **{PLAN: self._planned(found.params, overrides, repeat)})
        return True

    def _repeat_best(self, trial: Record) -> bool:
        """Plans `trial`, which comes after the search, as one of its best with another seed; False if it is over."""
        rank, repeat = divmod(trial.number - self._plan.searched, self._plan.seeds)
        searched = [each for each in self._store.records() if each.number < self._plan.searched]
        best = ranked(searched, self._plan.lower)
        if rank < len(best):
            return self._repeat(trial, best[rank].number, repeat + 1)
        return self._over(trial, f"only {len(best)} trial(s) of the search are complete", failed=False)

    def _planned(self, params: Mapping[str, Any], overrides: Mapping[str, Any], repeat: int) -> dict[str, Any]:
        seed = overrides.get("seed", self._plan.config.seed) + repeat
        rest = {name: value for name, value in overrides.items() if name != "seed"}
        name = space.identity(rest, seed)
        return {"id": name, "overrides": rest, "seed": seed, "params": dict(params), "workdir": f"trials/{name}"}

    def _history(self, number: int) -> list[FrozenTrial]:
        """The trials that are sampled, one for each point, with the mean over its seeds as its value."""
        trials = self._store.storage.get_all_trials(self._store.study, deepcopy=True)
        sampled = sorted((each for each in trials if each.params), key=lambda each: each.number)
        values: dict[int, list[float]] = {}
        for each in sampled:
            if each.state == TrialState.COMPLETE:
                values.setdefault(each.number // self._plan.per_point, []).append(each.value)
        firsts = [each for each in sampled if each.number % self._plan.per_point == 0 and each.number != number]
        for each in firsts:
            if each.state == TrialState.COMPLETE:
                each.values = [statistics.fmean(values[each.number // self._plan.per_point])]
        return firsts

    def _store_params(self, key: int) -> None:
        """Writes the values of a sampled trial as Optuna's parameters, those that are not there."""
        trial = self._store.storage.get_trial(key)
        known = trial.user_attrs[PLAN]["params"]
        if known.keys() == trial.params.keys():
            return
        draw = space.Draw(lambda name, _: known[name], trial.number)
        self._space.suggest(draw)
        for name, distribution in draw.distributions.items():
            if name not in trial.params:
                internal = distribution.to_internal_repr(known[name])
                self._store.storage.set_trial_param(key, name, internal, distribution)

    def _train(self, trials: Sequence[Record]) -> None:
        """Trains each until its next rung or its end, all together, and records what came of it."""
        from morphism.training.together import together

        began = time.monotonic()
        stops = [Ended(self._stop) for _ in trials]
        with contextlib.ExitStack() as beating:
            hearts = [
                beating.enter_context(Heartbeat(self._store, trial, self._me, stop))
                for trial, stop in zip(trials, stops, strict=True)
            ]
            begins = [partial(self._begun, *each) for each in zip(trials, stops, strict=True)]
            outcomes = together(begins)
            seconds = (time.monotonic() - began) / len(trials)
            mine = [heart.check() for heart in hearts]
        for trial, outcome, own in zip(trials, outcomes, mine, strict=True):
            if own:
                self._conclude(trial, outcome, seconds)
        full = next((each for each in outcomes if isinstance(each, Unwritable)), None)
        if full:
            raise full

    def _begun(self, trial: Record, stop: StopRequest, feed: Any) -> Any:
        """The training of a trial, which logs into its workdir."""
        from morphism.training.loop import training

        workdir = self._folder / trial.workdir
        with _log(workdir) as into:
            given = {"until": self._until(trial), "stop": stop, "command": sys.argv, "feed": feed}
            return (yield from into(training(self._config(trial), workdir, **given)))

    def _until(self, trial: Record) -> str | None:
        rungs = self._plan.rungs
        return rungs[trial.goal] if trial.goal < len(rungs) and trial.number < self._plan.searched else None

    def _conclude(self, trial: Record, outcome: Any, seconds: float) -> None:
        """Records what came of a training of this worker: its Progress or its exception."""
        if isinstance(outcome, Busy):
            time.sleep(POLL_S)  # its former worker is still saving
            return let_go(self._store, trial.key)
        if isinstance(outcome, Unwritable):
            return let_go(self._store, trial.key)
        if isinstance(outcome, Exception):
            line = one_line(outcome)
            line = line if isinstance(outcome, UserError) else f"{type(outcome).__name__}: {line}"
            self._over(trial, line[:500], failed=True)
            return None
        self._store.note(trial.key, **{STEPS: outcome.step, SECONDS: trial.seconds + seconds})
        if not outcome.over and not outcome.paused:
            return let_go(self._store, trial.key)
        value = outcome.metrics[self._plan.metric]
        if outcome.over:
            self._store.report(trial.key, outcome.step, value)
            self._store.complete(trial.key, value)
        elif outcome.step in trial.values:
            rung = f"--rungs: {self._until(trial)} is no later than the rung before, in steps of this trial"
            self._over(trial, rung, failed=True)
        else:
            self._store.report(trial.key, outcome.step, value)
            let_go(self._store, trial.key)
        return None

    def _config(self, trial: Record) -> ConfigDict:
        overrides = dict(trial.overrides) | {"seed": trial.seed}
        if self._plan.vary_split:
            split = overrides.get("data.split_seed", self._plan.config.data.split_seed)
            overrides["data.split_seed"] = split + trial.seed - self._plan.config.seed
        return space.configured(self._plan.config, overrides, self._space.source)

    def _over(self, trial: Record, reason: str, failed: bool) -> bool:
        self._store.note(trial.key, **{ERROR: reason})
        (self._store.fail if failed else self._store.prune)(trial.key)
        return False

    def tidy(self) -> None:
        """Prunes the trials that cannot be promoted any more, and keeps the checkpoints within their bound."""
        trials = [each for each in self._store.records() if each.number < self._plan.searched]
        for trial, reason in hopeless(trials, self._plan.searched, self._plan.rules):
            if claim(self._store, trial, self._me):
                delete_checkpoints(self._folder / trial.workdir)
                self._over(trial, reason, failed=False)
        if self._plan.disk:
            with contextlib.suppress(Busy), exclusive(self._folder):
                self._evict()

    def _evict(self) -> None:
        """Deletes checkpoints beyond the bound. A trial that is promoted without one trains again, to the same bits."""
        trials = self._store.records()
        sizes = {each.workdir: size_of(self._folder / each.workdir / "checkpoints") for each in trials}
        for trial in to_evict(trials, sizes, self._plan.disk, self._plan.lower):
            if trial.over:
                delete_checkpoints(self._folder / trial.workdir)
            elif claim(self._store, trial, self._me):
                delete_checkpoints(self._folder / trial.workdir)
                let_go(self._store, trial.key)


@contextlib.contextmanager
def _log(workdir: Path) -> Iterator[Callable[[Generator], Generator]]:
    """Wraps a generator so that what it prints goes to log.txt of `workdir`. Raises Unwritable if that cannot be."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / "log.txt").open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise Unwritable(f"{workdir}: cannot be written ({error.strerror}); make room and start again") from error

    def into(inner: Generator) -> Generator:
        proceed = inner.__next__
        with contextlib.closing(inner):
            while True:
                with contextlib.redirect_stdout(file):
                    try:
                        value = proceed()
                    except StopIteration as end:
                        return end.value
                try:
                    answer = yield value
                    proceed = partial(inner.send, answer)
                except Exception as error:
                    proceed = partial(inner.throw, error)

    with file:
        yield into


def work(folder: Path, url: str = "", stop: StopRequest | None = None) -> None:
    """Runs trials of the sweep in `folder` in this process until none is left; JAX must have been started.

    `url`: its storage, where that has a password. Raises UserError if there is no such sweep, or if its space changed.
    """
    plan, store = open_sweep(folder, url)
    check_space(plan)
    Worker(folder, plan, store, stop or StopRequest()).run()


def main(folder: str, attached: bool, cores: Sequence[int] = ()) -> None:
    """A worker process: SIGTERM, SIGINT, or with `attached` the end of standard input, ask it to save and end.

    `cores`: the CPUs that it keeps to; () for all.
    """
    if cores and sys.platform == "linux":
        os.sched_setaffinity(0, cores)  # before JAX counts them for its threads
    from morphism.runtime.startup import start_jax

    stop = StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.request())
    if attached:
        threading.Thread(target=_at_end_of_input, args=(stop,), daemon=True, name="parent").start()
    try:
        start_jax()
        work(Path(folder), stop=stop)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        os._exit(2)
    sys.stdout.flush()
    os._exit(0)  # without waiting for the threads of libraries


def _at_end_of_input(stop: StopRequest) -> None:
    """Standard input ends with the process that started this one, however that ends."""
    while os.read(0, 1024):
        continue
    stop.request()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "attached", [int(each) for each in sys.argv[3:]])
