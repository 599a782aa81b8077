"""The report of runs, read as a browser's parser would."""

import json
from html.parser import HTMLParser

import pytest
from reported import HOSTILE, classified, detected

from morphism.commands import report
from morphism.errors import UserError
from morphism.evaluation.report.page import page
from morphism.evaluation.report.reading import read_run

VOID = ("meta", "img", "br", "rect", "line", "circle")


class Parsed(HTMLParser):
    """The elements of a page as (name, attributes), and the text of each table's rows."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.open, self.texts, self.data = [], [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)
        if name == "tr":
            self.rows.append([])
        elif name in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, name):
        if name not in VOID:
            assert self.open.pop() == name

    def handle_data(self, text):
        if self.open[-1:] == ["script"]:
            self.data = self.data or text
            return
        self.texts.append(text)
        if "th" in self.open or "td" in self.open:
            self.rows[-1][-1] += text

    def row(self, head):
        return next(row for row in self.rows if row and row[0].startswith(head))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    run = classified(tmp_path_factory.mktemp("report") / "<b>run")
    return Parsed(page([read_run(str(run))]))


def test_hostile_names_of_classes_and_files_are_text(hostile):
    names = [name for name, _ in hostile.elements]
    assert names.count("script") == 2 and "i" not in names
    attributes = {attribute for _, each in hostile.elements for attribute in each}
    assert not any(attribute.startswith("on") for attribute in attributes)
    assert all(each["src"].startswith("data:image/jpeg;base64,") for name, each in hostile.elements if name == "img")
    text = "".join(hostile.texts)
    assert all(name.replace("\u202e", "\\u202e") in text for name in HOSTILE)
    assert "<b>run" in text and "\u202e" not in text
    assert "<" not in hostile.data and json.loads(hostile.data)["runs"][0]["name"] == "<b>run"


def test_the_page_forbids_itself_to_load_anything(hostile):
    policy = next(each["content"] for _, each in hostile.elements if "content-security-policy" in str(each).lower())
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    assert not any(each.get("href", "#")[0] != "#" for _, each in hostile.elements)


def test_every_image_and_chart_has_words_and_every_column_a_head(hostile):
    assert all(each["alt"] for name, each in hostile.elements if name == "img")
    assert all(each["aria-label"] for _, each in hostile.elements if each.get("role") in ("img", "region"))
    assert all(each["scope"] in ("row", "col") for name, each in hostile.elements if name == "th")


def test_confused_images_are_listed_by_cell(hostile):
    matrix = json.loads(hostile.data)["matrices"][0]
    wrong = [index for index in range(40) if index % 5 == 0 and index % 4 == 2]
    assert matrix["cells"]["2,0"] == wrong
    labels = [each.get("data-cell") for name, each in hostile.elements if name == "button"]
    assert "2,0" in labels and "2,1" not in labels


def test_cost_and_metrics_are_those_of_the_files(hostile):
    assert hostile.row("parameters")[1] == "78,042"
    assert hostile.row("multiply-accumulates")[1].split() == ["9.6", "M"]
    assert hostile.row("time in steps")[1].split() == ["3", "s"]  # 30 steps of 64 images at 640 per second
    assert hostile.row("model FLOPs utilisation")[1] == "40.0 %"
    assert hostile.row("steps")[1] == "30"
    assert hostile.row("top-1")[1].startswith("0.8000 at 20") and "newest 0.7000 at 30" in hostile.row("top-1")[1]


def test_fields_that_differ_stand_first_and_the_best_number_is_marked(tmp_path):
    runs = [classified(tmp_path / "a"), classified(tmp_path / "b", images=50, **{"optimizer.learning_rate": 0.01})]
    parsed = Parsed(page([read_run(str(run)) for run in runs]))
    first = next(row for row in parsed.rows if row and row[0].startswith("optimizer.learning_rate"))
    assert first[1:] == ["0.2", "0.01"]
    changed = [each for name, each in parsed.elements if name == "td" and each.get("class") == "differs"]
    assert len(changed) == 2  # once among those that differ, once among all
    assert [row[0] for row in parsed.rows].count(first[0]) == 2
    series = json.loads(parsed.data)["charts"][0]["series"]
    assert [each["run"] for each in series] == [0, 1]


def test_tide_stands_beside_cocos_ap(tmp_path):
    parsed = Parsed(page([read_run(str(detected(tmp_path / "run")))]))
    assert [parsed.row(name)[1] for name in ("AP (COCO)", "AP50 (COCO)", "AP50 (TIDE)")] == [
        "0.5000",
        "0.7100",
        "0.7000",
    ]
    assert parsed.row("classification")[1] == "0.20003" and parsed.row("missed")[1] == "0.15001"  # dAP, and how many
    data = json.loads(parsed.data)
    assert data["matrices"][0]["cells"] == {"0,0": [0], "0,2": [0], "1,0": [1]}
    assert [chart["title"] for chart in data["charts"]][-1] == "precision over recall (boxes)"


def test_what_is_missing_or_broken_is_named_with_a_remedy(tmp_path):
    run = classified(tmp_path / "run")
    (run / "manifest.json").write_text("[")
    (run / "eval_val_images.zip").write_bytes(b"no archive")
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + '{"step": 31, "tr')
    (run / "eval_test.json").write_text('{"half')
    notes = read_run(str(run)).notes
    for start in ("manifest.json: not JSON", "eval_val_images.zip: missing or broken", "metrics.jsonl: 1 broken line"):
        assert sum(start in note for note in notes) == 1, start
    assert sum("eval_test.json" in note and "run morphism eval again" in note for note in notes) == 1
    text = "".join(Parsed(page([read_run(str(run))])).texts)
    assert all(note in text for note in notes)


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    run = detected(tmp_path / "run")
    for path in run.iterdir():
        if path.name != "config.json" and path.is_file():
            path.unlink()
    parsed = Parsed(page([read_run(str(run))]))
    assert any("not started" in text for text in parsed.texts)
    assert any("not evaluated; morphism eval" in text for text in parsed.texts)


def test_a_report_of_five_runs_with_many_images_stays_below_ten_megabytes(tmp_path):
    first = classified(tmp_path / "first", images=160, side=320)
    runs = [read_run(str(first))] * 5
    assert sum(map(len, runs[0].evaluations[0].small.values())) * 5 > 20e6
    assert 5e6 < len(page(runs)) < 10e6


def test_the_command_leaves_out_what_is_no_run_and_writes_the_rest(tmp_path, capsys):
    run, out = classified(tmp_path / "run"), tmp_path / "report.html"
    arguments = report.COMMAND.parse(["morphism report", str(run), str(tmp_path), f"--output={out}"])
    report.main(arguments)
    printed = capsys.readouterr()
    assert "1 run(s) in" in printed.out and f"left out: {tmp_path / 'config.json'}: no such file" in printed.err
    assert out.read_text().startswith("<!doctype html>")
    report.COMMAND.flags["output"].unparse()
    report.main(report.COMMAND.parse(["morphism report", f"{run}/"]))
    assert f"1 run(s) in {run}/report.html" in capsys.readouterr().out
    assert (run / "report.html").read_text() == out.read_text()
    with pytest.raises(UserError, match="no such file"):
        report.main(["morphism report", str(tmp_path)])
