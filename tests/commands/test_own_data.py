"""--data takes the place of an experiment's data; a path as config.data.source gets its kind."""

import pytest
from PIL import Image

from morphism.commands import own_data
from morphism.errors import UserError
from morphism.experiments.base import get_base


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / "1.png")
    return tmp_path


def experiment(**changes):
    config = get_base()
    config.data.update({"source": "tfds:cifar10", "train_split": "train[:6%]", "val_split": "test"} | changes)
    return config


def fields(config):
    return tuple(config.data[name] for name in ("source", "train_split", "val_split", "val_fraction"))


def test_a_validation_split_is_cut_where_there_is_none_and_that_is_said(folder, capsys):
    config = experiment()
    own_data.find(config, (), str(folder))
    assert fields(config) == (f"folder:{folder}", "train", "val", 0.1)
    found, cut = capsys.readouterr().err.splitlines()
    assert found.startswith(f"data: {folder}: class folders") and "10% of train is held out" in cut


def test_a_validation_split_that_is_there_is_taken(folder, capsys):
    (folder / "train").rename(folder / "valid")
    for name in ("cat", "dog"):
        (folder / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "train" / name / "2.png")
    config = experiment(val_fraction=0.5)
    own_data.find(config, (), str(folder))
    assert fields(config) == (f"folder:{folder}", "train", "val", 0.0)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_fields_on_the_command_line_stay(folder):
    config = experiment(val_fraction=0.5)
    own_data.find(config, ("data.val_fraction", "data.train_split"), str(folder))
    assert fields(config) == (f"folder:{folder}", "train[:6%]", "val", 0.5)
    with pytest.raises(UserError, match="--data and --config.data.source both say where the data is; leave out one"):
        own_data.find(config, ("data.source",), str(folder))


def test_a_path_as_the_source_gets_its_kind_alone(folder, capsys):
    config = experiment(source=str(folder))
    own_data.find(config, ("data.source",), None)
    assert fields(config) == (f"folder:{folder}", "train[:6%]", "test", 0.0)
    config = experiment()
    own_data.find(config, (), None)
    assert fields(config)[0] == "tfds:cifar10" and len(capsys.readouterr().err.splitlines()) == 1


def test_a_source_whose_kind_is_known_brings_its_splits(folder, capsys):
    config = experiment()
    own_data.find(config, (), f"folder:{folder}")
    assert fields(config) == (f"folder:{folder}", "train", "val", 0.1)
    assert f"data: folder:{folder}: split train" in capsys.readouterr().err


def test_a_folder_that_is_called_as_a_kind_is_a_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename("voc")
    config = experiment()
    own_data.find(config, (), "voc")
    assert config.data.source == f"folder:{folder.parent / 'voc'}"
    (folder.parent / "embedded").mkdir()
    own_data.find(config, (), "embedded")
    assert fields(config) == ("embedded", "train", "val", 0.0)
