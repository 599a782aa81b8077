"""The folder of predictions: names, what is refused, and files that other programs read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from morphism import tasks
from morphism.data import marks
from morphism.data.loose import LooseImages, find_images
from morphism.errors import UserError
from morphism.evaluation.output_folder import CocoRecords, OutputFolder, relative_names
from morphism.evaluation.result import Result
from morphism.experiments.base import get_base


def write(path, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "grey").save(path)
    return path


def test_two_inputs_never_become_one_output(tmp_path):
    a, b = write(tmp_path / "x" / "a.png"), write(tmp_path / "y" / "a.png")
    assert relative_names([(a, a.parent)]) == [Path("a.png")]
    assert relative_names([(a, a.parent), (b, b.parent)]) == [Path("x/a.png"), Path("y/a.png")]
    inputs = [(Path(name), Path()) for name in ("a.jpg", "a.png", "b.tif", "c.gif", "c.avi", "d.mov", "still.gif")]
    folder = OutputFolder(tmp_path / "out", inputs, ("",), ("a", "b"), videos=range(3, 6))
    names = [str(path.relative_to(tmp_path / "out")) for path in folder._images]
    assert names == ["a.jpg", "a.png", "b.tif.png", "c.gif.mp4", "c.avi.mp4", "d.mp4", "still.gif.png"]
    masks = [str(path.relative_to(tmp_path / "out" / "masks")) for path in folder._of_masks[""]]
    assert masks == ["a.jpg.png", "a.png.png", "b.png", "c.gif.png", "c.avi.png", "d.png", "still.png"]


def test_a_result_never_replaces_an_input(tmp_path):
    image = write(tmp_path / "a.png")
    before = image.read_bytes()
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to("self.png")
    OutputFolder(tmp_path / "other", [(tmp_path / "self.png", tmp_path)], (), ("a",))
    for folder in (tmp_path, tmp_path / "linked"):
        with pytest.raises(UserError, match=r"a result would replace the input .*a.png; name another folder"):
            OutputFolder(folder, [(image, tmp_path)], (), ("a",))
    assert image.read_bytes() == before


def test_patterns_and_folders_name_each_image_once_with_its_folder(tmp_path):
    write(tmp_path / "b" / "one.png"), write(tmp_path / "b" / "c" / "two.jpg")
    (tmp_path / "b" / "clip.mp4").write_bytes(b"")
    found = find_images([str(tmp_path / "b"), str(tmp_path / "*" / "*.png"), str(tmp_path / "b" / "one.png")])
    below = tmp_path / "b"
    assert found == [(below / "c" / "two.jpg", below), (below / "clip.mp4", below), (below / "one.png", below)]
    write(tmp_path / "[odd].png")
    assert find_images([str(tmp_path / "[odd].png")]) == [(tmp_path / "[odd].png", tmp_path)]
    with pytest.raises(UserError, match=r"\*\.tif: no file matches"):
        find_images([str(tmp_path / "*.tif")])


def detected(path, count=2):
    predictions = {
        "id": np.array([0]),
        "boxes": np.float32([[[1, 2, 11, 22], [5, 5, 9, 9]]]),
        "scores": np.float32([[0.9, 0.1]]),
        "classes": np.int32([[1, 0]]),
    }
    source = LooseImages([path], ("a", "b"))
    return Result.of(tasks.get("detection"), ("a", "b"), source, get_base("detection").data, predictions, 0)


def test_detections_are_written_as_coco_reads_them(tmp_path):
    from faster_coco_eval import COCO

    images = [write(tmp_path / "one.png"), write(tmp_path / "two.bmp")]
    folder = OutputFolder(tmp_path / "out", [(path, tmp_path) for path in images], (), ("a", "b"))
    records = []
    for index, path in enumerate(images):
        result = detected(path)
        folder.write(index, result, result.annotated())
        records.append(CocoRecords.of(index, result))
    names = folder.close([{"file": str(path)} for path in images], records)
    assert names == ["predictions.jsonl", "detections.json"]
    truth = json.loads((tmp_path / "out" / "detections_images.json").read_text())
    assert [each["file_name"] for each in truth["images"]] == [str(path) for path in images]
    found = COCO(truth | {"annotations": []}).loadRes(str(tmp_path / "out" / "detections.json"))
    assert sorted(found.getImgIds()) == [1, 2]
    best = found.loadAnns(found.getAnnIds(imgIds=[2]))[0]
    assert best["bbox"] == [1, 2, 10, 20] and best["category_id"] == 2 and best["score"] == pytest.approx(0.9)
    assert Image.open(tmp_path / "out" / "two.bmp.png").size == (7 * 40, 7 * 30)


def test_masks_hold_classes_in_the_colours_of_the_copies(tmp_path):
    image = write(tmp_path / "a.jpg", (3, 2))
    classes = ("background", "cell", "gap")
    folder = OutputFolder(tmp_path / "out", [(image, tmp_path)], ("",), classes)
    pixels = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)
    predictions = {"id": np.array([0]), "classes": pixels[None], "original_size": np.array([[2, 3]])}
    data = get_base("segmentation").data
    result = Result.of(tasks.get("segmentation"), classes, LooseImages([image], classes), data, predictions, 0)
    folder.write(0, result, result.annotated())
    assert folder.close([], [])[-1] == "masks/"
    mask = Image.open(tmp_path / "out" / "masks" / "a.png")
    assert np.array_equal(mask, pixels)
    shown = np.asarray(mask.convert("RGB"))
    expected = [(0, 0, 0), marks.nth(0), marks.nth(1)]
    assert [tuple(each) for each in shown[0].tolist()] == expected
    assert json.loads((tmp_path / "out" / "masks" / "classes.json").read_text()) == list(classes)
    folder.write_masks(0, 7, result)
    assert np.array_equal(Image.open(tmp_path / "out" / "masks" / "a.jpg" / "000007.png"), pixels)


def test_fused_segments_are_written_as_coco_has_them(tmp_path, monkeypatch):
    image = write(tmp_path / "a.png", (3, 1))
    maps = {"ground": np.array([[0, 1, 255]], np.uint8), "panoptic": np.array([[0, 1, 300]], np.uint16)}
    monkeypatch.setattr(Result, "mask", lambda self, name: maps[name])
    classes = {"ground": ("grass", "sky"), "objects": ("a", "b")}
    folder = OutputFolder(tmp_path / "out", [(image, tmp_path)], tuple(maps), classes)
    folder.write(0, detected(image), Image.new("RGB", (3, 1)))
    folder.close([], [])
    ids = np.asarray(Image.open(tmp_path / "out" / "masks" / "a_panoptic.png"), int) @ [1, 256, 65536]
    assert ids.tolist() == [[0, 1, 300]]
    assert np.asarray(Image.open(tmp_path / "out" / "masks" / "a_ground.png")).tolist() == [[0, 1, 255]]
    named = json.loads((tmp_path / "out" / "masks" / "classes.json").read_text())
    assert named == {"ground": ["grass", "sky"]}
