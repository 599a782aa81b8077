"""Trains many trials of an experiment over a space of its fields, or continues the sweep in its workdir.

    python sweep.py --config experiments/quickstart.py --trials 24 --workers 2 --workdir runs/sweep
    python sweep.py --config experiments/quickstart.py --space my_space.py:space --trials 50 --workdir runs/mine
    python sweep.py --config experiments/quickstart.py --grid optimizer.learning_rate=0.05,0.1,0.2 \
        --grid optimizer.name=momentum,adam --workdir runs/grid
    python sweep.py --config experiments/quickstart.py --trials 81 --pruner asha --rungs 1ep,3ep,9ep --workdir runs/asha
    python sweep.py --workdir runs/sweep [--trials 48]

A space is a function of an Optuna trial that returns the fields it sets; without --space and --grid it is `space` in
the experiment's file. --trials is how many there are in total. Trials are runs in <workdir>/trials. The same command
goes on after any interruption; on other machines that see the workdir and the storage it adds workers.
"""

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from morphism.commands import cli
from morphism.commands.experiment_file import misfit, split_variant, written
from morphism.errors import UserError, check_choice, did_you_mean
from morphism.experiments.base import declared

COMMAND = cli.Command(config="flag", data=True)
_WORKDIR = COMMAND.string("workdir", None, "Folder of the sweep.")
_SPACE = COMMAND.string("space", None, "FILE.py:function that maps an Optuna trial to fields and their values.")
_GRID = flags.DEFINE_multi_string("grid", [], "FIELD=VALUE,VALUE,...; several are combined.", flag_values=COMMAND.flags)
_TRIALS = COMMAND.integer("trials", None, "Trials in total; of a grid, all of its points unless given.", 1)
_WORKERS = COMMAND.integer("workers", 1, "Processes of this machine that run trials, each on devices of its own.", 1)
_SAMPLER = COMMAND.string("sampler", None, "tpe (of a space), grid (of --grid), random or qmc.")
_SEED = COMMAND.integer("sampler_seed", 0, "Seed of the sampler; that of the trials is config.seed.", 0)
_PRUNER = COMMAND.string("pruner", "none", "none, median or asha: which trials go on after a rung.")
_RUNGS = COMMAND.string("rungs", None, "Lengths after which trials pause, such as 1ep,3ep,9ep.")
_ETA = COMMAND.integer("eta", 3, "asha: the best 1/eta of the trials at a rung go on.", 2)
_SEEDS = COMMAND.integer("seeds", 1, "How often each point is trained, with config.seed and the numbers after it.", 1)
_BEST = COMMAND.integer("repeat_best", 0, "Train each point once, then this many of the best with --seeds others.", 0)
_SPLIT = COMMAND.boolean("vary_split", False, "Further seeds also cut other validation splits (data.val_fraction).")
_STACK = COMMAND.integer("stack", 1, "Trials of equal shapes that a worker trains at most side by side.", 1)
_BASELINE = COMMAND.string("baseline", None, "The row of the final table that others are compared with: 'name=sgd'.")
_STORAGE = COMMAND.string("storage", None, "URL of Optuna's storage; <workdir>/sweep.db unless given.")
_METRIC = COMMAND.string("metric", None, "What is compared: a metric of the evaluation; config.best unless given.")
_DISK = COMMAND.string("disk", None, "Bound of all checkpoints together, such as 20GB; the worst trials' go first.")
_LAUNCHER = COMMAND.string("launcher", "local", "What starts and places the workers: local, slurm or ray.")
_PLACES = COMMAND.string("launcher_options", "", "Of slurm or ray: gpus_per_node=1,timeout_min=240; num_gpus=1.")
_TRIES = COMMAND.integer("tries", 3, "How often a trial's process may die without progress before the trial fails.", 1)

UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
PROBED = 64  # points that are drawn to see whether two share a program
TOP = 10  # trials of the final ranking


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; values are given as --config.field=value")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name a folder for the sweep, such as runs/sweep")
    from morphism.runtime.stopping import StopRequest
    from morphism.sweeps import launchers
    from morphism.sweeps.folder import begin_sweep, check_storage, read_plan
    from morphism.sweeps.live import Live, best_of
    from morphism.sweeps.storage import absolute, open_storage, open_store

    folder = Path(_WORKDIR.value)
    before = read_plan(folder) if (folder / "sweep.json").exists() else None
    if before and list(folder.glob("trials/*")):  # without any, it may have been killed before it had a storage
        check_storage(folder, _url(folder, before))
    plan = _plan(before)
    _check(plan)
    launch = launchers.of(_LAUNCHER.value, _PLACES.value)
    if _STORAGE.value:
        open_storage(absolute(_STORAGE.value))  # before the folder is made
    if before and plan.repeat_best and not before.repeat_best:
        earlier = open_store(_url(folder, before), before.name, before.lower).records()
        if len(earlier) > plan.searched:
            raise UserError(f"{folder}: holds {len(earlier)} trials; --repeat_best needs --trials {len(earlier)}")
    plan = begin_sweep(folder, plan)
    store = open_store(_url(folder, plan), plan.name, plan.lower)
    stop, live = StopRequest(), Live(folder, plan, sys.stdout)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(130) if stop.agreed() else stop.request())
    print(f"{plan.total} trials in {folder}, {_WORKERS.value} worker(s), {plan.sampler}, pruner {plan.pruner}")
    try:
        with launch(folder, plan, store, _WORKERS.value) as workers:
            workers.watch(stop, live)
            live.close()
            if stop.agreed():
                print("stopping: the workers save their trials", flush=True)
    finally:
        live.close()
    trials = store.records()
    if stop.agreed():
        over = sum(each.over for each in trials)
        print(f"stopped by a signal with {over} of {plan.total} trials over; the same command goes on")
        return
    _show(trials, plan)
    _write_tables(folder, trials, plan)
    if not all(each.over for each in store.slots() if each.id or each.number < plan.total):
        print("the workers were asked to end before all trials were over; the same command goes on")
        return
    if best_of(trials, plan.lower) is None:
        raise UserError(f"{folder}: no trial is complete; the lines above say why")


