"""Compares runs: configurations, versions, data, devices, curves, and final and best numbers.

    morphism compare runs/a runs/b [runs/c ...] [--json]

Only what differs is listed, with a column per run. Curves are compared with those of the first run, to the bit and
without times: the first step at which they part is named, with what differs there. `morphism compare` trains nothing;
morphism reproduce trains a run again.
"""

import json
import os
from typing import Any

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command()
_JSON = COMMAND.boolean("json", False, "Print JSON.")


def main(argv: list[str]) -> None:
    if len(argv) < 3:
        raise UserError("name the workdirs of two or more runs")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # only files are read
    from morphism.training.side_by_side import side_by_side

    found = side_by_side([each.rstrip("/") or each for each in argv[1:]])
    print(json.dumps(found, ensure_ascii=False, allow_nan=False) if _JSON.value else text(found), flush=True)


def text(found: dict[str, Any]) -> str:
    """What `side_by_side` found, for a terminal."""
    from morphism.evaluation.compare import aligned

    runs, blocks = found["runs"], []
    for title, what in (("config", "configuration"), ("surroundings", "code, versions, devices"), ("data", "data")):
        rows = [[name, *(_cell(value, name) for value in values)] for name, values in found[title].items()]
        blocks.append([f"{what}: the same"] if not rows else aligned([[what, *runs], *rows]))
    curves = [f"{runs[0]} and {name}: {line}" for name, lines in found["curves"].items() for line in lines]
    blocks.append(curves)
    rows = [[name, *(_numbers(each) for each in values)] for name, values in found["numbers"].items()]
    blocks.append(aligned([["last; best at step", *runs], *rows]) if rows else ["no numbers yet"])
    return "\n\n".join("\n".join(lines) for lines in [*blocks, *([found["notes"]] if found["notes"] else [])])


def _cell(value: Any, name: str) -> str:
    """A value in a table, shortened where it is long; of a digest the first twelve digits."""
    widest = 12 if "sha256" in name else 44
    plain = isinstance(value, str)
    written = "–" if value is None else value if plain else json.dumps(value, ensure_ascii=False, allow_nan=False)
    return written if len(written) <= widest else f"{written[:widest]}…"


def _numbers(value: dict[str, Any] | None) -> str:
    return "–" if value is None else f"{value['last']:.6g}; {value['best']:.6g} at {value['step']}"
