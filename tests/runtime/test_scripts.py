import os
from pathlib import Path

import pytest

from morphism.commands.experiment_file import ExperimentParser
from morphism.errors import UserError
from morphism.runtime.scripts import find
from morphism.sweeps import space

SPACE = "def space(trial):\n    return {'seed': 1}\n"
EXPERIMENT = """
from morphism.experiments import quickstart


def get_config():
    config = quickstart.get_config()
    config.seed = 1
    return config
"""


@pytest.mark.parametrize(
    ("text", "seed_of"),
    [
        (SPACE, lambda path: space.load(f"{path}:space").function(None)["seed"]),
        (EXPERIMENT, lambda path: ExperimentParser().parse(str(path)).seed),
    ],
    ids=["space", "experiment"],
)
def test_a_file_that_is_changed_within_a_second_to_the_same_size_is_read_again(tmp_path, monkeypatch, text, seed_of):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    monkeypatch.setattr("sys.argv", ["train.py"])
    path = tmp_path / "file.py"
    for seed in (1, 2):
        path.write_text(text.replace("1", str(seed)))
        os.utime(path, (10**9, 10**9))
        assert seed_of(path) == seed
    assert [each.name for each in tmp_path.iterdir()] == ["file.py"]


def test_an_experiment_of_the_package_is_found_from_any_folder_unless_there_is_one_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("experiments/quickstart.py").is_file()
    assert find("experiments/none.py") == Path("experiments/none.py") and find("other.py") == Path("other.py")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "quickstart.py").touch()
    assert find("experiments/quickstart.py") == Path("experiments/quickstart.py")


def test_a_file_that_exits_python_is_told_and_a_folder_is_no_experiment(tmp_path):
    path = tmp_path / "file.py"
    path.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(UserError, match=r"^--space .*file.py:space: RuntimeError: it calls sys.exit\(0\)$"):
        space.load(f"{path}:space")
    with pytest.raises(UserError, match=r"^--config .*file.py: .*RuntimeError: it calls sys.exit\(0\)$"):
        ExperimentParser().parse(str(path))
    with pytest.raises(UserError, match="is a folder; give an experiment"):
        ExperimentParser().parse(str(tmp_path))
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    with pytest.raises(UserError, match="gone.py: no such file") as caught:
        ExperimentParser().parse(str(tmp_path / "gone.py"))
    assert "gone.py?" not in str(caught.value)