def _plan(before: Any) -> Any:
    """What the flags describe; what they leave out is as in `before`, the plan of the sweep that goes on."""
    from morphism import tasks
    from morphism.sweeps import rungs, sampling, space
    from morphism.sweeps.folder import Plan
    from morphism.sweeps.storage import absolute
    from morphism.tasks.task import lower_is_better

    flag = COMMAND.flags["config"]
    given = COMMAND.config.given
    if not given and before is None:
        raise UserError("--config is missing; give an experiment, such as --config experiments/quickstart.py")
    config = COMMAND.config.value if given else before.config
    experiment = config_flags.get_config_filename(flag) if given else before.experiment
    task = tasks.of(config)
    metric = _METRIC.value or (before.metric if before else config.best or task.headline[0])
    check_choice("--metric", metric, task.headline)
    if _SPACE.value and _GRID.value:
        raise UserError("--space and --grid are both given; leave one out")
    grid = _grid(_GRID.value, config) if _GRID.value else before.grid if before and not _SPACE.value else {}
    source = _SPACE.value or ("" if grid else before.space if before else f"{split_variant(experiment)[0]}:space")
    opened = space.grid(grid) if grid else space.load(source)
    sampler = _SAMPLER.value or (before.sampler if before else "grid" if grid else "tpe")
    check_choice("--sampler", sampler, sampling.SAMPLERS)
    count = sampling.Sampler(sampler, 0, opened, lower=False).count
    known = before and (count is None or before.trials <= count)
    trials = _TRIALS.value or (before.trials if known else count)
    if trials is None:
        raise UserError("--trials is missing; say how many there are in total, such as --trials 24")
    if count is not None and trials > count:
        raise UserError(f"--trials is {trials}, and the grid has {count} points; give at most that, or leave it out")

    def kept(flag: flags.FlagHolder) -> Any:
        """The value of a flag; if it is not given, that of the sweep that goes on."""
        return flag.value if flag.present or not before else getattr(before, flag.name)

    pruner, eta, seeds, best = map(kept, (_PRUNER, _ETA, _SEEDS, _BEST))
    check_choice("--pruner", pruner, rungs.PRUNERS)
    if _RUNGS.value is not None:
        steps = tuple(each.strip() for each in _RUNGS.value.split(",") if each.strip())
    else:
        steps = before.rungs if before else rungs.default_rungs(config.duration, eta)
    if pruner == "none" and _RUNGS.value:
        raise UserError("--rungs is given, and --pruner none has no use for it; give --pruner asha or median")
    if seeds > 1 and pruner != "none" and not best:
        raise UserError(
            "--seeds and --pruner are both given: rungs compare single trials; leave one out, or repeat only the best "
            "with --repeat_best 3"
        )
    if best > trials:
        raise UserError(f"--repeat_best is {best}, of {trials} trials; give at most that")
    if kept(_SPLIT) and (seeds == 1 or config.data.val_fraction == 0):
        raise UserError(
            "--vary_split cuts another validation split with each further seed: it needs --seeds, and a split that is "
            "cut, such as with --config.data.val_fraction=0.2"
        )
    return Plan(
        experiment=experiment,
        config=config,
        space="" if grid else source,
        grid=grid,
        metric=metric,
        lower=lower_is_better(task, metric),
        sampler=sampler,
        sampler_seed=kept(_SEED),
        pruner=pruner,
        rungs=() if pruner == "none" else steps,
        eta=eta,
        trials=trials,
        seeds=seeds,
        repeat_best=best,
        vary_split=kept(_SPLIT),
        stack=kept(_STACK),
        storage=absolute(_STORAGE.value or (before.storage if before else "")),
        disk=_bytes(_DISK.value) if _DISK.value is not None else before.disk if before else 0,
        tries=kept(_TRIES),
    )


