"""What lies at a path is found out, read whole, and refused where it cannot be told."""

import json
import os
import re
import shutil
from pathlib import Path

import layouts
import numpy as np
import pytest
from detection import write_image, write_yolo
from layouts import BOXES, CLASSES, OBJECTS, images, text, xml, yolo
from masks import write_mask

from morphism.data import layouts as data_layouts
from morphism.data import outlines, sources
from morphism.data.kinds import kinds, module_of
from morphism.data.recognise import fields, recognise
from morphism.data.records import Source
from morphism.errors import UserError, noting
from morphism.experiments.base import get_base


def opened(source: str, split: str, **changes) -> Source:
    data = get_base("instances").data
    data.update(source=source, **changes)
    return sources.load(data, split)


def objects(source: Source) -> dict[str, list[tuple]]:
    """Name of the image -> class, x0, y0, x1, y1 of its objects."""
    found = {}
    for index in range(len(source)):
        held = source.annotations(index)
        rows = [(source.classes[k], *box) for k, box in zip(held.classes.tolist(), held.boxes.tolist(), strict=True)]
        found[Path(source[index]["name"]).stem] = [(row[0], *np.round(row[1:], 3).tolist()) for row in rows]
    return found


@pytest.mark.parametrize(("write", "kind", "splits", "outlined"), BOXES, ids=lambda each: getattr(each, "__name__", ""))
def test_the_same_objects_in_every_layout_are_the_same_boxes(tmp_path, write, kind, splits, outlined):
    write(tmp_path)
    found = recognise(str(tmp_path))
    assert (found.source.partition(":")[0], found.splits) == (kind, splits)
    assert (
        found.about.count("\n") == 0 and found.source in found.about and all(split in found.about for split in splits)
    )
    read = {}
    for split in splits:
        source = opened(found.source, split)
        assert tuple(source.classes) == CLASSES
        assert list(source.targets) == (["boxes", "masks"] if outlined else ["boxes"])
        read |= objects(source)
        if outlined:  # pixels of rectangles with whole corners
            for index in range(len(source)):
                sizes = [outlines.area(each, source.sizes[index].tolist()) for each in source.masks(index)]
                boxes = source.annotations(index).boxes
                assert sizes == np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).tolist()
    assert read == {name: [(label, *map(float, box)) for label, *box in held] for name, held in OBJECTS.items()}
    assert fields(found)["val_fraction"] == (0.0 if len(splits) > 1 else 0.1)


def class_folders(root):
    for name in ("cat", "dog"):
        images(root / name, "ab")


def split_class_folders(root):
    for split in ("Train", "validation"):
        class_folders(root / split)


def camvid(root):
    for split in ("train", "val"):
        write_image(root / split / "a.png", 3, 5)
        write_mask(root / f"{split}annot" / "a.png", np.ones((3, 5), np.uint8))


def binary_masks(root):
    for name in "ab":
        write_image(root / "images" / f"{name}.jpg", 3, 5)
        write_mask(root / "masks" / f"{name}_mask.png", np.array([[0, 255, 255, 0, 0]] * 3, np.uint8))


def masks_of_splits(root):
    for split in ("train", "valid"):
        write_image(root / split / "images" / "a.jpg", 3, 5)
        write_mask(root / split / "masks" / "a.png", np.array([[0, 1, 1, 0, 2]] * 3, np.uint8))
    text(root / "classes.txt", "ground\nroad\nsky\n")


def cvat_masks(root):
    write_image(root / "JPEGImages" / "a.jpg", 3, 5)
    colours = np.zeros((3, 5, 3), np.uint8)
    colours[:, 2:] = (128, 0, 0)
    write_mask(root / "SegmentationClass" / "a.png", colours)
    write_mask(root / "SegmentationObject" / "a.png", colours)
    text(root / "ImageSets" / "Segmentation" / "default.txt", "a\n")
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\n")


def stage1(root):
    for name in ("0a", "0b"):
        write_image(root / "stage1_train" / name / "images" / f"{name}.png", 3, 5)
        write_mask(root / "stage1_train" / name / "masks" / "1.png", np.array([[0, 255, 255, 0, 0]] * 3, np.uint8))
    write_image(root / "stage1_test" / "0c" / "images" / "0c.png", 3, 5)


def cityscapes(root):
    for folder, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_instanceIds")):
        path = root / folder / "train" / "aachen" / f"aachen_0_0_{end}.png"
        write_image(path, 3, 5) if end == folder else write_mask(path, np.full((3, 5), 26001, np.uint16))


