import hashlib
import os
import pickle
import shutil

import numpy as np
import pytest

from morphism.data import sources
from morphism.data.derived import Subset
from morphism.data.sources import folder as folder_source
from morphism.errors import UserError
from morphism.experiments.base import get_base
from morphism.runtime.manifest import claim_classes, read_classes


def settings(source, **changes):
    data = get_base().data
    data.update(source=source, **changes)
    return data


def test_embedded_is_balanced_and_what_the_script_drew():
    for split, count in (("train", 800), ("val", 200)):
        source = sources.load(settings("embedded"), split)
        labels = [source[i]["label"] for i in range(len(source))]
        assert np.bincount(labels).tolist() == [count] * 10
    digest = hashlib.sha256(b"".join(source[i]["image"].tobytes() for i in range(len(source)))).hexdigest()
    assert digest.startswith("78ac8f006f7fee4f")


def test_embedded_splits_share_no_image():
    train, val = (sources.load(settings("embedded"), split) for split in ("train", "val"))
    seen = {train[i]["image"].tobytes() for i in range(len(train))}
    assert sum(val[i]["image"].tobytes() in seen for i in range(len(val))) <= 2  # the dataset itself repeats a few


def test_folder_reads_classes_in_any_script_and_every_image(folder):
    source = sources.load(settings(f"folder:{folder}"), "train")
    assert tuple(source.classes) == ("cat", "dog", "犬")
    assert [source[i]["label"] for i in range(len(source))] == [0] * 6 + [1] * 4 + [2] * 2
    assert source[11]["name"] == str(folder / "train" / "犬" / "1.jpg")
    assert source[11]["image"] == (folder / "train" / "犬" / "1.jpg").read_bytes()
    assert len(sources.load(settings(f"folder:{folder}"), "val")) == 3


def test_sources_survive_the_way_to_a_worker_process(folder):
    for spec in ("embedded", f"folder:{folder}"):
        source = sources.load(settings(spec), "train")
        packed = pickle.dumps(source)
        assert len(packed) < 10_000
        copy = pickle.loads(packed)
        assert len(copy) == len(source) and copy[3]["label"] == source[3]["label"]


def test_sizes_are_not_copied_for_each_example():
    scenes = sources.load(settings("scenes:50x64"), "train")
    for source in (scenes, Subset(scenes, np.arange(40))):
        assert source.sizes is source.sizes or source.sizes.strides == (0, 0)  # kept, or one number seen as many
        assert source.sizes.shape == (len(source), 2) and source.sizes[3].tolist() == [64, 64]


