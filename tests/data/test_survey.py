import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detection import coco, voc_xml, write_coco, write_image, write_voc, write_yolo
from masks import PATTERN, write_mask, write_masks
from ml_collections import ConfigDict
from PIL import Image

from morphism.commands.check import check, train_command
from morphism.data import sources, survey, tally
from morphism.data.checks import check_split
from morphism.data.records import first_target
from morphism.data.survey_text import describe
from morphism.errors import UserError
from morphism.experiments.base import get_base

ROOT = Path(__file__).parent.parent.parent


def open_source(spec, split="train", val_fraction=0.0):
    data = ConfigDict({"source": spec, "data_dir": "", "val_fraction": val_fraction, "split_seed": 0})
    return sources.load(data, split)


def test_boxes_are_counted_by_class_and_by_cocos_sizes(tmp_path):
    content = coco()
    content["annotations"][0]["area"] = 1023  # under 32 x 32
    content["annotations"][1]["area"] = 9217  # over 96 x 96
    content["annotations"][2]["area"] = 1024
    report = survey.survey(open_source(f"coco:{write_coco(tmp_path, content)}")).report
    assert report["records"] == 3 and report["bad"] == [] and report["odd boxes"] == ""
    assert report["classes"] == {"car": 1, "toothbrush": 2}
    assert report["sizes"] == {"50 x 40": 1, "20 x 30": 1, "34 x 12": 1}
    assert (report["small"], report["medium"], report["large"]) == (1, 1, 1)
    assert (report["boxes"], report["crowd"], report["images without boxes"]) == (3, 1, 1)
    assert report["boxes per image"]["most"] == 2 and report["box width"] == {
        "least": 3.5,
        "5 %": 3.65,
        "median": 5.0,
        "95 %": 45.5,
        "most": 50.0,
    }


def test_every_bad_record_is_listed_and_the_rest_counted(tmp_path):
    root = write_voc(tmp_path)
    (root / "JPEGImages" / "a.jpg").write_bytes(b"no image")
    write_image(root / "JPEGImages" / "b.jpg", 50, 40)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\n")
    report = survey.survey(open_source(f"voc:{root}")).report
    assert len(report["bad"]) == 2 and report["boxes"] == 1 and report["classes"]["person"] == 1
    assert "a.jpg: cannot be decoded" in report["bad"][0]
    assert "b.jpg is 40 x 50, its annotations are for 50 x 40" in report["bad"][1]


def test_classification_is_counted_with_its_odd_images(corpus_folder):
    folder, odd = corpus_folder
    report = survey.survey(open_source(f"folder:{folder}")).report
    assert report["records"] == len(odd) and sum(report["classes"].values()) == len(odd) and "boxes" not in report
    assert report["high-bit"].startswith("images of more than 8 bits (float32, uint16, 5 measured): their values are")
    expected = {rule: sum(flag in each for each in odd.values()) for flag, rule in survey.RULES.items()}
    assert report["odd images"] == {rule: count for rule, count in expected.items() if count}


def test_a_part_cut_from_train_keeps_its_boxes_sizes_and_names(tmp_path):
    whole = open_source(f"coco:{write_coco(tmp_path)}")
    parts = [open_source(f"coco:{tmp_path}", split, val_fraction=1 / 3) for split in ("train", "val")]
    assert sorted(np.concatenate([part.image_ids for part in parts]).tolist()) == [7, 8, 42]
    for part in parts:
        assert part.category_ids == whole.category_ids and part.oddities == whole.oddities
        for index, image_id in enumerate(part.image_ids):
            original = whole.image_ids.tolist().index(image_id)
            assert (part.sizes[index] == whole.sizes[original]).all()
            assert (part.annotations(index).boxes == whole.annotations(original).boxes).all()


def examine(spec, split, config=None):
    """The report of one split."""
    checked, _ = check(spec, "", split, config, lambda *words: None)
    return checked[0].survey.report


