"""README and docs/: commands parse, Python runs, links and fields exist, tables are those of docs/results."""

import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from ml_collections import ConfigDict
from PIL import Image

from morphism import models
from morphism.commands import COMMANDS
from morphism.experiments.base import FIELDS, get_base
from morphism.runtime.mesh import AXIS
from morphism.runtime.validation import check_config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = re.compile(r"(?:[A-Z_]+=\S+ )*(?:(?:\.venv/bin/)?python (train|eval)\.py|morphism (\w+))(?= |$)")
OTHERS = ("pip ", "git ", "apt-get ", "python -m ", ".venv/bin/python -m ")  # not this project's


class Block(NamedTuple):
    page: str
    line: int
    kind: str  # what stands behind the three backticks
    text: str


def blocks():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
            yield Block(page.name, text.count("\n", 0, found.start()) + 1, found[1], found[2])


def named(block):
    return f"{block.page}:{block.line}"


SHELL = [block for block in blocks() if block.kind == "bash"]
PYTHON = [block for block in blocks() if block.kind.partition(" ")[0] == "python"]


def commands(block):
    """The lines of a shell block, continued lines joined, without comments."""
    joined = re.sub(r" *\\\n *", " ", block.text)
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def words(line):
    """The arguments of a command, as the shell makes them."""
    script = f"list() {{ printf '%s\\0' \"$@\"; }}\nlist {line}"
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def parsed(name, arguments):
    """The command's module, its own copy, after it has read its flags; and the arguments that are no flags."""
    spec = importlib.util.find_spec(f"morphism.commands.{name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, *others = module.COMMAND.parse([name, *arguments])
    return module, others


def test_every_block_says_what_it_is():
    kinds = [block.kind for block in blocks()]
    assert all(re.fullmatch(r"bash|text|python( no-run)?( [\w/]+\.py)?", kind) for kind in kinds)


@pytest.mark.parametrize("block", SHELL, ids=named)
def test_every_command_is_one_and_has_the_flags_that_it_is_given(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", [])  # the commands set it
    for line in commands(block):
        ours = OURS.match(line)
        if ours:
            name = ours[1] or ours[2]
            assert name in COMMANDS, line
            module, others = parsed(name, words(line[ours.end() :]))
            if hasattr(module, "LISTS"):
                assert others[0] in module.LISTS, line
            config = module.COMMAND.config
            if config is not None and config.given:
                check_config(config.value)
                models.create(config.value.model, 10, AXIS)
        elif line.startswith("python ") and not line.startswith(OTHERS):
            script, *arguments = words(line.removeprefix("python "))
            text = (ROOT / script).read_text(encoding="utf-8")
            for flag in (argument for argument in arguments if argument.startswith("--")):
                assert flag in text, line
        elif line.startswith("make "):
            target = words(line)[1]
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), line
        else:
            assert line.startswith(OTHERS), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(page, tmp_path, monkeypatch):
    """In order, each block a module; one that names a file can be imported by those after it, and its tests run."""
    monkeypatch.chdir(tmp_path)
    for block in (each for each in PYTHON if each.page == page.name):
        file = block.kind.partition(" ")[2]
        code = compile(block.text, named(block), "exec")
        if file.startswith("no-run"):
            continue
        module = ModuleType("morphism." + file.removesuffix(".py").replace("/", ".") if file else "documented")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(code, vars(module))
        package, _, name = module.__name__.rpartition(".")
        if package in sys.modules:
            monkeypatch.setattr(sys.modules[package], name, module, raising=False)
        if hasattr(module, "get_config"):
            check_config(module.get_config())
        for name in (each for each in vars(module) if each.startswith("test_")):
            test = getattr(module, name)
            test(*(tmp_path for argument in inspect.signature(test).parameters if argument == "tmp_path"))


def test_what_is_added_by_the_docs_trains(tmp_path):
    """The files of docs/adding-a-model.md, with the lines that it adds to existing ones, in a copy of the project."""
    copy = tmp_path / "morphism"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "runs"))
    for block in (each for each in PYTHON if each.page == "adding-a-model.md"):
        file = copy / block.kind.split()[-1]
        if file == copy / "experiments/base.py":  # what a block says of COMMON and FIELDS is added to them
            added = re.sub(r"^(COMMON|FIELDS) = ", r"\1 = \1 | ", block.text, flags=re.MULTILINE)
            file.write_text(f"{file.read_text()}\n{added}")
        elif "tests" not in block.kind:
            assert not file.exists(), file
            file.write_text(block.text)
    registry = copy / "tasks" / "__init__.py"
    registered = "from morphism.tasks.regression import Regression\n\n_TASKS[Regression.name] = Regression()\n"
    registry.write_text(f"{registry.read_text()}\n{registered}")
    for index in range(20):
        Image.new("L", (8, 8), 10 * index).save(tmp_path / f"{index}.png")
    (tmp_path / "train.csv").write_text("".join(f"{index}.png,{index / 20}\n" for index in range(20)))
    fields = {"batch_size": 8, "duration": 2, "data.image_size": 8, "data.resize_size": 8}
    fields["data.source"] = f"table:{tmp_path}"
    flags = ["--workdir", str(tmp_path / "run"), *(f"--config.{name}={value}" for name, value in fields.items())]
    done = subprocess.run(
        [sys.executable, "-m", "morphism", "train", "--config", "experiments/table_resnet.py", *flags],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "val: error" in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_of_files_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not heading or heading in headings(target), link
    for name in re.findall(r"`([\w-]+/[\w./-]*\.(?:py|md|json))`", text):
        assert name.startswith("runs/") or (ROOT / name).exists(), name


def headings(page):
    """The anchors that GitHub makes of a page's headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fields_exist(page):
    parts = {"objects": "detection", "ground": "segmentation"}  # as the pages call them
    bases = [*(get_base(task) for task in FIELDS), get_base("multitask", parts)]
    text = re.sub(r"^```python.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for path in set(re.findall(r"\bconfig\.((?:[a-z]\w*\.)*[a-z]\w*)\b", text)):
        if not path.startswith(("model.options.", "json", "update")):
            assert any(has(base, path.split(".")) for base in bases), f"config.{path}"


def has(config, path):
    name, *rest = path
    if not isinstance(config, ConfigDict) or (name not in config and name != "update"):
        return False
    return name == "update" or not rest or has(config[name], rest)


def test_tables_are_those_of_the_results(capsys):
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.main(["--check"]) == 0, capsys.readouterr().out
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in tables.VIEWS if f"<!-- results: {name} -->" not in shown] == []


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
