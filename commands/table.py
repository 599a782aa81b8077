"""Prints a table of results over seeds, as a paper has it: of a sweep, or of ordinary runs.

    morphism table runs/sweep [--baseline 'name=sgd'] [--format markdown|csv|latex]
    morphism table runs/a0 runs/a1 runs/b0 runs/b1 [--metric top1]

Mean and standard deviation over seeds; runs whose configurations differ in the seed alone are one row. With a baseline,
which is a row's name or enough words of it, the paired differences with their bootstrap intervals.
"""

from pathlib import Path

from morphism.commands import cli
from morphism.errors import UserError, check_choice

COMMAND = cli.Command()
_METRIC = COMMAND.string("metric", None, "Of runs: a metric of the evaluation; config.best unless given.")
_BASELINE = COMMAND.string("baseline", None, "The row that the others are compared with, such as 'name=sgd'.")
_FORMAT = COMMAND.string("format", "markdown", "markdown, csv or latex.")


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError("name the workdir of a sweep, or those of runs")
    from morphism.sweeps import folder, tables
    from morphism.sweeps.runs import of_runs

    check_choice("--format", _FORMAT.value, tuple(tables.FORMATS))
    sweeps = [each for each in argv[1:] if (Path(each) / folder.FILE).exists()]
    if sweeps and len(argv) > 2:
        raise UserError(f"{sweeps[0]}: is a sweep; a table has one sweep, or runs: name it alone")
    if sweeps:
        plan, store = folder.read_sweep(Path(sweeps[0]))
        if _METRIC.value not in (None, plan.metric):
            raise UserError(f"--metric {_METRIC.value}: the sweep compares {plan.metric}; leave it out")
        table = tables.of_sweep(store.records(), plan)
        if not table.rows:
            raise UserError(f"{sweeps[0]}: no trial is complete yet")
    else:
        table = of_runs(argv[1:], _METRIC.value)
    if _BASELINE.value:
        table = tables.against(table, _BASELINE.value)
    print(tables.render(table, _FORMAT.value), end="")
