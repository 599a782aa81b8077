"""The report in a real browser: nothing is complained about, nothing is loaded, and a cell shows its images."""

import json

import pytest
from browser import CHROMIUM, Browser
from reported import classified, detected

from morphism.evaluation.report.page import page
from morphism.evaluation.report.reading import read_run

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium; set CHROMIUM or install it")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    runs = [classified(folder / "a"), classified(folder / "<i>b", **{"batch_size": 32}), detected(folder / "c")]
    path = folder / "report.html"
    path.write_text(page([read_run(str(run)) for run in runs]))
    return path


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.mark.parametrize("width, dark", [(1200, False), (1200, True), (390, True)])
def test_it_opens_without_complaint_without_loading_and_as_wide_as_the_screen(browser, report, width, dark):
    browser.open(report, width=width, dark=dark)
    assert browser.complaints == [] and browser.requests == [report.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == width
    luminance = browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[1]")
    assert (luminance < 60) == dark
    assert browser.run("document.querySelectorAll('.plot svg path').length") > 4
    assert browser.run("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")


def test_a_cell_of_the_confusion_shows_its_images_and_no_name_is_run(browser, report):
    browser.open(report)
    browser.run('document.querySelector(\'#confusion [data-matrix="matrix-1-0"][data-cell="2,0"]\').click()')
    shown = json.loads(
        browser.run(
            "JSON.stringify([...document.querySelectorAll('#matrix-1-0 img')].map((each) => [each.alt, each.src]))"
        )
    )
    assert len(shown) == 2 and all(source.startswith("data:image/jpeg") for _, source in shown)
    assert ["/10.png" in shown[0][0], "/30.png" in shown[1][0]] == [True, True]
    browser.run("document.querySelector('[data-cell=\"1,0\"]').click()")
    assert "</script>" in browser.run("document.querySelector('#matrix-0-0').textContent")
    assert browser.complaints == [] and browser.requests == [report.as_uri()]


def test_charts_tell_values_and_change_their_scale_and_tables_sort(browser, report):
    browser.open(report)
    place = browser.run(
        "(() => { const {left, top, width} = document.querySelector('.plot').getBoundingClientRect();"
        " return JSON.stringify([left + width / 2, top + 60]) })()"
    )
    x, y = json.loads(place)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    told = browser.run("document.querySelector('.plot .tip').textContent")
    assert told.startswith("step 100") and told.endswith("C: 2.5") and "A: 0.1333 at 30" in told
    before = browser.run("document.querySelector('.plot path').getAttribute('d')")
    browser.run("document.querySelector('.chart button').click()")
    assert browser.run("document.querySelector('.plot path').getAttribute('d')") != before
    order = "[...document.querySelectorAll('table.sortable tbody tr')].map((row) => Number(row.cells[1].dataset.value))"
    browser.run("document.querySelectorAll('table.sortable th button')[1].click()")
    found = browser.run(order)
    assert found == sorted(found, reverse=True) and len(set(found)) > 1
    assert browser.complaints == []
