"""The folder of a sweep: sweep.json says what it varies, and refuses to go on with anything else."""

import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from morphism.errors import UserError
from morphism.runtime.manifest import with_tuples
from morphism.runtime.paths import read_json, write_json
from morphism.runtime.resume import FREE, among, flat
from morphism.sweeps.rungs import Halving
from morphism.sweeps.sampling import random_chooser
from morphism.sweeps.space import Space, described, grid, load
from morphism.sweeps.storage import JOURNAL, Store, open_store, without_password

FILE = "sweep.json"
STORAGE = "MORPHISM_STORAGE"  # environment variable with the storage's URL, password included, for worker processes
SQLITE = "sqlite:///"
CONFIG_FREE = tuple(name for name in FREE if not name.startswith("stop."))  # fields that change no trial's value


@dataclass(frozen=True)
class Plan:
    """What a sweep does.

    experiment: the argument of --config, or "".
    config: the base configuration.
    space: "FILE.py:function", or "" where `grid` is given.
    grid: field -> values.
    metric: the name of a headline metric; lower: whether low values are good.
    sampler, sampler_seed: see sampling.py.
    pruner, rungs, eta: see rungs.py.
    trials: how many points of the space there will be in total.
    seeds: how often each point is trained, with config.seed and the numbers after it.
    repeat_best: if positive, each point is trained once, and then this number of the best with `seeds` further seeds.
    vary_split: whether a further seed also cuts another validation split (config.data.split_seed).
    stack: how many trials a worker trains at most side by side (training/together.py).
    storage: its URL, without a password; "" for sweep.db in the folder of the sweep.
    disk: bytes that checkpoints may use; 0: no bound.
    tries: how often a trial's process may end without progress before the trial counts as failed.
    """

    experiment: str
    config: ConfigDict
    space: str
    grid: Mapping[str, Any]
    metric: str
    lower: bool
    sampler: str
    sampler_seed: int
    pruner: str
    rungs: tuple[str, ...]
    eta: int
    trials: int
    storage: str
    disk: int = 0
    tries: int = 3
    seeds: int = 1
    repeat_best: int = 0
    vary_split: bool = False
    stack: int = 1
    name: str = ""
    description: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rules(self) -> Halving:
        return Halving(self.rungs, self.pruner, self.eta, self.lower)

    @property
    def per_point(self) -> int:
        """With how many seeds each point is trained; its trials follow one another."""
        return 1 if self.repeat_best else self.seeds

    @property
    def searched(self) -> int:
        """How many trials search the space. Those with a higher number repeat the best."""
        return self.trials * self.per_point

    @property
    def total(self) -> int:
        """How many trials there will be."""
        return self.searched + self.repeat_best * self.seeds

    def opened_space(self) -> Space:
        return load(self.space) if self.space else grid(self.grid)

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {
            "config": self.config.to_dict(),
            "storage": without_password(self.storage),
            "grid": dict(self.grid),
            "description": dict(self.description),
        }


def begin_sweep(folder: Path, plan: Plan) -> Plan:
    """Makes `folder` the folder of `plan`, or compares it with the plan that is there; returns the plan with its name.

    Raises UserError naming the first difference, unless the sweep may go on with it.
    """
    plan = _replaced(plan, description=_description(plan))
    path = folder / FILE
    if (folder / "config.json").exists():
        raise UserError(f"{folder}: holds a run, not a sweep; choose another --workdir")
    if not path.exists():
        new = _replaced(plan, name=f"{folder.absolute().name}-{uuid.uuid4().hex[:8]}")
        temporary = folder / f"{FILE}.{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another --workdir") from error
        write_json(temporary, new.to_json())
        try:
            os.link(temporary, path)  # of several machines that start the sweep at once, one names it
            return new
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    before = read_plan(folder)
    old, new = (without_password(storage_of(folder, each)) for each in (before, plan))
    difference = _difference(before, plan) or (f"its trials in {old}, now it is {new}" if old != new else "")
    if difference:
        raise UserError(
            f"{folder}: holds a sweep with {difference}; choose another --workdir, or give the same to go on with it"
        )
    plan = _replaced(plan, name=before.name)
    if plan.to_json() != before.to_json():
        write_json(path, plan.to_json())
    return plan


