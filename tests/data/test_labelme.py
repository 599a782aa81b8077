"""LabelMe's JSON: every kind of shape, and what is refused."""

import base64
import io
import json

import numpy as np
import pytest
from detection import write_image
from layouts import text
from PIL import Image

from morphism.data import outlines
from morphism.data.sources import labelme
from morphism.errors import UserError

SQUARE = [[1, 2], [5, 2], [5, 6], [1, 6]]


def shape(kind, points, label="cat", **more):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


def write(root, shapes, **more):
    write_image(root / "a.jpg", 20, 30)
    content = {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 20, "imageWidth": 30, "imageData": None}
    text(root / "a.json", json.dumps(content | more))
    return str(root)


def read(root, *shapes, **more):
    source = labelme.load(write(root, list(shapes), **more), "train", "", masks=True)
    masks = [outlines.mask(each, (20, 30)) if each else None for each in source.masks(0)]
    return source, source.annotations(0).boxes.round(4).tolist(), masks


def test_polygons_rectangles_and_circles_are_objects(tmp_path):
    circle = shape("circle", [[15, 10], [15, 4]], "dog")
    source, boxes, masks = read(tmp_path, shape("polygon", SQUARE), shape("rectangle", [[9, 8], [3, 2]]), circle)
    assert source.classes == ("cat", "dog") and source.annotations(0).classes.tolist() == [0, 0, 1]
    assert boxes == [[1, 2, 5, 6], [3, 2, 9, 8], [9, 4, 21, 16]]
    assert masks[0][2:6, 1:5].all() and masks[0].sum() == 16 and masks[1] is None
    assert abs(masks[2].sum() - np.pi * 36) < 6


def test_shapes_of_one_group_are_one_object(tmp_path):
    other = [[10, 10], [14, 10], [14, 12], [10, 12]]
    pair = [shape("polygon", each, group_id=3) for each in (SQUARE, other)]
    _, boxes, masks = read(tmp_path, *pair, shape("polygon", SQUARE, "dog", group_id=3))
    assert boxes == [[1, 2, 14, 12], [1, 2, 5, 6]] and masks[0].sum() == 16 + 8


def test_a_mask_is_a_png_within_its_box(tmp_path):
    inside = np.array([[255, 0, 255], [255, 255, 0]], np.uint8)
    file = io.BytesIO()
    Image.fromarray(inside).convert("1").save(file, "PNG")
    encoded = base64.b64encode(file.getvalue()).decode()
    _, boxes, masks = read(tmp_path, shape("mask", [[7, 5], [9, 6]], mask=encoded))
    assert boxes == [[7, 5, 10, 7]] and (masks[0][5:7, 7:10] == (inside > 0)).all() and masks[0].sum() == 4


def test_what_is_no_object_is_counted(tmp_path):
    lines = [shape("line", [[1, 2], [3, 4]]), shape("line", [[1, 2], [3, 4]]), shape("polygon", SQUARE, "__ignore__")]
    source, boxes, _ = read(tmp_path, shape("polygon", SQUARE), *lines)
    assert boxes == [[1, 2, 5, 6]] and source.classes == ("cat",)
    assert "2 lines (no objects, left out), first in" in source.oddities
    assert "1 shapes labelled __ignore__ (no objects" in source.oddities


def test_without_a_stated_size_it_is_the_images(tmp_path):
    source, _, _ = read(tmp_path, shape("polygon", SQUARE), imageHeight=None, imageWidth=None)
    assert source.sizes.tolist() == [[20, 30]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [shape("polygon", SQUARE[:2])],
            r"shape 0 is a polygon with the points \[\[1, 2\], \[5, 2\]\]; mend or remove",
        ),
        ([shape("polygon", [["x", 2]] * 3)], "shape 0 is a polygon with the points"),
        ([shape("polygon", SQUARE, "")], "shape 0 has no label; write one"),
        ([shape("mask", [[1, 2], [3, 4]], mask="AAAA")], "a mask of cat cannot be decoded"),
    ],
)
def test_broken_shapes_are_named(tmp_path, content, message):
    with pytest.raises(UserError, match=f"a.json: .*{message}"):
        labelme.load(write(tmp_path, content), "train", "")


def test_other_json_files_are_no_records(tmp_path):
    write(tmp_path, [shape("polygon", SQUARE)])
    text(tmp_path / "settings.json", '{"a": 1}')
    assert len(labelme.load(str(tmp_path), "train", "")) == 1
