"""Writes one HTML file about one or several runs, or about a sweep, which needs no network and nothing beside it.

    morphism report runs/a runs/b [--output report.html] [--split val]
    morphism report runs/sweep [--output report.html]

Without --output, report.html is written into the workdir of a single run or sweep, or here, if there are several runs.
Learning curves, evaluations, kinds of errors, confusion down to its images, best and worst images, classes, precision
and recall, cost, and the configurations side by side. What `morphism eval` has written is shown, so evaluate the runs
first; with --draw for the curves of precision and recall. What is missing is named in the file and on the terminal.
Of a sweep: ranking, parallel coordinates, slices, importances, learning curves, and why trials were pruned or failed.
"""

import sys
from pathlib import Path

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command()
_OUTPUT = COMMAND.string("output", None, "The HTML file to write; report.html unless given, of one run in its workdir.")
_SPLIT = COMMAND.string("split", None, "The evaluation to show in detail; that of the validation split unless given.")


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError("name the workdirs of one or several runs")
    output = _OUTPUT.value or (f"{argv[1].rstrip('/')}/report.html" if len(argv) == 2 else "report.html")
    from morphism.evaluation.report.page import page
    from morphism.evaluation.report.reading import RunFiles, read_run
    from morphism.runtime.paths import folder, write_text

    if any((Path(each) / "sweep.json").exists() for each in argv[1:]):
        from morphism.sweeps.report import sweep_page

        if len(argv) > 2 or _SPLIT.value:
            raise UserError("a report is about one sweep, or about runs; name the sweep alone, without --split")
        text = sweep_page(argv[1])
        write_text(folder(output), text, "name a file that can be written as --output")
        print(f"the sweep {argv[1]} in {output}, {len(text) / 1e6:.1f} MB; open it in a browser")
        return
    runs: list[RunFiles] = []
    for where in argv[1:]:
        try:
            runs.append(read_run(where))
        except UserError as error:
            if len(argv) == 2:
                raise
            print(f"{argv[0]}: left out: {error}", file=sys.stderr)
    if not runs:
        raise UserError("none of these is the workdir of a run; name folders with a config.json")
    if _SPLIT.value and not any(run.shown(_SPLIT.value) for run in runs):
        raise UserError(f"--split {_SPLIT.value}: no run has this evaluation; run morphism eval --split {_SPLIT.value}")
    for note in (note for run in runs for note in run.notes):
        print(note, file=sys.stderr)
    text = page(runs, _SPLIT.value)
    write_text(folder(output), text, "name a file that can be written as --output")
    print(f"{len(runs)} run(s) in {output}, {len(text) / 1e6:.1f} MB; open it in a browser")