def read_plan(folder: Path) -> Plan:
    """The plan of the sweep in `folder`. Raises UserError if there is none."""
    if not (folder / FILE).exists():
        raise UserError(f"{folder}: holds no sweep; give the --workdir of one")
    found = read_json(folder / FILE, dict)
    config = ConfigDict(with_tuples(found["config"])).lock()
    values = {name: found[name] for name in Plan.__dataclass_fields__ if name in found}
    grid = {name: with_tuples(choices) for name, choices in found["grid"].items()}
    return Plan(**values | {"config": config, "rungs": tuple(found["rungs"]), "grid": grid})


def storage_of(folder: Path, plan: Plan) -> str:
    """The URL of the storage of the sweep in `folder`: its own sweep.db moves with it."""
    own = folder / "sweep.db"
    missing = plan.storage.startswith(SQLITE) and not Path(plan.storage.removeprefix(SQLITE)).exists()
    return f"{SQLITE}{own.absolute()}" if not plan.storage or (missing and own.exists()) else plan.storage


def open_sweep(folder: Path, url: str = "") -> tuple[Plan, Store]:
    """The plan and the study of the sweep in `folder`; `url` is its storage, with its password if it has one."""
    plan = read_plan(folder)
    return plan, open_store(url or os.environ.get(STORAGE) or storage_of(folder, plan), plan.name, plan.lower)


def read_sweep(folder: Path) -> tuple[Plan, Store]:
    """The plan and the study of a sweep that was started. Raises UserError if it or its storage is missing."""
    plan = read_plan(folder)
    url = os.environ.get(STORAGE) or storage_of(folder, plan)
    check_storage(folder, url)
    return open_sweep(folder, url)


def check_storage(folder: Path, url: str) -> None:
    """Raises UserError if the file of a storage is missing: it would be made, and empty."""
    file = next((url.removeprefix(kind) for kind in (SQLITE, JOURNAL) if url.startswith(kind)), "")
    if file and not Path(file).exists():
        raise UserError(f"{folder}: its storage {url} is missing; restore the file")


def _description(plan: Plan) -> dict[str, Any]:
    return described(plan.opened_space(), lambda probe: random_chooser("probe", probe))


def check_space(plan: Plan) -> None:
    """Raises UserError if the space's file is no longer what it was when the sweep began."""
    if difference := _difference(plan, _replaced(plan, description=_description(plan))):
        raise UserError(f"{plan.space}: the sweep began with {difference}; restore it")


def _replaced(plan: Plan, **values: Any) -> Plan:
    return Plan(**vars(plan) | values)


def _difference(before: Plan, now: Plan) -> str:
    """The first difference with which a sweep cannot go on, or ""."""
    old, new = flat(before.config), flat(now.config)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and not among(CONFIG_FREE, name):
            return f"config.{name}={old.get(name)!r}, now it is {new.get(name)!r}"
    parameters, others = before.description["parameters"], now.description["parameters"]
    for name in sorted(parameters.keys() | others.keys()):
        if parameters.get(name) != others.get(name):
            return f"{name} from {parameters.get(name, 'nothing')}, now it is from {others.get(name, 'nothing')}"
    if before.description["returns"] != now.description["returns"]:
        return f"a space {before.space or '--grid'} that made other overrides of the same values than it does now"
    fixed = ["metric", "lower", "sampler", "sampler_seed", "pruner", "rungs", "eta", "stack"]
    if before.repeat_best:  # the numbers of its trials follow those of the search
        fixed += ["trials", "repeat_best"]
    if before.repeat_best or before.seeds > 1 or not now.repeat_best:
        fixed += ["seeds", "vary_split"]
    if before.per_point > 1:
        fixed += ["repeat_best"]
    for name in fixed:
        if getattr(before, name) != getattr(now, name):
            return f"{name}={getattr(before, name)!r}, now it is {getattr(now, name)!r}"
    return ""


def size_of(folder: Path) -> int:
    """The bytes of all files below `folder`; those that disappear meanwhile do not count."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total


def delete_checkpoints(workdir: Path) -> None:
    """Deletes the checkpoints of a trial: all or none, wherever it is interrupted."""
    gone = workdir / "checkpoints.deleted"
    shutil.rmtree(gone, ignore_errors=True)
    if (workdir / "checkpoints").exists():
        (workdir / "checkpoints").rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def newest_checkpoint(workdir: Path) -> int:
    """The step of the newest checkpoint of a trial; 0 if it has none."""
    return max((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()), default=0)
