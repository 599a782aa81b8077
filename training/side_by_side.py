"""Several runs side by side: in what they differ, and where their curves part."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from morphism import tasks
from morphism.errors import UserError
from morphism.evaluation.compare import differing, finals, flattened
from morphism.evaluation.report.reading import RunFiles, read_run
from morphism.experiments.base import completed
from morphism.runtime.manifest import with_tuples
from morphism.runtime.paths import folder, read_json
from morphism.training.reproduce import UNCOMPARED, compared

APART = tuple(name for name in UNCOMPARED if name not in ("parameters", "multiply_accumulates", "init_from"))


def side_by_side(workdirs: Sequence[str]) -> dict[str, Any]:
    """What differs between runs, as JSON can hold it.

    Returns:
      runs: their names.
      config, surroundings, data: name -> the value of each run, where not all are equal.
      curves: run -> lines on where it parts from the first run.
      numbers: metric -> for each run {"last", "best", "step" of the best}, or None.
      notes: what is missing or broken.

    Raises UserError if a workdir has no configuration.
    """
    runs = [read_run(each) for each in workdirs]
    names = _names(runs)
    values = [finals(run.metrics, _higher(run)) for run in runs]
    metrics = dict.fromkeys(name for each in values for name in each)
    return {
        "runs": names,
        "config": differing([flattened(run.config) for run in runs]),
        "surroundings": differing([_surroundings(run) for run in runs]),
        "data": differing([_data(run) for run in runs]),
        "curves": {name: compared(folder(runs[0].path), folder(run.path))[1] for name, run in _others(names, runs)},
        "numbers": {
            name: [
                dict(zip(("last", "best", "step"), each[name], strict=True)) if name in each else None
                for each in values
            ]
            for name in metrics
        },
        "notes": [note for run in runs for note in run.notes if "morphism eval" not in note],
    }


def _others(names: Sequence[str], runs: Sequence[RunFiles]) -> list[tuple[str, RunFiles]]:
    return list(zip(names, runs, strict=True))[1:]


def _names(runs: Sequence[RunFiles]) -> list[str]:
    """The names of the folders, or their whole paths where names are not unique."""
    names = [run.name for run in runs]
    paths = [run.path for run in runs]
    if len(set(paths)) < len(paths):
        raise UserError(f"{next(path for path in paths if paths.count(path) > 1)}: named twice; name different runs")
    return names if len(set(names)) == len(names) else paths


def _higher(run: RunFiles) -> Sequence[str]:
    return tasks.of(completed(ConfigDict(with_tuples(run.config)))).higher_is_better


def _surroundings(run: RunFiles) -> dict[str, Any]:
    """What the manifest says of the newest start, flat; devices are counted."""
    start = run.starts[-1] if run.starts else {}
    return flattened({name: value for name, value in start.items() if name not in APART}) | {"starts": len(run.starts)}


def _data(run: RunFiles) -> dict[str, Any]:
    """Each split's number of records and digest, and the classes."""
    path = folder(run.path) / "data.json"
    found = flattened(read_json(path, dict)) if path.exists() else {}
    return found | {"classes": run.classes}
