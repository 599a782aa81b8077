import errno
import os

import pytest

from morphism import tasks
from morphism.data import sources
from morphism.errors import UserError
from morphism.experiments.quickstart import get_config
from morphism.runtime.manifest import (
    claim_classes,
    claim_config,
    claim_data,
    claimed,
    data_changed,
    read_classes,
    read_config,
    write_manifest,
)
from morphism.runtime.paths import write_json
from morphism.runtime.validation import check_config


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"7", b"null"])
@pytest.mark.parametrize("name", ["config.json", "classes.json", "manifest.json"])
def test_a_broken_file_of_a_workdir_is_named_with_the_remedy(tmp_path, name, content):
    claim_config(tmp_path, get_config(), sources.load(get_config().data, "train"))
    claim_classes(tmp_path, ("a", "b"))
    (tmp_path / name).write_bytes(content)
    use = {
        "config.json": lambda: read_config(tmp_path),
        "classes.json": lambda: read_classes(tmp_path),
        "manifest.json": lambda: write_manifest(tmp_path, get_config(), (), {}),
    }
    with pytest.raises(UserError, match=f"^{tmp_path / name}: .*restore it"):
        use[name]()


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    message = "file: cannot be written .*; choose another --workdir"
    with pytest.raises(UserError, match=message), claimed(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="file/x.json: cannot be written .Not a directory.; make room"):
        write_json(tmp_path / "file" / "x.json", {})


def test_classes_in_another_order_are_other_classes(tmp_path):
    claim_classes(tmp_path, ("a", "b"))
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    claim_classes(tmp_path, ("a", "b"))
    with pytest.raises(UserError, match="holds a run of 2 classes, the data now has 2, different in b, a"):
        claim_classes(tmp_path, ("b", "a"))


def test_a_run_knows_its_data_and_goes_on_where_only_that_of_evaluation_has_changed(tmp_path):
    train, val = {"records": 80, "sha256": "a"}, {"records": 20, "sha256": "b"}
    assert data_changed(tmp_path, "val", val) == ""  # a run of before there were fingerprints
    assert claim_data(tmp_path, {"val": val, "train": train}, "train") == []
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    assert claim_data(tmp_path, {"val": val, "train": train}, "train") == []
    assert data_changed(tmp_path, "val", val) == data_changed(tmp_path, "test", val) == ""
    fewer = val | {"records": 19}
    assert data_changed(tmp_path, "val", fewer) == "it had 20 records and has 19"

    before = (tmp_path / "data.json").read_text()
    for other, how in (({"records": 81}, "it had 80 records and has 81"), ({"sha256": "c"}, "its records have other")):
        with pytest.raises(UserError, match=f"{tmp_path}: holds .*: train, {how}.*; restore .*init_from={tmp_path}"):
            claim_data(tmp_path, {"val": fewer, "train": train | other}, "train")
        with pytest.raises(UserError, match=f"holds .*: train, {how}"):  # trained and evaluated on one split
            claim_data(tmp_path, {"train": train | other}, "train")
    assert (tmp_path / "data.json").read_text() == before

    lines = claim_data(tmp_path, {"val": fewer, "train": train}, "train")
    assert len(lines) == 1 and lines[0].startswith("val has changed since the run was last started: it had 20 records")
    assert claim_data(tmp_path, {"val": fewer, "train": train}, "train") == []
    assert data_changed(tmp_path, "val", fewer) == ""


def test_a_run_goes_on_where_its_training_split_is_the_rest_of_a_changed_whole(tmp_path):
    """val_fraction: a broken image that is removed from val changes what train is cut from, not train."""
    train, val = {"records": 80, "sha256": "a"}, {"records": 20, "sha256": "b"}
    cut = {name: own | {"whole": {"records": 100, "sha256": "w"}} for name, own in (("val", val), ("train", train))}
    claim_data(tmp_path, cut, "train")
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    whole = {"whole": {"records": 99, "sha256": "x"}}
    lines = claim_data(tmp_path, {"val": val | {"records": 19} | whole, "train": train | whole}, "train")
    assert [line.partition(" ")[0] for line in lines] == ["val"]
    with pytest.raises(UserError, match="holds .*: train, it had 80 records and has 79"):
        claim_data(tmp_path, {"val": val | whole, "train": train | {"records": 79} | whole}, "train")


def test_a_full_disk_is_one_line_and_the_lock_holds_nevertheless(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    refused = pytest.raises(UserError, match="another process is training here")
    with claimed(tmp_path / "run"), refused, claimed(tmp_path / "run"):
        pass


@pytest.mark.parametrize("weights", ["balanced", tuple(range(1, 11))])
def test_class_weights_that_were_read_back_resolve_as_those_that_were_given(tmp_path, weights):
    given = get_config()
    given.loss.class_weights = weights
    source = sources.load(given.data, "train")
    claim_config(tmp_path, given, source)
    found = tasks.get(given.task).resolve(read_config(tmp_path), source).loss.class_weights
    assert found == tasks.get(given.task).resolve(given, source).loss.class_weights and len(found) == 10


@pytest.mark.parametrize("made", [get_config, lambda: get_config("panoptic")], ids=["one task", "several tasks"])
def test_a_run_of_an_earlier_version_has_the_defaults_of_fields_that_came_since(tmp_path, made):
    write_json(tmp_path / "config.json", made().to_dict())
    whole, stored = read_config(tmp_path), made().to_dict()
    del stored["plots"], stored["stop"], stored["data"]["prefetch"], stored["optimizer"]["lr_multipliers"]
    write_json(tmp_path / "config.json", stored)
    assert read_config(tmp_path) == whole
    check_config(read_config(tmp_path))
