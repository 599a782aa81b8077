"""A file of a checkpoint lost or cut off: reported in one line, or not needed."""

import shutil

import pytest

from morphism.errors import UserError
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import digest
from morphism.training.loop import train

pytestmark = pytest.mark.usefixtures("blockless")


def digest_of(workdir, step):
    with Checkpoints(workdir, best="top1") as checkpoints:
        return digest(checkpoints.read(step))


def spoil(file, how):
    content = file.read_bytes()
    half = len(content) // 2
    if how == "delete":
        file.unlink()
    elif how == "flip":
        file.write_bytes(content[:half] + bytes([content[half] ^ 16]) + content[half + 1 :])
    else:
        file.write_bytes(content[: half if how == "cut" else 0])


def test_a_checkpoint_with_a_file_gone_or_cut_is_read_right_or_refused_and_the_one_before_goes_on(config, tmp_path):
    config.eval_every = "4"
    whole = tmp_path / "whole"
    train(config, whole)
    last = digest_of(whole, 8)
    refused = set()
    needed = []  # data files without which the arrays cannot be read; Orbax leaves others, already merged into these
    for file in sorted(path.relative_to(whole) for path in (whole / "checkpoints" / "8").rglob("*") if path.is_file()):
        for how in ("delete", "cut", "empty", "flip"):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole / "checkpoints", copy / "checkpoints")
            spoil(copy / file, how)
            try:
                assert digest_of(copy, 8) == last
            except UserError as error:
                assert str(error).startswith(f"{copy}/checkpoints/8/")
                assert f"remove the folder {copy}/checkpoints/8, and the checkpoint before it counts" in str(error)
                assert len(str(error).splitlines()) == 1
                refused.add((file.name, how))
                needed += [file] * (file.parent.name == "d" and how == "cut")
                assert file.name != "checksums.json" or how != "delete"
    assert len(needed) > 1 and all((file.name, "flip") in refused for file in needed)
    for name, how in (("manifest.ocdbt", "delete"), ("_METADATA", "cut"), ("metrics", "empty")):
        assert (name, how) in refused

    alone = tmp_path / "alone"
    shutil.copytree(whole / "checkpoints" / "8", alone / "checkpoints" / "8")
    (alone / "checkpoints" / "8" / "checksums.json").unlink()  # as before there were any
    assert digest_of(alone, 8) == last
    for file in needed:
        spoil(alone / file, "cut")
    with pytest.raises(UserError, match="and there is none before it: training starts from step 0"):
        digest_of(alone, 8)
    spoil(whole / needed[0], "cut")
    with pytest.raises(UserError, match="checkpoints/8/default/.*remove the folder"):
        train(config, whole)
    shutil.rmtree(whole / "checkpoints" / "8")
    train(config, whole)
    assert digest_of(whole, 8) == last


@pytest.mark.parametrize("how", ["delete", "cut", "empty"])
def test_what_a_killed_save_left_is_neither_read_nor_in_the_way(config, tmp_path, how):
    config.update(eval_every="4", duration="4")
    train(config, tmp_path)
    saved = tmp_path / "checkpoints" / "4"
    first, left = digest_of(tmp_path, 4), saved.with_name("8.orbax-checkpoint-tmp")
    shutil.copytree(saved, left)
    for file in left.rglob("*"):
        if file.is_file():
            spoil(file, how)
    assert digest_of(tmp_path, 4) == first
    config.duration = "8"
    train(config, tmp_path)
    assert saved.with_name("8").exists() and not left.exists()


def test_a_run_whose_training_data_or_classes_are_others_is_refused_before_anything_changes(
    config, tmp_path, folder_of_classes, capsys
):
    config.data.update(source=f"folder:{folder_of_classes('cat', 'dog')}", val_split="val")
    config.duration = "1"
    config.schedule.warmup = "0"
    train(config, tmp_path / "run")
    images = tmp_path / "images"
    (images / "val" / "cat" / "1.png").rename(images / "val" / "cat" / "2.png")
    capsys.readouterr()
    train(config, tmp_path / "run")
    assert "\nval has changed since the run was last started: its records have other names" in capsys.readouterr().out
    (images / "train" / "cat" / "1.png").rename(images / "train" / "cat" / "2.png")
    with pytest.raises(UserError, match="than there is now: train, its records have other names"):
        train(config, tmp_path / "run")
    for other in (("cat", "dog", "eel"), ("cat", "eel")):
        shutil.rmtree(images)
        folder_of_classes(*other)
        before = (tmp_path / "run" / "classes.json").read_text()
        with pytest.raises(UserError, match=rf"holds a run of 2 classes, the data now has {len(other)}.*eel"):
            train(config, tmp_path / "run")
        assert (tmp_path / "run" / "classes.json").read_text() == before


@pytest.fixture
def folder_of_classes(tmp_path):
    """folder_of_classes(*names): a folder with an image of each class, for training and validation."""
    import corpus

    def make(*names):
        for split in ("train", "val"):
            for name in names:
                (tmp_path / "images" / split / name).mkdir(parents=True)
                (tmp_path / "images" / split / name / "1.png").write_bytes(corpus.encode(corpus.photo(), "PNG"))
        return tmp_path / "images"

    return make
