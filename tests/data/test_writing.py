"""Datasets written in other formats are read as the same ones."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from detection import coco, write_coco, write_voc
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import write_masks
from ml_collections import ConfigDict

from morphism.commands.check import check
from morphism.data import outlines, sources, writing
from morphism.data.annotations import Annotations, pack
from morphism.data.masks import parse_legend
from morphism.data.writing import images, yolo
from morphism.data.writing import masks as masks_writer
from morphism.errors import UserError


def opened(spec, split="train", targets=("boxes", "masks")):
    data = {"source": spec, "data_dir": "", "val_fraction": 0.0, "split_seed": 0, "targets": targets}
    return sources.load(ConfigDict(data), split)


def written(source_spec, target, split=""):
    """Writes what `check` finds; returns the lines that it says."""
    checked, _ = check(source_spec, "", split, None, lambda *words: None, writing.parse(target))
    parts = [writing.Part(each.split, each.source, each.survey.images["row"]) for each in checked]
    return writing.write(writing.parse(target), parts)


def same_boxes(before: Annotations, after: Annotations, fields=("boxes", "classes", "crowd", "area")):
    for field in fields:
        np.testing.assert_array_equal(getattr(before, field), getattr(after, field))


def outlined():
    content = coco()
    content["annotations"][0]["segmentation"] = [[1.2, 2, 4.5, 2, 4.5, 6, 1, 5.3]]
    content["annotations"][0]["area"] = 9.25
    content["annotations"][1]["segmentation"] = {"size": [40, 50], "counts": [100, 700, 1200]}
    return content


def test_boxes_classes_crowds_areas_and_masks_come_back_from_coco(tmp_path):
    write_coco(tmp_path / "old", outlined())
    write_coco(tmp_path / "old", outlined(), "val")
    lines = written(f"coco:{tmp_path / 'old'}", f"coco:{tmp_path / 'new'}")
    assert "not held by coco: 1 unknown masks (their objects have no segmentation)" in lines
    for split in ("train", "val"):
        old, new = (opened(f"coco:{tmp_path / name}", split) for name in ("old", "new"))
        assert old.targets == new.targets and list(old.category_ids) == list(new.category_ids)
        assert old.image_ids.tolist() == new.image_ids.tolist() and old.sizes.tolist() == new.sizes.tolist()
        for index in range(len(old)):
            same_boxes(old.annotations(index), new.annotations(index))
            assert old.masks(index).counts == new.masks(index).counts
            assert old.masks(index).known.tolist() == new.masks(index).known.tolist()
            assert old[index]["image"] == new[index]["image"]


def test_yolo_holds_the_ordinary_boxes_and_says_what_it_leaves_out(tmp_path):
    content = coco()
    content["annotations"].append({**content["annotations"][0], "id": 9})  # the same box and class again
    write_coco(tmp_path / "old", content)
    lines = written(f"coco:{tmp_path / 'old'}", f"yolo:{tmp_path / 'new'}", "train")
    assert lines[1].endswith(
        "1 crowds (left out); 1 objects with the box and class of another one of their image (left out)"
    )
    old, new = opened(f"coco:{tmp_path / 'old'}"), opened(f"yolo:{tmp_path / 'new'}")
    for index in range(len(old)):
        before = old.annotations(index)
        rows = sorted({box: row for row, box in reversed(list(enumerate(map(tuple, before.boxes.tolist()))))}.values())
        kept = before[np.array([row for row in rows if not before.crowd[row]], int)]
        same_boxes(kept, new.annotations(index), ("boxes", "classes"))
    assert new.classes == ("car", "toothbrush")
    described = yaml.safe_load((tmp_path / "new" / "data.yaml").read_text())
    assert described == {"train": "images/train", "names": {0: "car", 1: "toothbrush"}}


def test_difficult_objects_are_marked_in_coco_and_left_out_of_yolo(tmp_path):
    write_voc(tmp_path / "old")
    coco_lines = written(f"voc:{tmp_path / 'old'}", f"coco:{tmp_path / 'coco'}")
    yolo_lines = written(f"voc:{tmp_path / 'old'}", f"yolo:{tmp_path / 'yolo'}")
    assert any("1 difficult objects (ordinary ones" in line for line in coco_lines)
    assert any("1 difficult objects (left out)" in line for line in yolo_lines)
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())
    assert [each.get("difficult") for each in content["annotations"]] == [None, 1]
    assert opened(f"yolo:{tmp_path / 'yolo'}").annotations(0).boxes.tolist() == [[0, 0, 50, 40]]


corner = st.floats(0, 1, width=32)


@settings(max_examples=40, deadline=None)
@given(st.tuples(corner, corner, corner, corner), st.integers(1, 9000), st.integers(1, 9000))
def test_any_box_survives_yolos_shares_to_the_last_bit(shares, height, width):
    """By the arithmetic of the source yolo:, in float64."""
    x0, x1 = sorted(np.float32(share) * np.float32(width) for share in shares[:2])
    y0, y1 = sorted(np.float32(share) * np.float32(height) for share in shares[2:])
    if x1 - x0 < 1e-3 or y1 - y0 < 1e-3 or any(0 < side < 1e-3 for side in (x0, y0)):
        return
    boxes = np.array([[x0, y0, x1, y1]], np.float32)
    share = np.array([float(word) for word in yolo.line(0, boxes[0], height, width).split()[1:]])
    low, high = share[:2] - share[2:] / 2, share[:2] + share[2:] / 2
    read = np.concatenate([low, high])[None] * np.array([width, height, width, height])
    store = pack(
        np.zeros(1, int), read, np.zeros(1, np.int32), np.array([[height, width]], np.int32), lambda index: "image"
    )
    assert store[0].boxes.tolist() == boxes.tolist()


def test_masks_come_back_with_their_names_and_ignored_pixels(tmp_path):
    write_masks(tmp_path / "old")
    lines = written(f"masks:{tmp_path / 'old'}", f"masks:{tmp_path / 'new'}")
    assert not any(line.startswith("not held") for line in lines)
    for split in sources.splits(ConfigDict({"source": f"masks:{tmp_path / 'old'}", "data_dir": ""})):
        old, new = (opened(f"masks:{tmp_path / name}", split) for name in ("old", "new"))
        assert old.classes == new.classes and len(old) == len(new)
        for index in range(len(old)):
            np.testing.assert_array_equal(old[index]["segmentation"], new[index]["segmentation"])
            assert old[index]["image"] == new[index]["image"]


def test_drawn_scenes_without_files_are_written_as_png_and_read_alike(tmp_path):
    lines = written("scenes:12x32", f"coco:{tmp_path / 'coco'}", "train")
    assert "12 written from the source" in lines[0] and lines[1] == "not held by coco: its segmentation"
    written("scenes:12x32", f"masks:{tmp_path / 'masks'}", "train")
    old, boxes, painted = (
        opened("scenes:12x32"),
        opened(f"coco:{tmp_path / 'coco'}"),
        opened(f"masks:{tmp_path / 'masks'}"),
    )
    for index in range(12):
        same_boxes(old.annotations(index), boxes.annotations(index))
        size = tuple(old.sizes[index].tolist())
        for row in range(len(old.annotations(index))):
            before, after = (outlines.mask(each.masks(index)[row], size) for each in (old, boxes))
            np.testing.assert_array_equal(before, after)
        np.testing.assert_array_equal(old[index]["segmentation"], painted[index]["segmentation"])


def test_names_that_the_legend_would_misread_are_changed_and_said(tmp_path):
    own = ("level 2", "level_2", "a#b", "ignore", "7", "plain name")
    lines = masks_writer.finish(tmp_path, ["train"], own)
    names = [line.rpartition(" ")[0] for line in (tmp_path / "classes.txt").read_text().splitlines()]
    legend = parse_legend((tmp_path / "classes.txt").read_text(), "classes.txt")
    assert list(legend.classes) == names[:-1] and legend.table[:6].tolist() == list(range(6))
    assert names == ["level_2_", "level_2", "a_b", "ignore_", "7", "plain name", "ignore"]
    assert lines == [
        "the names of classes 'level 2' (written as 'level_2_'), 'a#b' (written as 'a_b'), 'ignore' (written as "
        "'ignore_')"
    ]


def test_files_are_hard_links_or_copies_and_names_that_clash_get_numbers(tmp_path, monkeypatch):
    root = write_voc(tmp_path / "old")
    lines = written(f"voc:{root}", f"yolo:{tmp_path / 'linked'}")
    assert lines[0].endswith("train: 2 images: 2 hard links (a change to one changes the original)")
    assert os.path.samefile(root / "JPEGImages" / "a.jpg", tmp_path / "linked" / "images" / "train" / "a.jpg")

    def refused(*arguments, **options):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(images.os, "link", refused)
    lines = written(f"voc:{root}", f"yolo:{tmp_path / 'copied'}")
    assert lines[0].endswith("train: 2 images: 2 copies")
    assert not os.path.samefile(root / "JPEGImages" / "a.jpg", tmp_path / "copied" / "images" / "train" / "a.jpg")
    taken: set[str] = set()
    assert [images._free(name, taken) for name in ("a.jpg", "A.png", "a.jpg", "b.jpg")] == [
        "a.jpg",
        "A_2.png",
        "a_3.jpg",
        "b.jpg",
    ]


def test_an_interrupted_writing_leaves_no_folder_and_goes_on(tmp_path, monkeypatch):
    root = write_voc(tmp_path / "old")
    put, done = images._put, []

    def interrupted(record, path):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(put(record, path))
        return done[-1]

    monkeypatch.setattr(images, "_put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(f"voc:{root}", f"yolo:{tmp_path / 'new'}")
    assert not (tmp_path / "new").exists() and (tmp_path / "new.partial").is_dir()
    (tmp_path / "new.partial" / "images" / "train" / "of_other_data.jpg").write_bytes(b"")
    monkeypatch.setattr(images, "_put", put)
    written(f"voc:{root}", f"yolo:{tmp_path / 'new'}")
    assert not (tmp_path / "new.partial").exists()
    held = sorted(str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*.*"))
    pictures = ["images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg"]
    texts = ["labels/train/a.txt", "labels/train/b.txt", "labels/val/c.txt"]
    assert held == ["data.yaml", *pictures, *texts]


def test_what_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for text, problem in (
        (f"coco:{tmp_path / 'full'}", "is there already; name a new folder, or remove it"),
        ("cocoa:x", "is 'cocoa', which is none of coco, masks, yolo; did you mean coco?"),
        ("coco", "write a format, a colon and a folder"),
    ):
        with pytest.raises(UserError, match=problem):
            writing.parse(text)
    with pytest.raises(UserError, match="masks: holds segmentation, the data has boxes; write coco: or yolo:"):
        written(f"voc:{write_voc(tmp_path / 'old')}", f"masks:{tmp_path / 'new'}")
    assert not any(Path(tmp_path).glob("new*"))
