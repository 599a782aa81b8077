"""Masks of VOC's objects, from SegmentationObject."""

import numpy as np
import pytest
from detection import voc_xml, write_image
from masks import write_mask

from morphism.data import outlines, sources
from morphism.errors import UserError

SIZE = (40, 50)
BOXES = ((3, 3, 20, 22), (12, 10, 30, 30), (35, 5, 45, 12))  # x0, y0, x1, y1 in continuous pixels


def painted(order=(1, 2, 3), missing=()):
    """The map of numbers: object k has number order[k], and void along its edge; later ones cover earlier ones."""
    numbers = np.zeros(SIZE, np.uint8)
    for row, ((x0, y0, x1, y1), number) in enumerate(zip(BOXES, order, strict=True)):
        if row not in missing:
            numbers[y0:y1, x0:x1] = 255
            numbers[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = number
    return numbers


def write(root, numbers):
    objects = [("dog", (x0 + 1, y0 + 1, x1, y1), 0) for x0, y0, x1, y1 in BOXES]
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "SegmentationObject").mkdir(exist_ok=True)
    for name in numbers:
        write_image(root / "JPEGImages" / f"{name}.jpg", *SIZE)
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(objects))
        if numbers[name] is not None:
            write_mask(root / "SegmentationObject" / f"{name}.png", numbers[name], "P")
    (lists / "train.txt").write_text("\n".join(numbers))
    return root


def opened(root, masks=True):
    return sources.load(sources.within(f"voc:{root}", "", masks), "train")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (200, 7, 9)])
def test_each_box_has_the_mask_that_fits_it_whatever_its_number(tmp_path, order):
    source = opened(write(tmp_path, {"a": painted(order)}))
    assert dict(source.targets) == {"boxes": source.classes, "masks": source.classes} and source.oddities == ""
    np.testing.assert_array_equal(source.annotations(0).boxes, BOXES)
    for row, number in enumerate(order):
        expected = painted(order) == number
        np.testing.assert_array_equal(outlines.mask(source[0]["masks"][row], SIZE), expected)


def test_numbers_decide_where_a_mask_fits_another_box_better(tmp_path):
    numbers = np.zeros(SIZE, np.uint8)
    numbers[3:22, 3:20] = 1
    numbers[10:22, 12:20] = 2  # the only part of the second object that is seen: an IoU of .27, but .30 with the first
    numbers[5:12, 35:45] = 3
    source = opened(write(tmp_path, {"a": numbers}))
    for row in range(3):
        np.testing.assert_array_equal(outlines.mask(source.masks(0)[row], SIZE), numbers == row + 1)


def test_objects_without_a_mask_and_masks_without_an_object_are_counted(tmp_path):
    extra = painted(missing=(1,))
    extra[35:40, 0:5] = 9
    source = opened(write(tmp_path, {"a": extra, "b": None, "c": painted()}))
    assert [[len(mask) > 0 for mask in source.masks(index)] for index in range(3)] == [
        [True, False, True],
        [False] * 3,
        [True] * 3,
    ]
    folder = tmp_path / "SegmentationObject"
    for line in (
        f"1 images have no file of masks (these are unknown), first {folder / 'b.png'}",
        f"1 objects have no mask (it is unknown), first in {folder / 'a.png'}",
        f"1 masks have no object (dropped), first in {folder / 'a.png'}",
    ):
        assert line in source.oddities


def test_masks_are_read_only_if_they_are_wanted(tmp_path):
    root = write(tmp_path, {"a": painted()[:-1]})
    assert list(opened(root, masks=False).targets) == ["boxes"]
    with pytest.raises(UserError, match=r"SegmentationObject/a.png is 50 x 39, its annotations are for 50 x 40"):
        opened(root)
    (root / "SegmentationObject" / "a.png").unlink()
    (root / "SegmentationObject").rmdir()
    with pytest.raises(UserError, match="SegmentationObject: no such folder, so there are no masks; add it"):
        opened(root)
