"""Tasks are objects of one Protocol, and nothing outside tells them apart by name."""

import ast
import re
from pathlib import Path

import pytest

from morphism import tasks
from morphism.errors import UserError
from morphism.experiments.base import get_base
from morphism.tasks.composed import Composed, Part

ROOT = Path(__file__).parents[2]
NAMES = ("classification", "detection", "instances", "segmentation")
OUTSIDE = ("augment", "commands", "data", "evaluation", "models", "ops", "runtime", "training", "weights", "benchmarks")


@pytest.mark.parametrize("name", NAMES)
def test_every_task_has_all_members(name):
    task = tasks.of(get_base(name))
    assert isinstance(task, tasks.Task) and task.name == name
    assert task == tasks.get(name) and task.views[0] == "center"
    assert set(task.higher_is_better) <= set(task.headline)


def test_a_composed_task_is_a_task():
    task = Composed(tuple(Part(name, tasks.get(name)) for name in NAMES))
    assert isinstance(task, tasks.Task)
    assert task.views == ("center",) and task.headline[:2] == ("classification/top1", "classification/top5")


def test_one_class_is_nothing_to_learn():
    with pytest.raises(UserError, match=r"^folder:x has 1 class \(cat\); classification needs at least 2"):
        tasks.get("classification").check_classes("folder:x", ("cat",))


def test_nothing_outside_compares_a_task_with_a_name():
    def sides(node):
        return [ast.unparse(each) for each in (node.left, *node.comparators)]

    files = [path for package in OUTSIDE for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and any(re.search(r"\btask(\.name)?$", side) for side in sides(node))
        and any(repr(name) in side for side in sides(node) for name in NAMES)
    ]
    assert not found, f"compared with a task's name: {', '.join(found)}"


def test_nothing_asks_a_task_what_it_has():
    for path in sorted((ROOT / "tasks").rglob("*.py")):
        text = path.read_text()
        assert "hasattr(" not in text and "inspect." not in text, path