def test_what_is_hidden_is_passed_over_and_what_is_no_image_reported(folder):
    for name in ("train/cat/.DS_Store", "train/cat/.thumbs/a.jpg", "train/__MACOSX/cat/._0.jpg", "train/cat/Thumbs.db"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    source = sources.load(settings(f"folder:{folder}"), "train")
    assert (len(source), len(source.classes), source.oddities) == (12, 3, "")
    (folder / "train/cat/notes.txt").write_text("x")
    source = sources.load(settings(f"folder:{folder}", val_fraction=0.5), "val")
    assert source.oddities == f"odd files: 1 that are no images (passed over), first {folder}/train/cat/notes.txt"


def test_images_outside_the_class_folders_are_passed_over_and_reported(folder):
    for name in ("b.png", "a.jpg"):
        (folder / "train" / name).write_text("x")
    source = sources.load(settings(f"folder:{folder}"), "train")
    assert len(source) == 12
    assert source.oddities == (
        f"odd files: 2 images outside the class folders (passed over), first {folder}/train/a.jpg"
    )


@pytest.mark.parametrize("name", ["Train", "TRAIN", "training", "Training"])
@pytest.mark.parametrize(("other", "split"), [("Validation", "validation"), ("test", "test"), ("Testing", "test")])
def test_splits_are_found_under_the_names_that_people_give_them(folder, name, other, split):
    before = sources.load(settings(f"folder:{folder}"), "train")
    (folder / "train").rename(folder / name)
    (folder / "val").rename(folder / other)
    assert folder_source.splits(str(folder), "") == ("train", split)
    source = sources.load(settings(f"folder:{folder}"), "train")
    assert source.classes == before.classes and source.files.tolist() == before.files.tolist()
    assert source[0]["name"].startswith(str(folder / name))
    assert len(sources.load(settings(f"folder:{folder}"), split)) == 3


@pytest.mark.parametrize("above", ["images", "seg_train"])
def test_classes_one_folder_further_down_are_reported(folder, above):
    (folder / above).mkdir()
    (folder / "train").rename(folder / above / "seg_train")
    source = sources.load(settings(f"folder:{folder / above}"), "train")
    assert source.classes == ("seg_train",) and source.oddities == (
        f"odd folders: all images are in folders below the class folders, first {folder / above}/seg_train/cat; if "
        "those are the classes, give a folder that holds them"
    )


def test_folders_within_a_class_folder_belong_to_the_class(folder):
    (folder / "train/cat/old/black").mkdir(parents=True)
    (folder / "train/cat/0.jpg").rename(folder / "train/cat/old/black/0.jpeg")
    (folder / "train/cat/loop").symlink_to(folder / "train")
    source = sources.load(settings(f"folder:{folder / 'train'}"), "train")
    assert source.labels.tolist().count(0) == 12  # the loop leads to the images of the other classes, once each


def test_the_validation_split_is_found_under_its_other_names(folder):
    (folder / "val").rename(folder / "valid")
    assert folder_source.splits(str(folder), "") == ("train", "valid")
    assert len(sources.load(settings(f"folder:{folder}"), "val")) == 3


def test_a_class_may_be_called_as_a_split_is(folder, tmp_path_factory):
    flat = tmp_path_factory.mktemp("vehicles")
    for name, of in (("train", "cat"), ("test", "dog"), ("bus", "犬")):
        (folder / "train" / of).rename(flat / name)
    assert folder_source.splits(str(flat), "") == ("train",)
    source = sources.load(settings(f"folder:{flat}"), "train")
    assert tuple(source.classes) == ("bus", "test", "train") and np.bincount(source.labels).tolist() == [2, 4, 6]


def test_a_later_test_set_stands_alone_with_the_classes_it_has(folder, tmp_path_factory):
    for name, split in (("", "train"), ("test", "test")):
        root = tmp_path_factory.mktemp("later") / "test"
        shutil.copytree(folder / "val", root / name)
        shutil.rmtree(root / name / "dog")
        assert folder_source.splits(str(root), "") == (split,)
        source = sources.load(settings(f"folder:{root}"), split)
        assert tuple(source.classes) == ("cat", "犬") and source.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "train/cat/a.HEIC").write_text("x"), "train/cat/a.HEIC: its format cannot be read; convert it"),
        (lambda f: (f / "train/bird").symlink_to("/nowhere"), "train/bird: a link to nowhere; mend or remove it"),
        (lambda f: (f / "val/catt").mkdir(), "val/catt: no such class in .*; did you mean cat"),
        (lambda f: [p.unlink() for p in f.glob("val/*/*")], "val: no images in its class folders"),
        (lambda f: [p.unlink() for p in f.glob("train/dog/*")], "train/dog: a class without images"),
    ],
)
def test_a_spoilt_folder_is_named(folder, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message):
        for split in ("train", "val"):
            sources.load(settings(f"folder:{folder}"), split)


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("embeded", "train", "embeded: no such file or folder.*did you mean embedded"),
        ("embedded:x", "train", "embedded takes no argument"),
        ("embedded", "test", "embedded has no split 'test', it has train, val"),
        ("folder:", "train", "without a path"),
        ("folder:/no/such/place", "train", "/no/such/place: no such folder"),
        ("folder:~no_such_user/x", "train", "~no_such_user/x: .*; correct the path after folder:"),
        ("folder:/dev/null", "train", "/dev/null: no such folder"),
        ("tfds:", "train", "without a name"),
        ("tfds:fashion_mnits", "train", "knows no such dataset; did you mean fashion_mnist"),
        ("tfds:fashion_mnist", "train", "not prepared there; run: morphism prepare tfds:fashion_mnist"),
    ],
)
def test_a_source_that_cannot_be_opened_says_why(source, split, message, tmp_path):
    with pytest.raises(UserError, match=message):
        sources.load(settings(source, data_dir=str(tmp_path)), split)


@pytest.mark.parametrize("name", ["犬", "собака", "كلب", "🐶", "a b", "-rf", "a'b\"c", b"caf\xe9"])
def test_a_class_may_have_any_name(tmp_path, name):
    for each in (os.fsencode(name), b"cat"):
        (tmp_path / os.fsdecode(each)).mkdir()
        (tmp_path / os.fsdecode(each) / os.fsdecode(b"\xe9" + each + b".png")).write_bytes(b"x")
    source = sources.load(settings(f"folder:{tmp_path}"), "train")
    assert set(source.classes) == {os.fsdecode(name), "cat"}
    assert {source[i]["image"] for i in range(2)} == {b"x"}
    claim_classes(tmp_path, source.classes)
    assert read_classes(tmp_path) == tuple(source.classes)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("path", ["train", "train/cat", "train/cat/0.jpg"])
def test_what_may_not_be_read_is_named(folder, path):
    (folder / path).chmod(0)
    try:
        with pytest.raises(UserError, match=f"{path}.*Permission denied"):
            source = sources.load(settings(f"folder:{folder}"), "train")
            [source[i] for i in range(len(source))]
    finally:
        (folder / path).chmod(0o700)


def test_a_link_to_nowhere_is_named(folder):
    (folder / "train/cat/9.jpg").symlink_to("/nowhere.jpg")
    source = sources.load(settings(f"folder:{folder}"), "train")
    with pytest.raises(UserError, match="train/cat/9.jpg: cannot be read .No such file or directory.; mend or remove"):
        [source[i] for i in range(len(source))]


def test_a_folder_of_whole_datasets_is_no_class(folder):
    (folder / "cats").mkdir()
    for split in ("train", "val"):
        (folder / split).rename(folder / "cats" / split)
    with pytest.raises(UserError, match="/cats: holds splits, not the images of one class; give folder:.*/cats$"):
        sources.load(settings(f"folder:{folder}"), "train")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no class folders; expected"):
        sources.load(settings(f"folder:{tmp_path}"), "train")


def test_a_path_without_its_kind_is_the_source_that_lies_there(folder):
    source = sources.load(settings(str(folder)), "val")
    assert (len(source), source.classes) == (3, ("cat", "dog", "犬"))
    assert sources.splits(settings(str(folder))) == ("train", "val")
