"""What a split holds: parts cut from train by a hash of names, slices, and a validation split under its other names."""

import shutil

import numpy as np
import pytest
from detection import coco, write_coco, write_image, write_voc, write_yolo

from morphism.data import sources
from morphism.data.derived import Subset
from morphism.data.records import names
from morphism.data.sources import held_out
from morphism.errors import UserError
from morphism.experiments.base import get_base


def settings(source, **changes):
    data = get_base().data
    data.update(source=source, **changes)
    return data


def files_of(root, split="train", **changes):
    source = sources.load(settings(f"folder:{root}", **changes), split)
    return {file.decode() for file in source.files}


def fill(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index:03}.png").write_bytes(b"x")


@pytest.fixture
def two_classes(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 60)
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "cat" / "new.png").write_bytes(b"x"),
        lambda root: (root / "cat" / "000a.png").write_bytes(b"x"),
        lambda root: (root / "dog" / "zzz.png").write_bytes(b"x"),
        lambda root: (root / "cat" / "003.png").unlink(),
        lambda root: shutil.rmtree(root / "cat"),
        lambda root: fill(root / "ant", 60),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_adding_or_removing_images_moves_none_between_val_and_train(two_classes, change, seed):
    def cut():
        return [files_of(two_classes, split, val_fraction=0.2, split_seed=seed) for split in ("train", "val")]

    train, val = cut()
    assert not train & val and len(train | val) == 120
    change(two_classes)
    train_now, val_now = cut()
    assert not train & val_now and not val & train_now
    assert not train_now & val_now


def test_a_split_is_the_same_in_every_version_and_wherever_the_data_lies(two_classes, tmp_path_factory):
    """The expected files are those of the first version that hashed names: none may ever change."""
    found = files_of(two_classes, "val", val_fraction=0.1)
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.copytree(two_classes, moved)
    assert files_of(moved, "val", val_fraction=0.1) == found == EXPECTED


EXPECTED = {*("cat/033.png", "cat/039.png", "cat/045.png"), *("dog/009.png", "dog/017.png", "dog/023.png")}


def test_the_fraction_is_met_on_average_and_the_seed_decides():
    every = [f"{index}.jpg".encode() for index in range(2000)]
    shares = [held_out(every, 0.2, seed) for seed in range(10)]
    assert abs(np.mean(shares) - 0.2) < 0.01  # 3 standard deviations are 0.0085
    assert all(abs(share.mean() - 0.2) < 0.04 for share in shares)
    assert abs((shares[0] & shares[1]).mean() - 0.04) < 0.02  # drawn independently
    assert (held_out(every, 0.3, 0) >= shares[0]).all()  # a larger fraction only adds


def test_records_of_one_name_stay_together():
    held = held_out([b"same", b"other", b"same", b"third"] * 5, 0.5, 1)
    assert len(set(held[::2].tolist())) == 1


@pytest.mark.parametrize("count", [2, 3, 10])
def test_each_side_has_a_record(count):
    every = [f"{index}.jpg".encode() for index in range(count)]
    for seed in range(20):
        for fraction in (0.3, 0.7):
            assert 0 < held_out(every, fraction, seed).sum() < count


@pytest.mark.parametrize("fraction", [0.99999, 0.00001])
def test_a_fraction_that_leaves_a_split_empty_is_refused(fraction):
    with pytest.raises(UserError, match="config.data.val_fraction"):
        sources.load(settings("embedded", val_fraction=fraction), "val")