def refusals(tmp_path, split, **data):
    config = get_base("detection")
    config.data.update(data)
    return examine(f"coco:{tmp_path}", split, config)["refused"]


def test_what_a_split_lacks_as_a_whole_is_reported_and_what_validation_has_beyond_train(tmp_path):
    write_coco(tmp_path)
    other = coco()
    other["categories"][1]["name"] = "cart"
    write_coco(tmp_path, other, "val")
    assert refusals(tmp_path, "train") == refusals(tmp_path, "train[:2]") == []
    assert "max_boxes=1, up to 2" in refusals(tmp_path, "train", max_boxes=1)[0]
    assert "cart is not among the classes trained on (car, toothbrush)" in refusals(tmp_path, "val", max_boxes=1)[0]
    crowds = coco()
    for each in crowds["annotations"]:
        each["iscrowd"] = 1
    write_coco(tmp_path, crowds)
    assert len(refusals(tmp_path, "train[:2]")) == 1 and "nothing to learn" in refusals(tmp_path, "train")[0]
    write_coco(tmp_path, crowds, "val")
    assert refusals(tmp_path, "val") == []  # evaluated, and reported as odd


def test_images_without_a_truth_are_not_counted_as_empty_ones():
    report = survey.survey(open_source("mix:scenes:4x32 + embedded", "train[:20%]")).report
    assert report["lacking"] == {"boxes": 1600, "segmentation": 1600, "label": 1}
    assert report["boxes per image"]["least"] >= 1 and report["images without boxes"] == 0
    assert "not annotated       boxes 1,600 images, segmentation 1,600 images, label 1 images" in describe(
        "mix", report
    )
    assert survey.survey(open_source("scenes:2x32")).report["lacking"] == {}


def test_what_a_source_is_for_is_the_first_truth_that_it_has(tmp_path, folder):
    specs = {
        "boxes": (f"coco:{write_coco(tmp_path / 'coco')}", "scenes:3x32"),
        "segmentation": ("scene_masks:3x32", f"masks:{write_masks(tmp_path / 'masks')}"),
        "label": ("embedded", f"folder:{folder}"),
    }
    for target, held in specs.items():
        for spec in held:
            for split in ("train", "train[:2]"):
                assert first_target(open_source(spec, split)) == target
            config = get_base("segmentation" if target == "boxes" else "detection")
            config.data.source = spec
            with pytest.raises(UserError, match=f"^{spec} train is data for {target}, config.task is"):
                check_split(open_source(spec), config, "train", training=True)


@pytest.mark.parametrize("spec", ["scenes:9x32", "scene_masks:9x32", "embedded"])
def test_what_the_project_draws_itself_has_no_bad_record(spec):
    assert survey.survey(open_source(spec, "train[:9]")).report["bad"] == []


def test_a_validation_split_that_training_could_not_open_is_reported_and_the_rest_goes_on(folder):
    config = get_base()
    config.data.val_split = "nope"
    said = []
    checked, found = check(f"folder:{folder}", "", "", config, said.append)
    assert [each.split for each in checked] == ["train"] and not found["sound"]
    assert "has no split 'nope'" in found["cannot be opened"]["nope"][0] and "cannot be opened" in said[0]


def test_without_a_validation_split_both_parts_that_training_cuts_are_surveyed(tmp_path):
    for number in range(20):
        write_image(tmp_path / "ab"[number % 2] / f"{number}.png", 8, 8 + number)
    checked, found = check(str(tmp_path), "", "", None, lambda *words: None)
    opened = [open_source(f"folder:{tmp_path}", split, val_fraction=0.1) for split in ("train", "val")]
    assert [(each.split, len(each.source)) for each in checked] == [("train", len(opened[0])), ("val", len(opened[1]))]
    assert found["val_fraction"] == 0.1 and checked[1].source.files.tolist() == opened[1].files.tolist()


