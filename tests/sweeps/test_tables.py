"""Tables of results: each format, parsed again; runs that differ in more than the seed are rows of their own."""

import csv
import io
import json
import statistics

import pytest
from reported import start

from morphism.errors import UserError
from morphism.experiments import quickstart
from morphism.sweeps.folder import Plan
from morphism.sweeps.runs import of_runs
from morphism.sweeps.tables import Row, against, of_sweep, ranked, render
from morphism.sweeps.trials import Record

VALUES = {"sgd_x|": (0.50, 0.52, 0.51, 0.54, 0.53), "adam & co": (0.70, 0.73, 0.72, 0.74, 0.75)}


def table(**rows):
    made = [
        Row({"optimizer.name": name, "optimizer.learning_rate": 0.1}, dict(enumerate(values)))
        for name, values in (rows or VALUES).items()
    ]
    return ranked(made, "top1", False, ["One trial failed."])


def test_markdown_has_mean_deviation_and_n_and_bold_for_what_beats_every_other():
    head, rule, first, second, _, words = render(table(), "markdown").splitlines()
    assert head == "| name | learning\\_rate | top1 ↑ | n |" and rule.count("|") == head.count("|")
    mean, sd = statistics.fmean(VALUES["adam & co"]), statistics.stdev(VALUES["adam & co"])
    assert first == f"| adam & co | 0.1 | **{mean:.4f}** ± {sd:.4f} | 5 |"
    assert (
        second.startswith(r"| sgd\_x\| | 0.1 | 0.5200 ± ") and "Bold: better" in words and "One trial failed" in words
    )


def test_of_few_seeds_and_of_no_difference_nothing_is_bold():
    few = render(table(a=(0.9, 0.91), b=(0.1, 0.12)), "markdown")
    assert "**" not in few and "too few seeds to say" in few
    same = render(table(a=(0.5, 0.6, 0.55, 0.7, 0.65), b=(0.52, 0.58, 0.55, 0.72, 0.66)), "markdown")
    assert "**" not in same and "not better than every other" in same
    assert "0.9000 |" in render(table(a=(0.9,), b=(0.1,)), "markdown")


def test_csv_is_read_back_with_full_precision():
    lines = list(csv.DictReader(io.StringIO(render(against(table(), "name=sgd_x|"), "csv"))))
    assert [line["name"] for line in lines] == ["adam & co", "sgd_x|"]
    assert float(lines[0]["top1_mean"]) == statistics.fmean(VALUES["adam & co"]) and lines[0]["seeds"] == "0 1 2 3 4"
    assert [line["verdict"] for line in lines] == ["better", "baseline"]
    assert float(lines[0]["low"]) < float(lines[0]["difference"]) < float(lines[0]["high"])


def test_latex_is_escaped_and_each_row_has_as_many_cells_as_columns():
    text = render(against(table(), "name=sgd_x|"), "latex")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert r"\begin{tabular}{llrrrrr}" in text and r"\toprule" in text and r"\bottomrule" in text
    assert all(row.replace(r"\&", "").count("&") == 6 for row in rows) and len(rows) == 3
    assert r"adam \& co" in text and r"sgd\_x\textbar{}" in text and r"\textbf{0.7280} $\pm$ " in text


def test_a_baseline_that_means_no_row_or_several_is_one_line():
    with pytest.raises(UserError, match="'name=sgd': no row has this name; give one of 'name=adam"):
        against(table(), "name=sgd")
    with pytest.raises(UserError, match="2 rows have this name"):
        against(table(), "learning_rate=0.1")


def plan_of(**values):
    given = dict(experiment="", config=quickstart.get_config(), space="", grid={}, metric="loss", lower=True)
    given |= dict(sampler="grid", trials=3)
    return Plan(**given, sampler_seed=0, pruner="none", rungs=(), eta=3, storage="", **values)


def record(number, state, seed, value, **overrides):
    given = dict(number=number, id=str(number), state=state, overrides=overrides, params={}, seed=seed, value=value)
    rest = dict(rung=0, goal=0, steps=8, values={}, seconds=1.0, error="", workdir="", owner="", beat=0, deaths=0)
    return Record(**given, **rest, deaths_at=(0, 0), key=number)


def test_the_trials_of_a_point_are_one_row_and_those_without_a_result_are_counted():
    trials = [record(index, "complete", index % 2, index / 10, batch_size=index // 2) for index in range(4)]
    found = of_sweep([*trials, record(4, "failed", 0, None, batch_size=9)], plan_of(seeds=2))
    assert [dict(row.values) for row in found.rows] == [{0: 0.0, 1: 0.1}, {0: 0.2, 1: 0.3}]
    assert found.notes == ("Trials that are not in the table: 1 failed.",)


def run(folder, metric, **fields):
    config = quickstart.get_config()
    config.update_from_flattened_dict({"duration": "20"} | fields)
    start(folder, config, ("a", "b"))
    lines = [{"step": 10, "val/top1": 0.1}, {"step": 20, "val/top1": metric, "val/loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(folder)


def test_runs_that_differ_in_the_seed_alone_are_one_row(tmp_path):
    runs = [run(tmp_path / f"m{seed}", 0.5 + seed / 10, seed=seed) for seed in range(2)]
    runs += [run(tmp_path / f"a{seed}", 0.7, seed=seed, **{"optimizer.name": "adam"}) for seed in range(2)]
    found = of_runs(runs)
    assert found.metric == "top1" and [dict(row.settings) for row in found.rows] == [
        {"optimizer.name": "adam"},
        {"optimizer.name": quickstart.get_config().optimizer.name},
    ]
    assert dict(found.rows[1].values) == {0: 0.5, 1: 0.6}
    with pytest.raises(UserError, match=r"m1b: has the configuration and the seed \(1\)"):
        of_runs([*runs, run(tmp_path / "twice" if (tmp_path / "twice").mkdir() else tmp_path / "m1b", 0.5, seed=1)])
    short = run(tmp_path / "short", 0.5, seed=3, duration="40")
    assert "last evaluation is at step 20 of 40" in of_runs([*runs, short]).notes[0]
    with pytest.raises(UserError, match="--metric is 'ap'"):
        of_runs(runs, "ap")
