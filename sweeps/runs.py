"""Ordinary runs as rows of a table: those whose configurations differ in the seed alone are one row."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from morphism import tasks
from morphism.errors import UserError, check_choice
from morphism.evaluation.report.reading import RunFiles, read_run
from morphism.evaluation.report.tables import total_steps
from morphism.runtime.manifest import read_config
from morphism.runtime.resume import FREE, among, flat
from morphism.sweeps.tables import Row, Table, ranked
from morphism.tasks.task import lower_is_better

COLUMNS = 6  # of settings; if more fields differ, a row is called by the folders of its runs


def of_runs(folders: Sequence[str], metric: str | None = None) -> Table:
    """The value of each run is `metric` (config.best unless given) in its last evaluation during training.

    Raises UserError if a folder is no run, if none is finished, or if two runs have the same configuration and seed.
    """
    configs = {where: read_config(Path(where)) for where in folders}
    first = next(iter(configs.values()))
    task = tasks.of(first)
    metric = metric or first.best or task.headline[0]
    check_choice("--metric", metric, task.headline)
    groups: dict[str, tuple[dict[str, Any], dict[int, tuple[str, float]]]] = {}
    notes = []
    for where, config in configs.items():
        value, reason = _last(read_run(where), metric)
        if value is None:
            notes.append(f"{where}: left out, {reason}.")
            continue
        fields = {name: each for name, each in flat(config).items() if name != "seed" and not among(FREE, name)}
        _, seeds = groups.setdefault(json.dumps(fields, sort_keys=True, allow_nan=False), (fields, {}))
        if config.seed in seeds:
            twin = seeds[config.seed][0]
            raise UserError(f"{where}: has the configuration and the seed ({config.seed}) of {twin}; name one of them")
        seeds[config.seed] = (where, value)
    if not groups:
        raise UserError(f"none of these runs is finished and has {metric}: {' '.join(notes)}")
    different = _different([fields for fields, _ in groups.values()])
    rows = []
    for fields, seeds in groups.values():
        settings: Mapping[str, Any] = {name: fields.get(name) for name in different}
        if not 0 < len(different) <= COLUMNS:
            settings = {"runs": " ".join(Path(where).name for where, _ in seeds.values())}
        rows.append(Row(settings, {seed: value for seed, (_, value) in seeds.items()}))
    return ranked(rows, metric, lower_is_better(task, metric), notes)


def _different(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields of which two groups have different values."""
    names = dict.fromkeys(name for group in groups for name in group)
    return [name for name in names if any(group.get(name) != groups[0].get(name) for group in groups)]


def _last(run: RunFiles, metric: str) -> tuple[float | None, str]:
    """The metric at the end of a run; None with the reason if it is not finished or does not have it."""
    found = [line for line in run.metrics if f"val/{metric}" in line]
    total = total_steps(run)
    if not found:
        return None, f"it has no val/{metric} in metrics.jsonl"
    if total and found[-1]["step"] < total:
        return None, f"its last evaluation is at step {found[-1]['step']} of {total}"
    return float(found[-1][f"val/{metric}"]), ""