def test_too_few_images_to_cut_a_validation_split_are_reported_as_training_refuses_them(tmp_path):
    for name in "ab":
        write_image(tmp_path / name / "1.png", 8, 8)
    _, found = check(str(tmp_path), "", "", None, lambda *words: None)
    with pytest.raises(UserError, match="2 records leaves a split empty; add images, or validate on") as refused:
        open_source(f"folder:{tmp_path}", "val", val_fraction=0.1)
    assert found["splits"]["train"]["bad"] == [str(refused.value)] and not found["sound"]


def test_where_there_is_no_train_split_the_command_names_another(tmp_path):
    for name in "ab":
        write_image(tmp_path / "val" / name / "1.png", 8, 8)
    checked, found = check(str(tmp_path), "", "", None, lambda *words: None)
    assert "--config.data.train_split=val" in train_command(str(tmp_path), checked[0].source, [], found["on"])
    with pytest.raises(UserError, match="no split 'train', it has val; .* with --config.data.train_split=val"):
        open_source(f"folder:{tmp_path}", "train")


def test_trainval_is_read_only_where_there_is_no_train(tmp_path):
    lists = write_voc(tmp_path) / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    checked, found = check(f"voc:{tmp_path}", "", "", None, lambda *words: None)
    assert [each.split for each in checked] == ["train", "val"] and found["not read"] == ["trainval"]
    (lists / "train.txt").unlink()
    (lists / "val.txt").rename(lists / "test.txt")
    checked, found = check(f"voc:{tmp_path}", "", "", None, lambda *words: None)
    assert [each.split for each in checked] == ["trainval", "test"] and found["not read"] == []


def test_classes_that_a_split_lacks_and_boxes_that_training_shrinks_are_reported(tmp_path):
    write_coco(tmp_path)
    other = coco()
    other["annotations"] = other["annotations"][1:]
    write_coco(tmp_path, other, "val")
    config = get_base("detection")
    config.data.update(image_size=20, max_boxes=1)
    checked, found = check(f"coco:{tmp_path}", "", "", config, lambda *words: None)
    assert found["missing"] == {"train": [], "val": ["car"]}
    report = checked[
        0
    ].survey.report  # 50 x 40 and 20 x 30 become 25 x 20 and 20 x 30: boxes of 25 x 20, 3.5 x 4, 5 x 5
    assert report["tiny"] == 2 and report["beyond max_boxes"] == {"max_boxes": 1, "images": 1, "most": 2}
    assert examine(f"coco:{tmp_path}", "train")["refused"] == []


def spoilt_coco(root):
    write_coco(root)
    (root / "train2017" / "x.jpg").unlink()
    (root / "train2017" / "z.jpg").write_bytes(b"no image")  # the one whose size the file does not state
    return ["x.jpg: cannot be read", "z.jpg: cannot be decoded"], 1


def spoilt_voc(root):
    write_voc(root)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nlost\nbroken\nunread\nalone\n")
    (root / "Annotations" / "broken.xml").write_text("<annotation>")
    for name in ("alone", "unread"):
        (root / "Annotations" / f"{name}.xml").write_text("<annotation></annotation>")
    (root / "JPEGImages" / "unread.jpg").write_bytes(b"")
    expected = ["lost.xml: cannot be read", "broken.xml: not XML", "unread.jpg: empty file", "alone.xml: no image"]
    return expected, 2


def spoilt_yolo(root):
    write_yolo(root)
    (root / "labels" / "train" / "b.txt").write_text("0 0.5\n")
    (root / "images" / "train" / "broken.jpg").write_bytes(b"no image")
    return ["b.txt:1: '0 0.5' is not", "broken.jpg: cannot be decoded"], 2


def spoilt_masks(root):
    write_masks(root)
    write_image(root / "images" / "train" / "alone.jpg", 3, 5)
    write_image(root / "images" / "train" / "wide.jpg", 3, 9)
    write_mask(root / "masks" / "train" / "wide.png", PATTERN)
    write_image(root / "images" / "train" / "unread.jpg", 3, 5)
    (root / "masks" / "train" / "unread.png").write_bytes(b"no mask")
    expected = ["alone.jpg: no mask", "wide.jpg is 9 x 3 but its mask", "unread.png: cannot be"]
    return expected, 2


