"""The same images and objects written in the layouts of many tools."""

import json
from pathlib import Path

from detection import voc_xml, write_image

CLASSES = ("cat", "hen")
SIZES = {"a": (40, 50), "b": (40, 50), "c": (20, 80)}  # height, width
OBJECTS = {  # class, x0, y0, x1, y1
    "a": [("cat", 10, 8, 20, 12), ("hen", 0, 0, 50, 40)],
    "b": [("cat", 5, 5, 15, 25)],
    "c": [("hen", 20, 5, 60, 15)],
}
SPLIT = {"train": "ab", "val": "c"}
EVERYTHING = {"train": "abc"}


def images(folder: Path, names: str) -> None:
    for name in names:
        write_image(folder / f"{name}.jpg", *SIZES[name])


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def xml(folder: Path, names: str) -> None:
    for name in names:
        held = [(label, (x0 + 1, y0 + 1, x1, y1), 0) for label, x0, y0, x1, y1 in OBJECTS[name]]
        text(folder / f"{name}.xml", voc_xml(held, SIZES[name]))


def yolo(folder: Path, names: str, polygons: bool = False) -> None:
    for name in names:
        height, width = SIZES[name]
        lines = []
        for label, x0, y0, x1, y1 in OBJECTS[name]:
            x = [x0 / width, x1 / width]
            y = [y0 / height, y1 / height]
            corners = (x[0], y[0], x[1], y[0], x[1], y[1], x[0], y[1])
            middle = (sum(x) / 2, sum(y) / 2, x[1] - x[0], y[1] - y[0])
            lines.append(f"{CLASSES.index(label)} {' '.join(map(str, corners if polygons else middle))}")
        text(folder / f"{name}.txt", "\n".join(lines))


