"""The configurations of runs, side by side."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from morphism.evaluation.report.markup import Html, joined, tag
from morphism.evaluation.report.reading import RunFiles
from morphism.evaluation.report.tables import newest_start, table
from morphism.evaluation.report.words import heads
from morphism.experiments.base import declared


def side_by_side(runs: Sequence[RunFiles]) -> Html:
    """The fields that differ between runs, or of one run from the defaults; then all of them, folded."""
    columns = [_flat(run.config) for run in runs]
    known = [_declared(run.config) for run in runs]
    names = list(dict.fromkeys(name for column in (*known, *columns) for name in column))
    if len(runs) == 1:
        columns = [{name: _plain(field.default) for name, field in known[0].items()}, *columns]
    reasons = {} if len(runs) > 1 else (newest_start(runs[0], "derived") or {})
    rows = {name: [column.get(name) for column in columns] for name in names if any(name in each for each in columns)}
    differing = [name for name, values in rows.items() if any(value != values[0] for value in values)]
    head = ["field", *([tag("th", "default", scope="col")] if len(runs) == 1 else []), *heads(runs)]
    meanings = {name: field.meaning for column in known for name, field in column.items()}

    def row(name: str, values: Sequence[str | None]) -> Html:
        meaning = tag("small", reasons.get(name) or meanings.get(name, ""))
        cells = [
            tag(
                "td",
                tag("code", "–" if value is None else value),
                class_="differs" if index and value != values[0] else None,
            )
            for index, value in enumerate(values)
        ]
        return tag("tr", tag("th", tag("code", name), tag("br"), meaning, scope="row"), cells)

    what = "Fields that differ from the default" if len(runs) == 1 else "Fields that differ"
    first = (
        table(what, head, [row(name, rows[name]) for name in differing], "configs")
        if differing
        else tag("p", "No field differs.", class_="note")
    )
    whole = table("All fields", head, [row(name, rows[name]) for name in sorted(rows)], "configs")
    return joined(first, tag("details", tag("summary", f"All {len(rows)} fields"), whole))


def _flat(config: Mapping[str, Any], front: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{front}{name}.")
        else:
            found[front + name] = _plain(value)
    return found


def _declared(config: dict[str, Any]) -> dict[str, Any]:
    """The fields that experiments/base.py knows; none for a configuration of another version."""
    try:
        return declared(ConfigDict(config))
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