def spoilt_folder(root):
    for name in ("cat", "dog"):
        write_image(root / "train" / name / "1.jpg", 8, 8)
    (root / "train" / "cat" / "broken.jpg").write_bytes(b"no image")
    (root / "train" / "cat" / "lost.png").symlink_to("/nowhere")
    (root / "train" / "dog" / "photo.heic").write_bytes(b"x")
    (root / "train" / "eel").mkdir()
    return ["broken.jpg: cannot be", "lost.png: cannot be read", "photo.heic: its format", "eel: a class without"], 2


def spoilt_object_masks(root):
    for name, size in (("good", (8, 9)), ("wide", (8, 20)), ("two", (8, 9))):
        write_image(root / name / "images" / "1.png", 8, 9)
        write_image(root / name / "masks" / "1.png", *size)
    write_image(root / "two" / "images" / "2.png", 8, 9)
    (root / "good" / "masks" / "2.png").write_bytes(b"no mask")
    return ["wide/masks/1.png: is 20 x 8, its", "two/images: holds 2", "good/masks/2.png: cannot be"], 2


def spoilt_cityscapes(root):
    for name, number in (("good", 26_000), ("strange", 34_000), ("alone", 26_000)):
        write_image(root / "leftImg8bit" / "train" / "a" / f"{name}_leftImg8bit.png", 8, 9)
        write_mask(root / "gtFine/train/a" / f"{name}_gtFine_instanceIds.png", np.full((8, 9), number, np.uint16))
    (root / "gtFine/train/a/alone_gtFine_instanceIds.png").unlink()
    return ["alone_leftImg8bit.png: no map of ids", "strange_gtFine_instanceIds.png: holds the id 34000"], 1


SPOILT = [spoilt_coco, spoilt_voc, spoilt_yolo, spoilt_masks, spoilt_folder, spoilt_object_masks, spoilt_cityscapes]


@pytest.mark.parametrize("spoilt", SPOILT)
def test_all_that_is_missing_or_bad_is_named_once_and_the_rest_is_counted(tmp_path, spoilt):
    expected, good = spoilt(tmp_path)
    spec = f"{spoilt.__name__.removeprefix('spoilt_')}:{tmp_path}"
    report = examine(spec, "train")
    for each in expected:
        assert sum(each in problem for problem in report["bad"]) == 1, (each, report["bad"])
    assert len(report["bad"]) == len(expected) and report["refused"] == []
    assert sum(report["sizes"].values()) == good
    assert f"bad records: {len(expected)}" in describe(spec, report).splitlines()[-1]
    with pytest.raises(UserError):  # training ends at the first of them
        source = open_source(spec)
        [check_record(source, index) for index in range(len(source))]


def check_record(source, index):
    problem = tally.look(source, index).problem
    if problem:
        raise UserError(problem)


