import os
from pathlib import Path

import pytest

from morphism.commands.experiment_file import ExperimentParser
from morphism.runtime.scripts import find
from morphism.sweeps import space

SPACE = "def space(trial):\n    return {'seed': 1}\n"
EXPERIMENT = "from morphism.experiments import quickstart\n\n\ndef get_config():\n    config = quickstart.get_config()\n"
EXPERIMENT += "    config.seed = 1\n    return config\n"


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