@pytest.mark.parametrize(
    ("write", "kind", "splits", "classes", "records"),
    [
        (class_folders, "folder", ("train",), ("cat", "dog"), 4),
        (split_class_folders, "folder", ("train", "validation"), ("cat", "dog"), 4),
        (camvid, "masks", ("train", "val"), None, 1),
        (binary_masks, "masks", ("train",), ("background", "object"), 2),
        (masks_of_splits, "masks", ("train", "valid"), ("ground", "road", "sky"), 1),
        (cvat_masks, "masks", ("train",), ("background", "cat"), 1),
        (stage1, "object_masks", ("train",), ("object",), 2),
        (cityscapes, "cityscapes", ("train",), None, 1),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_labels_and_masks_are_recognised(tmp_path, write, kind, splits, classes, records):
    write(tmp_path)
    found = recognise(str(tmp_path))
    assert (found.source, found.splits) == (f"{kind}:{tmp_path}", splits)
    source = opened(found.source, splits[0])
    assert len(source) == records and (classes is None or tuple(source.classes) == classes)
    assert f"{len(source.classes)} class" in found.about


def test_coco128_without_names_has_cocos_classes(tmp_path):
    layouts.coco128(tmp_path)
    (tmp_path / "classes.txt").unlink()
    found = recognise(str(tmp_path))
    assert "80 classes" in found.about
    assert opened(found.source, "train").classes[:2] == ("person", "bicycle")


@pytest.mark.parametrize(
    ("write", "file"),
    [(layouts.ultralytics, "my.yaml"), (layouts.cvat_images, "annotations.xml"), (layouts.one_json, "labels.json")],
)
def test_a_file_that_describes_a_dataset_stands_for_it(tmp_path, write, file):
    write(tmp_path)
    found = recognise(str(tmp_path / file))
    assert found.source.endswith(f":{tmp_path / file}") and found.splits[0] == "train"
    assert objects(opened(found.source, "train"))["a"] == [(label, *box) for label, *box in OBJECTS["a"]]


def test_what_systems_leave_behind_changes_nothing(tmp_path):
    layouts.labelimg(tmp_path)
    before = recognise(str(tmp_path))
    for name in ("._a.jpg", "._a.xml", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._a.jpg", ".cache/data.yaml"):
        text(tmp_path / name, "names: [a]\ntrain: .\n")
    assert recognise(str(tmp_path)) == before
    assert len(opened(before.source, "train")) == 3


def test_links_that_lead_in_circles_end(tmp_path):
    (tmp_path / "wrapped").mkdir()
    layouts.kangaroo(tmp_path / "real")
    (tmp_path / "wrapped" / "data").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "again").symlink_to(tmp_path / "wrapped")
    assert recognise(str(tmp_path / "wrapped")).source == f"voc:{tmp_path}/wrapped/data"


def test_a_link_to_itself_hides_nothing_else(tmp_path):
    for name in "ab":
        write_image(tmp_path / name / "1.png", 3, 5)
    (tmp_path / "b" / "self").symlink_to("self")
    assert recognise(str(tmp_path)).source == f"folder:{tmp_path}"
    with pytest.raises(UserError, match="b/self: cannot be followed .*; mend or remove it"):
        opened(f"folder:{tmp_path}", "train")


@pytest.mark.parametrize(("label", "count"), [("\ufeff0 0.5 0.5 0.4 0.4", 1), (" \n\n", 0)], ids=["mark", "blank"])
def test_labels_with_a_byte_order_mark_or_without_a_word_are_labels(tmp_path, label, count):
    for name, content in (("1", label), ("2", "")):
        write_image(tmp_path / "images" / f"{name}.png", 30, 40)
        text(tmp_path / "labels" / f"{name}.txt", content)
    text(tmp_path / "classes.txt", "a")
    assert recognise(str(tmp_path)).source == f"yolo:{tmp_path}"
    with noting():
        assert len(opened(f"yolo:{tmp_path}", "train").annotations(0)) == count


def test_a_large_folder_is_not_listed_whole(tmp_path, monkeypatch):
    layouts.labelimg_yolo(tmp_path)
    monkeypatch.setattr(data_layouts, "MOST", 4)
    listed, scandir = [], os.scandir

    def counting(path):
        class Counted:
            def __enter__(self):
                self.entries = scandir(path)
                return self

            def __exit__(self, *error):
                self.entries.close()

            def __iter__(self):
                return self

            def __next__(self):
                listed.append(path)
                return next(self.entries)

        return Counted()

    for index in range(200):
        (tmp_path / f"z{index}.jpg").touch()
    monkeypatch.setattr(os, "scandir", counting)
    look = data_layouts.Look(tmp_path)
    assert len(look.entries) <= 4 and len(listed) <= 4
    assert look.file("classes.txt") == "classes.txt" and len(listed) <= 4  # asked for by name


def test_what_could_also_be_read_otherwise_is_told(tmp_path):
    layouts.official_coco(tmp_path)
    layouts.ultralytics(tmp_path)
    found = recognise(str(tmp_path))
    assert found.source == f"coco:{tmp_path}" and f"could also be read as yolo:{tmp_path}" in found.about


def empty(root):
    pass


def loose_images(root):
    images(root, "abc")


def no_names(root):
    for split in ("train", "val"):
        images(root / "images" / split, "ab")
        yolo(root / "labels" / split, "ab")


def no_legend(root):
    masks_of_splits(root)
    (root / "classes.txt").unlink()


def xml_without_images(root):
    xml(root / "Annotations", "abc")


def two_datasets(root):
    layouts.kangaroo(root / "one" / "inner")
    layouts.labelimg(root / "two")


def two_json(root):
    images(root / "images", "abc")
    layouts.coco(root / "one.json", "ab")
    layouts.coco(root / "two.json", "c")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (empty, "is empty; put the data there"),
        (
            loose_images,
            r"nearest are class folders \(found images in .*; lacks a folder per class, two or more.* and YOLO \(",
        ),
        (
            no_names,
            r"YOLO \(found images in images/train and .txt files with their labels; lacks data.yaml or classes.txt\)",
        ),
        (no_legend, r"masks of classes \(found train/images and train/masks; lacks classes.txt with a class's name"),
        (xml_without_images, r"Pascal VOC \(found Annotations/a.xml; lacks images next to it, or in images/"),
        (two_datasets, "holds several datasets; give one of them: voc:.*two and voc:.*one/inner"),
        (two_json, r"COCO \(found one.json and two.json; lacks names with train or val"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_cannot_be_told_is_refused_with_what_it_lacks(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(UserError) as caught:
        recognise(str(tmp_path))
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
    assert re.search(message, str(caught.value)), caught.value


def test_a_description_that_cannot_be_read_is_the_error(tmp_path):
    layouts.roboflow_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: [\nnames: {")
    with pytest.raises(UserError, match=rf"^{tmp_path}/data.yaml:2: not YAML .*; mend it$"):
        recognise(str(tmp_path))


@pytest.mark.parametrize("spoilt", [{"bbox": [1, 2, 3]}, {"bbox": None}, {"category_id": 9}, {"iscrowd": "x"}])
def test_where_every_annotation_is_refused_each_is_named(tmp_path, spoilt):
    layouts.official_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"annotations": [each | spoilt for each in held["annotations"]]}))
    with noting() as notes:
        source = opened(f"coco:{tmp_path}", "train")
        assert [len(source.annotations(index)) for index in range(len(source))] == [0, 0]
    assert len(notes) == len(held["annotations"]) and all(str(path) in note for note in notes)


def test_paths_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="nothing: no such file or folder; correct the path"):
        recognise(str(tmp_path / "nothing"))
    text(tmp_path / "notes.md", "hello")
    with pytest.raises(UserError, match=r"notes.md: does not describe a dataset; give its folder, or a data.yaml"):
        recognise(str(tmp_path / "notes.md"))


def test_images_without_an_xml_or_json_are_reported(tmp_path):
    for write in (layouts.labelimg, layouts.labelme_beside):
        root = tmp_path / write.__name__
        write(root)
        write_image(root / "x.jpg", 40, 50)
        source = opened(recognise(str(root)).source, "train")
        assert len(source) == 3 and re.search(
            r"1 images without an? \.\w+ \(passed over\), first .*x.jpg", source.oddities
        )


def test_a_missing_image_is_named_and_the_rest_is_read(tmp_path):
    for write in (layouts.labelimg, layouts.labelme_beside, layouts.cvat_images):
        root = tmp_path / write.__name__
        write(root)
        spec = recognise(str(root)).source
        next(root.rglob("b.jpg")).unlink()
        with pytest.raises(UserError, match=r"b.jpg"):
            opened(spec, "train")
        with noting() as notes:
            assert sorted(objects(opened(spec, "train"))) == ["a", "c"]
        assert len(notes) == 1 and "b.jpg" in notes[0]


def test_every_layout_that_is_recognised_is_documented():
    page = (Path(data_layouts.__file__).parent.parent / "docs" / "data.md").read_text()
    table = page.partition("## Your own data")[2].partition("\n## ")[0]
    known = [kind for kind in kinds() if hasattr(module_of(kind), "LAYOUT")]
    assert [kind for kind in known if f"`{kind}:" not in table] == []


def test_a_yolo_folder_that_is_copied_reads_the_same(tmp_path):
    root = write_yolo(tmp_path / "one")
    shutil.copytree(root, tmp_path / "two")
    one, two = (opened(recognise(str(tmp_path / name)).source, "train") for name in ("one", "two"))
    assert objects(one) == objects(two)


def test_an_image_without_objects_comes_first(tmp_path):
    layouts.labelimg_yolo(tmp_path)
    for index in range(9):
        images(tmp_path, "a")
        (tmp_path / "a.jpg").rename(tmp_path / f"Z{index}.jpg")
        text(tmp_path / f"Z{index}.txt", "")
    assert recognise(str(tmp_path)).source == f"yolo:{tmp_path}"
