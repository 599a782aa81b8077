"""CVAT's XML: every kind of shape, and what is refused."""

import numpy as np
import pytest
from detection import write_image
from layouts import text

from morphism.data import outlines
from morphism.data.sources import cvat
from morphism.errors import UserError

BOX = '<box label="cat" xtl="2" ytl="3" xbr="12" ybr="8"></box>'
META = "<meta><job><labels><label><name>cat</name></label><label><name>dog</name></label></labels></job></meta>"


def write(root, shapes, meta=META):
    write_image(root / "images" / "a.jpg", 20, 30)
    held = f'<image id="0" name="a.jpg" width="30" height="20">{shapes}</image>'
    text(root / "annotations.xml", f"<annotations>{meta}{held}</annotations>")
    return str(root)


def read(root, shapes):
    source = cvat.load(write(root, shapes), "train", "", masks=True)
    masks = [outlines.mask(each, (20, 30)) if each else None for each in source.masks(0)]
    return source, source.annotations(0).boxes.round(4).tolist(), masks


def test_polygons_and_boxes_keep_their_labels_order(tmp_path):
    polygon = '<polygon label="dog" points="1.0,2.0;5.0,2.0;5.0,6.0;1.0,6.0"></polygon>'
    source, boxes, masks = read(tmp_path, polygon + BOX)
    assert source.classes == ("cat", "dog") and source.annotations(0).classes.tolist() == [1, 0]
    assert boxes == [[1, 2, 5, 6], [2, 3, 12, 8]]
    expected = np.zeros((20, 30), np.uint8)
    expected[2:6, 1:5] = 1
    assert (masks[0] == expected).all() and masks[1] is None
    assert source.annotations(0).area.tolist() == [16, 50]
    assert list(cvat.load(str(tmp_path), "train", "").targets) == ["boxes"]  # where masks are not wanted


def test_run_lengths_are_rows_of_their_box(tmp_path):
    inside = np.array([[0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]])
    shape = '<mask label="cat" rle="2,4,1,1,4" left="7" top="5" width="4" height="3"></mask>'
    _, boxes, masks = read(tmp_path, shape)
    expected = np.zeros((20, 30), np.uint8)
    expected[5:8, 7:11] = inside
    assert (masks[0] == expected).all() and boxes == [[7, 5, 11, 7]]


def test_a_turned_box_is_the_box_around_its_corners(tmp_path):
    shape = '<box label="cat" xtl="10" ytl="8" xbr="20" ybr="12" rotation="90.0"></box>'
    _, boxes, masks = read(tmp_path, shape)
    assert boxes == [[13, 5, 17, 15]] and masks[0][5:15, 13:17].all() and masks[0].sum() == 40


def test_rotation_is_clockwise(tmp_path):
    """A flat box turned by a little has its right end lower."""
    _, _, masks = read(tmp_path, '<box label="cat" xtl="5" ytl="9" xbr="25" ybr="11" rotation="20"></box>')
    rows, columns = np.nonzero(masks[0])
    assert rows[columns > 20].mean() > rows[columns < 10].mean() + 3


def test_ellipses_touch_their_box(tmp_path):
    _, boxes, masks = read(tmp_path, '<ellipse label="cat" cx="15" cy="10" rx="8" ry="4"></ellipse>')
    assert boxes == [[7, 6, 23, 14]]
    assert abs(masks[0].sum() - np.pi * 8 * 4) < 6


def test_what_is_no_object_is_counted(tmp_path):
    others = (
        '<points label="cat" points="1,2"></points><tag label="dog"></tag><points label="cat" points="3,4"></points>'
    )
    source, boxes, _ = read(tmp_path, BOX + others)
    assert boxes == [[2, 3, 12, 8]]
    assert "2 <points> (no objects, left out), first in" in source.oddities and "1 <tag> (no" in source.oddities


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (BOX.replace('"2"', '"two"'), "image 'a.jpg': xtl of a <box> is 'two', no finite number; mend it"),
        (BOX.replace("cat", ""), "a <box> has no label"),
        ('<polygon label="cat" points="1,2;3,4"></polygon>', "the points of a <polygon> are '1,2;3,4', not"),
        ('<mask label="cat" rle="1,2" left="0" top="0" width="2" height="2"></mask>', "add up to 2 x 2"),
        ("<box", "not XML"),
    ],
)
def test_broken_shapes_are_named(tmp_path, shapes, message):
    with pytest.raises(UserError, match=f"annotations.xml: .*{message}"):
        cvat.load(write(tmp_path, shapes), "train", "")


def test_videos_are_refused_with_the_export_to_choose(tmp_path):
    text(tmp_path / "annotations.xml", f'<annotations>{META}<track id="0" label="cat"></track></annotations>')
    with pytest.raises(UserError, match="has tracks of a video; export the task as 'CVAT for images 1.1'"):
        cvat.splits(str(tmp_path), "")
