"""The report of a sweep: parsed, and in a real browser."""

import re
from html.parser import HTMLParser

import pytest
from browser import CHROMIUM, Browser
from swept import swept

from morphism.errors import UserError
from morphism.sweeps.folder import open_sweep
from morphism.sweeps.report import importances, sweep_page


class Parsed(HTMLParser):
    """Elements with their attributes, and what stands in the rows of tables."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name == "tr":
            self.rows.append([])
        if name in ("td", "th") and self.rows:
            self.rows[-1].append("")
        self.open.append(name)

    def handle_endtag(self, name):
        while self.open and self.open.pop() != name:
            pass

    def handle_data(self, text):
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("swept") / "sweep")


@pytest.fixture(scope="module")
def text(folder):
    return sweep_page(str(folder))


def test_every_trial_is_in_it_the_best_first_and_each_other_with_its_reason(folder, text):
    trials = open_sweep(folder)[1].records()
    parsed = Parsed(text)
    order = [row for row in parsed.rows if row and row[0].startswith("trial ")]
    assert sorted(int(row[0].split()[1]) for row in order) == list(range(24))
    complete = sorted((each for each in trials if each.state == "complete"), key=lambda each: -each.value)
    assert [row[0] for row in order[: len(complete)]] == [f"trial {each.number}" for each in complete]
    assert order[0][1] == f"{complete[0].value:.4f}" and len(complete) == 15
    reasons = [row for row in order if row[1] in ("failed", "pruned")]
    assert len(reasons) == 9 and all(row[4].startswith(("FloatingPointError: </script>", "rank 9")) for row in reasons)


def test_lines_and_points_are_those_of_the_trials_and_no_name_is_markup(text):
    parsed = Parsed(text)
    marks = [attributes for _, attributes in parsed.elements if "trial" in attributes.get("class", "").split()]
    with_value = {str(number) for number in range(24) if number % 8 != 5}
    assert {each["data-trial"] for each in marks} == with_value
    assert sum("open" in each["class"].split() for each in marks) == 3 * 6  # pruned ones on three slices
    assert len(marks) == len(with_value) * (1 + 3 + 2)  # parallel coordinates, slices, a curve and its end
    assert not any(name == "img" for name, _ in parsed.elements)
    assert not re.search(r"(?:src|href)=\"(?!#)", text) and "style=" not in text


def test_the_importance_is_that_of_the_only_parameter_that_matters(folder):
    plan, store = open_sweep(folder)
    found = importances(store.storage.get_all_trials(store.study), plan)
    assert next(iter(found)) == "rate" and found["rate"] > 0.5 and sum(found.values()) == pytest.approx(1)
    assert importances(store.storage.get_all_trials(store.study)[:8], plan) == {}


def test_a_sweep_without_its_storage_is_one_line_and_no_empty_one_is_made(tmp_path):
    folder = swept(tmp_path / "sweep", trials=1)
    (folder / "sweep.db").unlink()
    with pytest.raises(UserError, match=r"its storage .* is missing; restore the file"):
        sweep_page(str(folder))
    assert not (folder / "sweep.db").exists()


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium; set CHROMIUM or install it")
def test_it_opens_without_complaint_and_a_trial_under_the_pointer_is_lit_everywhere(text, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(text)
    with Browser() as browser:
        for width, dark in ((1200, False), (390, True)):
            browser.open(path, width=width, dark=dark)
            assert browser.complaints == [] and browser.requests == [path.as_uri()]
            assert browser.run("document.documentElement.scrollWidth") == width
        place = "document.querySelector('circle.trial.top').getBoundingClientRect()"
        browser.run("document.querySelector('circle.trial.top').scrollIntoView({block: 'center', behavior: 'instant'})")
        x, y = (browser.run(f"{place}.{side} + 3") for side in ("x", "y"))
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        best = browser.run("document.querySelector('circle.trial.top').dataset.trial")
        told = browser.run("document.getElementById('told').textContent")
        assert told.startswith(f"Trial {best}, complete, top1 0.")
        assert (
            browser.run("new Set([...document.querySelectorAll('.seen')].map((each) => each.dataset.trial)).size") == 1
        )
        assert browser.run("document.querySelectorAll('.seen').length") == 7  # and its row of the ranking
        browser.run("document.querySelectorAll('table.sortable th button')[1].click()")
        assert browser.complaints == []