def _url(folder: Path, plan: Any) -> str:
    """The storage's URL, with its password, which sweep.json leaves out."""
    from morphism.sweeps.folder import STORAGE, storage_of
    from morphism.sweeps.storage import absolute

    return absolute(_STORAGE.value or os.environ.get(STORAGE) or storage_of(folder, plan))


def _grid(given: Sequence[str], config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Field -> values, checked as --config.field=value is. Raises UserError for one that does not exist."""
    found: dict[str, tuple[Any, ...]] = {}
    fields = declared(config)
    for each in given:
        name, equals, text = each.partition("=")
        name = name.removeprefix("config.")
        if not equals:
            raise UserError(f"--grid {each}: no values; write --grid {name}=VALUE,VALUE")
        if name in found:
            raise UserError(f"--grid {name} is given twice; give all values at once: --grid {name}=VALUE,VALUE")
        words = _split(text)
        option = name.rpartition(".")[0].endswith("options")
        if name not in fields and not option:
            raise UserError(f"--grid: config.{name}: no such field{did_you_mean(name, fields)}")
        for word in words:
            if wrong := misfit(config, name, word):
                raise UserError(f"--grid: {wrong}")
        found[name] = tuple(written(word, fields[name].default if name in fields else None) for word in words)
    return found


def _split(text: str) -> list[str]:
    """The values between the commas of `text` that are in no brackets."""
    words, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            words.append("")
        else:
            words[-1] += letter
    return [word.strip() for word in words if word.strip()]


def _check(plan: Any) -> None:
    """Raises UserError for what would fail in every trial: fields of the space, rungs, a metric without truths."""
    from morphism.sweeps import rungs, sampling, space
    from morphism.training.build import load

    opened = plan.opened_space()
    _, overrides = sampling.Sampler("random", plan.sampler_seed, opened, plan.lower).sample(0, list)
    space.configured(plan.config, overrides, opened.source)
    if "seed" in overrides and (plan.seeds > 1 or plan.repeat_best):
        raise UserError(
            f"{opened.source} sets config.seed, and --seeds and --repeat_best train points with further seeds: some "
            "trials would be the same; leave one out"
        )
    if plan.stack > 1 and plan.seeds == 1:
        _check_stack(plan, opened)
    if not plan.rungs:
        return
    units = {rungs.split_length(each, "--rungs")[1] for each in (*plan.rungs, plan.config.duration)}
    epoch = len(load(plan.config).train) / plan.config.batch_size if len(units) > 1 else None
    rungs.check_rungs(plan.rungs, plan.config.duration, epoch)


def _check_stack(plan: Any, opened: Any) -> None:
    """Raises UserError if no two of some points of the space share a program; trials of one point always do."""
    from morphism.sweeps import sampling, space
    from morphism.training.programs import kind

    def kind_of(overrides: dict[str, Any]) -> Any:
        try:
            return kind(space.configured(plan.config, overrides, opened.source))
        except UserError:
            return None

    sampler = sampling.Sampler("random", plan.sampler_seed, opened, plan.lower)
    drawn = [sampler.sample(number, list)[1] for number in range(PROBED)]
    points = [each for index, each in enumerate(drawn) if each not in drawn[:index]]
    kinds = [found for each in points if (found := kind_of(each)) is not None]
    if len(set(kinds)) < len(kinds) or len(kinds) < 2:
        return
    alone, fields = kind_of({}), dict.fromkeys(name for each in points for name in each)
    guilty = [name for name in fields if any(kind_of({name: each[name]}) != alone for each in points if name in each)]
    raise UserError(
        f"--stack is {plan.stack}, but no two of {len(kinds)} points share a program, which depends on "
        f"{', '.join(guilty)}; leave it out"
    )


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    if not match or float(match[1]) <= 0:
        raise UserError(f"--disk is {text!r}; give a size, such as 20GB or 500MB")
    unit = match[2] if not match[2] or match[2].endswith("B") else match[2] + "B"
    return int(float(match[1]) * UNITS[unit])


def _show(trials: Sequence[Any], plan: Any) -> None:
    """The best trials, and how many of each state there are."""
    from morphism.sweeps.live import in_words, summary
    from morphism.sweeps.trials import ranked

    for each in ranked(trials, plan.lower)[:TOP]:
        print(f"{plan.metric} {each.value:.4f}  trial {each.number:<4} {in_words(each)}  {each.workdir}")
    print(summary(trials, plan, None))


def _write_tables(folder: Path, trials: Sequence[Any], plan: Any) -> None:
    """Writes table.md, table.csv and table.tex; prints the first if points were repeated."""
    from morphism.runtime.paths import write_text
    from morphism.sweeps import tables

    table = tables.of_sweep(trials, plan)
    if not table.rows:
        return
    if _BASELINE.value:
        table = tables.against(table, _BASELINE.value)
    for format, suffix in tables.FORMATS.items():
        write_text(folder / f"table.{suffix}", tables.render(table, format))
    if plan.seeds > 1 or _BASELINE.value:
        print(tables.render(table, "markdown"), end="")
    print(f"{folder}/table.md, .csv and .tex; morphism table {folder} --baseline NAME compares with one row")