def test_names_are_paths_or_the_datasets_own_ids_or_positions(tmp_path):
    def of(spec):
        return names(sources.load(settings(spec), "train"))

    assert of(f"coco:{write_coco(tmp_path / 'coco', coco())}") == [b"x.jpg", b"y.jpg", b"z.jpg"]
    assert of(f"voc:{write_voc(tmp_path / 'voc')}") == [b"JPEGImages/b.jpg", b"JPEGImages/a.jpg"]
    assert of(f"yolo:{write_yolo(tmp_path / 'yolo')}") == [b"a.jpg", b"b.png"]
    assert of("scenes:3x32") == of("scene_masks:3x32") == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:3]", range(3)),
        ("train[3:]", range(3, 10)),
        ("train[2:5]", range(2, 5)),
        ("train[-4:-1]", range(6, 9)),
        ("train[:]", range(10)),
        ("train[:25%]", range(2)),  # 2.5 records, to the even one, as TFDS rounds
        ("train[45%:]", range(4, 10)),
        ("train[-20%:]", range(8, 10)),
        ("train[0:100%]", range(10)),
        ("train[12.5%:1_0]", range(1, 10)),
    ],
)
def test_a_slice_is_those_records_in_the_sources_order(split, expected):
    whole = sources.load(settings("scenes:10x32"), "train")
    part = sources.load(settings("scenes:10x32"), split)
    assert [part[k]["name"] for k in range(len(part))] == [whole[k]["name"] for k in expected]
    assert part.image_ids.tolist() == list(expected)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train[5:2]", "has no records in its split 'train.5:2.'"),
        ("train[:0%]", "has no records"),
        ("train[:11]", "'train.:11.' goes beyond its 10 records; write a split as train"),
        ("train[:101%]", "goes beyond"),
        ("train[:abc]", "'train.:abc.' is not understood; write a split as train"),
        ("train[3]", "is not understood"),
        ("train[_:1__0]", "is not understood"),
        ("train[:nan%]", "is not understood"),
        ("train[", "is not understood"),
        ("train[:3]x", "is not understood"),
        ("train+val", "has no split 'train.val', it has train, val"),
        ("trian[:3]", "has no split 'trian', it has train, val"),
        ("", "has no split ''"),
    ],
)
def test_a_slice_that_is_none_is_named(split, message):
    with pytest.raises(UserError, match=f"^scenes:10x32.*{message}"):
        sources.load(settings("scenes:10x32"), split)


@pytest.mark.parametrize("kind", ["folder", "coco", "voc", "yolo", "embedded", "scene_masks"])
def test_every_format_can_be_sliced(folder, tmp_path, kind):
    write = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}
    roots = {"folder": folder, "embedded": "", "scene_masks": "4x32"}
    argument = roots[kind] if kind in roots else write[kind](tmp_path / kind)
    data = settings(f"{kind}:{argument}".removesuffix(":"))
    whole, part = sources.load(data, "train"), sources.load(data, "train[1:]")
    assert len(part) == len(whole) - 1 > 0
    assert part[0]["name"] == whole[1]["name"]


def test_a_slice_of_what_was_cut_from_train_has_none_of_val(two_classes):
    train = files_of(two_classes, "train[:100%]", val_fraction=0.2)
    assert files_of(two_classes, "train[:50]", val_fraction=0.2) < train
    assert not files_of(two_classes, "val[:5]", val_fraction=0.2) & train


@pytest.mark.parametrize("name", ["val", "validation", "valid", "dev"])
def test_a_validation_split_answers_to_all_its_names(folder, name):
    assert len(sources.load(settings(f"folder:{folder}"), name)) == 3
    assert len(sources.load(settings(f"folder:{folder}"), f"{name}[:2]")) == 2


def test_a_part_of_boxes_keeps_each_images_own(tmp_path):
    whole = sources.load(settings(f"coco:{write_coco(tmp_path)}"), "train")
    part = Subset(whole, np.array([2, 1, 0]))
    assert len(part.store.flat) == len(whole.store.flat)
    for index, own in enumerate((2, 1, 0)):
        for boxes in (part.store[index].boxes, part.annotations(index).boxes):
            assert boxes.tolist() == whole.annotations(own).boxes.tolist()
    assert part.box_counts.tolist() == part.store.box_counts.tolist()


def test_a_split_that_the_data_has_itself_is_not_cut(folder):
    asked = ("train[1:]", "val", "valid[:1]", "test")
    for root, held in ((folder, ["train[1:]", "val", "valid[:1]"]), (folder / "train", ["train[1:]"])):
        data = settings(f"folder:{root}", val_fraction=0.5)
        assert [split for split in asked if sources.has_split(data, split)] == held


@pytest.mark.parametrize(("share", "lost"), [("30%", 2), ("60%", 1), ("100%", 0)])
def test_a_slice_without_some_of_the_classes_says_so(tmp_path, share, lost):
    for name in "abc":
        for number in range(5):
            write_image(tmp_path / "train" / name / f"{number}.png", 8, 8)
    source = sources.load(settings(f"folder:{tmp_path}"), f"train[:{share}]")
    expected = (
        f"odd split: train[:{share}] has no record of {lost} of the 3 classes, first {'abc'[3 - lost]} (a slice is "
        "taken in the order of the files)"
        if lost
        else ""
    )
    assert source.oddities == expected
