"""What an evaluation draws: examples with predictions beside truth, and the plots of its numbers."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from morphism.data.records import Source
from morphism.evaluation.loop import Predicted
from morphism.runtime.paths import AnyPath, write_files
from morphism.tasks import Task
from morphism.tasks.task import Metrics, Predictions, spread

THRESHOLD, MOST = 0.25, 50  # detections with a lower score are not drawn; most per image
EXAMPLES = 12  # images of a split
REMEDY = "make room"


class Evaluated(NamedTuple):
    """What is drawn of an evaluation.

    data: config.data. classes: the task's. summary: of `metrics`. kept: the predictions of the images to draw.
    """

    task: Task
    source: Source
    data: ConfigDict
    classes: Any
    metrics: Metrics
    summary: dict[str, Any]
    kept: Sequence[Predictions]


def shown(source: Source) -> list[int]:
    """The records whose predictions are drawn: evenly spread, and the same in each evaluation."""
    return spread(len(source), EXAMPLES)


def keeping(batches: Iterable[Predicted], records: Sequence[int], kept: list[Predictions]) -> Iterator[Predicted]:
    """The batches unchanged; adds the rows of `records` to `kept`."""
    wanted = set(records)
    for batch in batches:
        rows = [row for row, index in enumerate(batch.rows["id"].tolist()) if index in wanted] if wanted else []
        if rows:
            kept.append({name: value[rows] for name, value in batch.rows.items()})
        yield batch


def drawings(of: Evaluated, threshold: float = THRESHOLD, most: int = MOST) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files, plots.json among them. `threshold` and `most` are as for `Task.lines`."""
    from morphism.evaluation import plots, sheets

    yield "examples.png", sheets.png(sheets.examples(of.task, of.source, of.kept, of.classes, of.data, threshold, most))
    numbers = of.task.plots(of.metrics, of.summary)
    yield "plots.json", json.dumps(numbers, allow_nan=False, ensure_ascii=False).encode()
    for name, content in plots.draw(numbers):
        yield f"{name}.png", content


def folder_of(workdir: AnyPath, evaluation: str) -> AnyPath:
    """Where the drawings of an evaluation are; `evaluation` is its split, and its views if there are several."""
    return workdir / "plots" / file_name(evaluation)


def file_name(evaluation: str) -> str:
    """A split, and perhaps views, as they are in names of files: "val[:5%]" is val_5."""
    return re.sub(r"[^A-Za-z0-9]+", "_", evaluation).strip("_")


def write(into: AnyPath, files: Iterable[tuple[str, bytes]], remedy: str = REMEDY) -> None:
    """Writes files into a folder; those of a part of a task, with a slash in their name, into a folder of its own."""
    for name, content in files:
        part, _, own = name.rpartition("/")
        write_files(into / part if part else into, [(own, content)], remedy)