def coco(path: Path, names: str, prefix: str = "", roboflow: bool = False) -> None:
    above = [{"id": 0, "name": "animals", "supercategory": "none"}] if roboflow else []
    kinds = [{"id": number, "name": name, "supercategory": "animals"} for number, name in enumerate(CLASSES, start=1)]
    sides = [dict(zip(("height", "width"), SIZES[name], strict=True)) for name in names]
    listed = [
        {"id": ord(name), "file_name": f"{prefix}{name}.jpg", **size} for name, size in zip(names, sides, strict=True)
    ]
    objects = []
    for name in names:
        for label, x0, y0, x1, y1 in OBJECTS[name]:
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            outline = {"segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}
            kind = {"image_id": ord(name), "category_id": CLASSES.index(label) + 1}
            objects.append({"id": len(objects) + 1, **kind, **box, **outline})
    text(path, json.dumps({"info": {}, "images": listed, "annotations": objects, "categories": above + kinds}))


def labelme(folder: Path, names: str, path: str = "{}.jpg", kind: str = "rectangle") -> None:
    for name in names:
        shapes = []
        for label, x0, y0, x1, y1 in OBJECTS[name]:
            corners = [[x1, y1], [x0, y0]] if kind == "rectangle" else [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
            shapes.append({"label": label, "points": corners, "group_id": None, "shape_type": kind, "flags": {}})
        size = dict(zip(("imageHeight", "imageWidth"), SIZES[name], strict=True))
        content = {"version": "5.5", "flags": {}, "shapes": shapes, "imagePath": path.format(name), "imageData": None}
        text(folder / f"{name}.json", json.dumps(content | size))


def cvat(path: Path, splits: dict[str, str]) -> None:
    labels = "".join(f"<label><name>{name}</name><color>#fff</color></label>" for name in CLASSES)
    held = ""
    for subset, names in splits.items():
        for name in names:
            height, width = SIZES[name]
            shapes = "".join(
                f'<box label="{label}" occluded="0" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}" z_order="0"></box>'
                for label, x0, y0, x1, y1 in OBJECTS[name]
            )
            held += (
                f'<image id="{ord(name)}" name="{name}.jpg" subset="{subset}" width="{width}" height="{height}">'
                f"{shapes}</image>"
            )
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    text(path, f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{meta}{held}</annotations>')


def voc_devkit(root: Path) -> None:
    for split, names in SPLIT.items():
        images(root / "JPEGImages", names)
        xml(root / "Annotations", names)
        text(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(names))


def voc_within_a_devkit(root: Path) -> None:
    voc_devkit(root / "VOCdevkit" / "VOC2007")
    text(root / "readme.md", "VOC")


def labelimg(root: Path) -> None:
    images(root, "abc")
    xml(root, "abc")


def roboflow_voc(root: Path) -> None:
    for split, names in (("train", "ab"), ("valid", "c")):
        images(root / split, names)
        xml(root / split, names)
    text(root / "README.roboflow.txt", "exported")


def kangaroo(root: Path) -> None:
    images(root / "images", "abc")
    xml(root / "annots", "abc")


def raccoon(root: Path) -> None:
    images(root / "images", "abc")
    xml(root / "annotations", "abc")


def voc_of_splits(root: Path) -> None:
    for split, names in SPLIT.items():
        images(root / "images" / split, names)
        xml(root / "Annotations" / split, names)


def cvat_voc(root: Path) -> None:
    images(root / "JPEGImages", "abc")
    xml(root / "Annotations", "abc")
    text(root / "ImageSets" / "Main" / "default.txt", "a\nb\nc\n")
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\nhen:0,128,0::\n")


def official_coco(root: Path) -> None:
    for split, names in SPLIT.items():
        images(root / f"{split}2017", names)
        coco(root / "annotations" / f"instances_{split}2017.json", names)
        text(root / "annotations" / f"captions_{split}2017.json", '{"images": [], "annotations": []}')


def roboflow_coco(root: Path) -> None:
    for split, names in (("train", "ab"), ("valid", "c")):
        images(root / split, names)
        coco(root / split / "_annotations.coco.json", names, roboflow=True)


def one_json(root: Path) -> None:
    images(root / "photos", "abc")
    coco(root / "labels.json", "abc")


def one_json_of_another_machine(root: Path) -> None:
    images(root / "images", "abc")
    coco(root / "result.json", "abc", prefix="../../label-studio/media/upload/1/")


def named_jsons(root: Path) -> None:
    images(root / "images", "abc")
    for split, names in SPLIT.items():
        coco(root / "annotations" / f"my_{split}_v2.json", names)


def cvat_coco(root: Path) -> None:
    images(root / "images" / "default", "abc")
    coco(root / "annotations" / "instances_default.json", "abc")


def ultralytics(root: Path) -> None:
    for split, names in SPLIT.items():
        images(root / "images" / split, names)
        yolo(root / "labels" / split, names)
    text(root / "my.yaml", "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: hen\n")


def ultralytics_outlines(root: Path) -> None:
    for split, names in SPLIT.items():
        images(root / "images" / split, names)
        yolo(root / "labels" / split, names, polygons=True)
    text(root / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, hen]\n")


def yolo_lists(root: Path) -> None:
    images(root / "all" / "images", "abc")
    yolo(root / "all" / "labels", "abc")
    for split, names in SPLIT.items():
        text(root / f"{split}.txt", "\n".join(f"./all/images/{name}.jpg" for name in names))
    text(root / "data.yaml", "train: train.txt\nval: val.txt\nnc: 2\nnames: [cat, hen]\n")


def roboflow_yolo(root: Path) -> None:
    for split, names in (("train", "ab"), ("valid", "c")):
        images(root / split / "images", names)
        yolo(root / split / "labels", names)
    text(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['cat', 'hen']",
    )


def coco128(root: Path) -> None:
    for split, names in SPLIT.items():
        images(root / "images" / f"{split}2017", names)
        yolo(root / "labels" / f"{split}2017", names)
    text(root / "classes.txt", "cat\nhen\n")


def label_studio_yolo(root: Path) -> None:
    images(root / "images", "abc")
    yolo(root / "labels", "abc")
    text(root / "classes.txt", "cat\nhen\n")
    text(root / "notes.json", '{"categories": []}')


def labelimg_yolo(root: Path) -> None:
    images(root, "abc")
    yolo(root, "abc")
    text(root / "classes.txt", "cat\nhen\n")


def cvat_yolo(root: Path) -> None:
    for split, names in SPLIT.items():
        images(root / f"obj_{split}_data", names)
        yolo(root / f"obj_{split}_data", names)
        text(root / f"{split}.txt", "\n".join(f"data/obj_{split}_data/{name}.jpg" for name in names))
    text(root / "obj.names", "cat\nhen\n")
    text(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")


def cvat_images(root: Path) -> None:
    images(root / "images", "abc")
    cvat(root / "annotations.xml", {"default": "abc"})


def cvat_subsets(root: Path) -> None:
    for subset, names in (("Train", "ab"), ("Validation", "c")):
        images(root / "images" / subset, names)
    cvat(root / "annotations.xml", {"Train": "ab", "Validation": "c"})


def labelme_beside(root: Path) -> None:
    images(root, "abc")
    labelme(root, "abc")


def labelme_outlines(root: Path) -> None:
    for split, names in (("train", "ab"), ("dev", "c")):
        images(root / split, names)
        labelme(root / split, names, kind="polygon")


def labelme_apart(root: Path) -> None:
    images(root / "images", "abc")
    labelme(root / "json", "abc", path="..\\images\\{}.jpg")


# writer, kind, splits, whether there are outlines
BOXES = (
    (voc_devkit, "voc", ("train", "val"), False),
    (voc_within_a_devkit, "voc", ("train", "val"), False),
    (labelimg, "voc", ("train",), False),
    (roboflow_voc, "voc", ("train", "valid"), False),
    (kangaroo, "voc", ("train",), False),
    (raccoon, "voc", ("train",), False),
    (voc_of_splits, "voc", ("train", "val"), False),
    (cvat_voc, "voc", ("train",), False),
    (official_coco, "coco", ("train", "val"), True),
    (roboflow_coco, "coco", ("train", "valid"), True),
    (one_json, "coco", ("train",), True),
    (one_json_of_another_machine, "coco", ("train",), True),
    (named_jsons, "coco", ("train", "val"), True),
    (cvat_coco, "coco", ("train",), True),
    (ultralytics, "yolo", ("train", "val"), False),
    (ultralytics_outlines, "yolo", ("train", "val"), True),
    (yolo_lists, "yolo", ("train", "val"), False),
    (roboflow_yolo, "yolo", ("train", "val"), False),
    (coco128, "yolo", ("train", "val"), False),
    (label_studio_yolo, "yolo", ("train",), False),
    (labelimg_yolo, "yolo", ("train",), False),
    (cvat_yolo, "yolo", ("train", "val"), False),
    (cvat_images, "cvat", ("train",), False),
    (cvat_subsets, "cvat", ("train", "val"), False),
    (labelme_beside, "labelme", ("train",), False),
    (labelme_outlines, "labelme", ("train", "dev"), True),
    (labelme_apart, "labelme", ("train",), False),
)
