"""Small datasets with boxes, in the formats that are read."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def write_image(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)).save(path)


def voc_xml(objects, size=(40, 50), more="") -> str:
    """objects: (name, (xmin, ymin, xmax, ymax), difficult)."""
    text = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>{more}"
    for name, corners, difficult in objects:
        box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(CORNERS, corners, strict=True))
        text += f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
    return f"<annotation>{text}</annotation>"


def write_voc(root: Path) -> Path:
    objects = {
        "a": [("dog", (1, 1, 50, 40), 0), ("cat", (11, 6, 20, 15), 1)],
        "b": [],
        "c": [("person", (2.5, 3, 9, 9.5), 0)],
    }
    for name, held in objects.items():
        write_image(root / "JPEGImages" / f"{name}.jpg", 40, 50)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(held))
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\n")
    (lists / "val.txt").write_text("c  1\n\n")
    return root


def coco() -> dict:
    """Two images, one of them without boxes; categories out of order, with a hole."""
    return {
        "images": [
            {"id": 42, "file_name": "x.jpg", "height": 40, "width": 50},
            {"id": 7, "file_name": "y.jpg", "height": 30, "width": 20},
            {"id": 8, "file_name": "z.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3.5, 4], "area": 9.5, "iscrowd": 0},
            {"id": 2, "image_id": 42, "category_id": 90, "bbox": [0, 0, 50, 40], "area": 1200, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 90, "bbox": [5, 5, 5, 5]},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car", "supercategory": "vehicle"}],
    }


def write_coco(root: Path, content=None, split="train") -> Path:
    for name, size in (("x", (40, 50)), ("y", (30, 20)), ("z", (12, 34))):
        write_image(root / f"{split}2017" / f"{name}.jpg", *size)
    (root / "annotations").mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content or coco())
    (root / "annotations" / f"instances_{split}2017.json").write_text(text)
    return root


def write_yolo(root: Path) -> Path:
    write_image(root / "images" / "train" / "a.jpg", 40, 50)
    write_image(root / "images" / "train" / "b.png", 40, 50)
    write_image(root / "images" / "val" / "c.jpg", 20, 80)
    for split in ("train", "val"):
        (root / "labels" / split).mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 1 1\n\n0 0.3 0.25 0.2 0.1\n")
    (root / "labels" / "val" / "c.txt").write_text("0 .5 .5 .5 .5\n")
    (root / "classes.txt").write_text("cat\n犬\n")
    return root
