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
from PIL import Image, ImageDraw

from morphism.commands.check import examine
from morphism.data import marks, sources, survey
from morphism.data.checks import check_split
from morphism.data.records import first_target
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
    report = survey.survey(open_source(f"coco:{write_coco(tmp_path, content)}"))
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
    report = survey.survey(open_source(f"voc:{root}"))
    assert len(report["bad"]) == 2 and report["boxes"] == 1 and report["classes"]["person"] == 1
    assert "a.jpg: cannot be decoded" in report["bad"][0]
    assert "b.jpg is 40 x 50, its annotations are for 50 x 40" in report["bad"][1]


def test_classification_is_counted_with_its_odd_images(corpus_folder):
    folder, odd = corpus_folder
    report = survey.survey(open_source(f"folder:{folder}"))
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


def refusals(tmp_path, split, **data):
    config = get_base("detection")
    config.data.update(data)
    return examine(f"coco:{tmp_path}", "", split, config)[2]["refused"]


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
    report = survey.survey(open_source("mix:scenes:4x32 + embedded", "train[:50%]"))
    assert report["lacking"] == {"boxes": 4000, "segmentation": 4000, "label": 2}
    assert report["boxes per image"]["least"] >= 1 and report["images without boxes"] == 0
    assert "not annotated       boxes 4,000 images, segmentation 4,000 images, label 2 images" in survey.describe(
        "mix", report
    )
    assert survey.survey(open_source("scenes:2x32"))["lacking"] == {}


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
    assert survey.survey(open_source(spec, "train[:9]"))["bad"] == []


def test_labels_of_samples_lie_within_the_image_and_stand_out_of_their_ground():
    for colour in ((255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0)):
        written = []
        for corner in ((0, 0), (-5, 38), (118, -3), (119, 39)):
            sample = Image.new("RGB", (120, 40), (9, 9, 9))
            marks.write(ImageDraw.Draw(sample), "a class", corner, sample.size, colour)
            drawn = np.asarray(sample).astype(int)
            ground = (drawn == colour).all(-1)
            letters = ~ground & (drawn != 9).any(-1)
            written.append((ground.sum(), letters.sum()))
            assert np.abs(drawn[letters] - colour).sum(-1).max() > 200
        assert written[0][0] > 200 and len(set(written)) == 1  # the same wherever it lies: none of it is cut off


def test_the_colours_of_masks_are_named_below_them(tmp_path):
    survey.draw(open_source("scene_masks:3x32"), tmp_path / "out.png")
    drawn = np.asarray(Image.open(tmp_path / "out.png"))
    assert drawn.shape == (320 + 20, 1600, 3)
    colours = marks.colours([open_source("scene_masks:3x32").classes])
    for index, colour in enumerate(list(colours.values())[:5]):
        assert (drawn[320:, 160 * index : 160 * (index + 1)] == colour).all(-1).sum() > 100


def test_a_class_has_one_colour_in_boxes_and_masks_and_the_background_none():
    source = open_source("scenes:3x32")
    boxes, masks = source.targets["boxes"], source.targets["segmentation"]
    colours = marks.colours([boxes, masks])
    assert len({colours[name] for name in boxes}) == len(boxes) and set(masks) == {*boxes, "background"}
    sample = Image.new("RGB", (2, 2), (200, 200, 200))
    truth = np.array([[0, 1], [2, 255]], np.uint8)
    draw = survey.targets.get("segmentation").draw
    drawn = np.asarray(draw(sample, truth, 1.0, masks, [colours[name] for name in masks]))
    assert drawn[0, 0].tolist() == [200, 200, 200] and drawn[1, 1].max() < 120
    for place, name in (((0, 1), masks[1]), ((1, 0), masks[2])):
        assert np.abs(drawn[place] * 2.0 - 200 - colours[name]).max() < 6


def test_a_validation_split_that_training_could_not_open_is_refused(folder):
    config = get_base()
    config.data.val_split = "nope"
    refused = examine(f"folder:{folder}", "", "train", config)[2]["refused"]
    assert len(refused) == 1 and "has no split 'nope'" in refused[0]
    assert examine(f"folder:{folder}", "", "train", None)[2]["refused"] == []


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
    _, source, report = examine(spec, "", "train", None)
    for each in expected:
        assert sum(each in problem for problem in report["bad"]) == 1, (each, report["bad"])
    assert len(report["bad"]) == len(expected) and report["refused"] == []
    assert sum(report["sizes"].values()) == good
    assert f"bad records: {len(expected)}" in survey.describe(spec, report).splitlines()[-1]
    with pytest.raises(UserError):  # training ends at the first of them
        source = open_source(spec)
        [check_record(source, index) for index in range(len(source))]


def check_record(source, index):
    problem = survey.look(source, index).problem
    if problem:
        raise UserError(problem)


def run(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "morphism", "check", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_command_lists_what_is_bad_draws_the_rest_and_exits_with_1(tmp_path):
    root = write_voc(tmp_path)
    (root / "Annotations" / "a.xml").write_text(voc_xml([("dog", (0, 1, 50, 60), 0), ("cat", (5, 5, 20, 20), 0)]))
    (root / "JPEGImages" / "b.jpg").write_bytes(b"")
    done = run(f"voc:{root}", "--draw", str(tmp_path / "out.png"))
    assert done.returncode == 1 and done.stderr == ""
    assert "voc:" in done.stdout and "train: 2 records, 20 classes" in done.stdout
    assert "odd boxes: 1 partly outside the image (clipped), first in" in done.stdout
    assert done.stdout.splitlines()[-2:] == [
        f"bad: {root}/JPEGImages/b.jpg: empty file, not an image; replace or remove it",
        "bad records: 1",
    ]
    drawn = np.asarray(Image.open(tmp_path / "out.png"))
    done = run("embedded", "--split", "val", "--draw", str(tmp_path / "none" / "out.png"))
    assert done.returncode == 2 and "none/out.png: cannot be written" in done.stderr
    assert drawn.shape == (320 + 2 * survey.LINE, 1600, 3) and drawn[320:].any()  # the legend of 20 classes
    assert drawn[:320, 320:640].any() and not drawn[:320, :320].any()


def test_the_command_prints_json_and_exits_with_0():
    done = run("--config", "experiments/quickstart.py", "--split", "val", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"]["Bag"] == 200