def all_broken_coco(root):
    content = coco()
    content["images"] += [{"id": 9}, {"id": 7, "file_name": "again.jpg"}, "text"]
    content["annotations"] += [
        {"id": 4, "image_id": 7, "category_id": 5, "bbox": [1, 1, 2, 2]},
        {"id": 5, "image_id": None, "category_id": 3, "bbox": [1, 1, 2, 2]},
        {"id": 6, "image_id": 7, "category_id": 3, "bbox": [1, 1, 2]},
        {"id": 7, "image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 1e400]},
        {"id": 8, "image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2], "iscrowd": "no"},
        {"id": 9, "image_id": 7, "category_id": 3},
    ]
    write_coco(root, content)
    return [
        "image 3 (id 9) lacks 'file_name'",
        "image id 7 occurs twice",
        "image 5 (id ?) lacks",
        "annotation 4 has category_id 5",
        "annotation 5 has image_id None",
        "annotation 6 has bbox",
        "y.jpg: box 1, 1, 3, inf",
        "annotation 8 has iscrowd",
        "(id 9) lacks 'bbox'",
    ]


def all_broken_yolo(root):
    write_yolo(root)
    labels = root / "labels" / "train"
    (labels / "a.txt").write_text("1 0.5 0.5 1 1\n9 .5 .5 .1 .1\nx\n0 0.3 0.25 0.2 0.1\n0 nan .5 .1 .1\n")
    (labels / "b.txt").write_bytes(b"0 .5 .5 .1 .1\n\xff")
    return ["a.txt:2: class 9", "a.txt:3: 'x'", "a.txt: box nan", "b.txt:2: not UTF-8"]


def all_broken_voc(root):
    write_voc(root)
    text = voc_xml(
        [("dog", (1, 1, "x", 40), 0), ("cat", (11, 6, 20, 15), 2), ("", (1, 1, 5, 5), 0), ("cat", (1, 1, 2, 2), -1)]
    )
    (root / "Annotations" / "a.xml").write_text(text.replace("</annotation>", voc_xml([("eel", (3, 3, 9, 9), 0)])[72:]))
    (root / "ImageSets" / "Main" / "train.txt").write_text("b\na\na\n")
    return ["a occurs twice", "<xmax> is 'x'", "lacks <name>", "<difficult> is '-1'"]


@pytest.mark.parametrize("broken, boxes", [(all_broken_coco, 3), (all_broken_yolo, 2), (all_broken_voc, 2)])
def test_every_broken_annotation_is_named_and_the_others_are_counted(tmp_path, broken, boxes):
    expected = broken(tmp_path)
    spec = f"{broken.__name__.removeprefix('all_broken_')}:{tmp_path}"
    report = examine(spec, "train")
    for each in expected:
        assert sum(each in problem for problem in report["bad"]) == 1, (each, report["bad"])
    assert len(report["bad"]) == len(expected) and report["boxes"] == boxes
    with pytest.raises(UserError):
        open_source(spec)


def run(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "morphism", "check", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_command_lists_what_is_bad_and_what_leaks_draws_the_rest_and_exits_with_1(tmp_path):
    root = write_voc(tmp_path)
    (root / "Annotations" / "a.xml").write_text(voc_xml([("dog", (0, 1, 50, 60), 0), ("cat", (5, 5, 20, 20), 0)]))
    (root / "JPEGImages" / "b.jpg").write_bytes(b"")
    done = run(str(root), "--draw", str(tmp_path / "out.png"), "--write", f"yolo:{tmp_path / 'as yolo'}")
    assert done.returncode == 1 and done.stderr == ""
    about, title, *lines = done.stdout.splitlines()
    assert about.startswith(f"{root}: Pascal VOC") and title == f"voc:{root} train: 2 records, 20 classes"
    assert any(line.startswith("odd boxes: 1 partly outside the image (clipped), first in") for line in lines)
    bad = lines.index(f"bad: {root}/JPEGImages/b.jpg: empty file, not an image; replace or remove it")
    assert lines[bad + 1 : bad + 3] == ["bad records: 1", f"voc:{root} val: 1 records, 20 classes"]
    leak = lines.index("leakage: 1 image of val (100.0%) is in train too: 1 exact")
    assert lines[leak + 1] == "    JPEGImages/c.jpg = JPEGImages/a.jpg"  # write_voc draws the same image
    assert lines[-1] == (
        "to train, once what is bad or refused is mended: morphism train --config experiments/finetune.py:faster_rcnn "
        f"--data {root} --workdir runs/{root.name}"
    )
    assert (tmp_path / "as yolo" / "labels" / "val" / "c.txt").is_file()
    drawn = np.asarray(Image.open(tmp_path / "out.png"))
    assert drawn[:200, :256].std() > 20 or drawn[:200, 256:].std() > 20


def test_the_command_prints_json_and_exits_with_0():
    done = run("--config", "experiments/quickstart.py", "--split", "val", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["splits"]["val"]["classes"]["Bag"] == 200
