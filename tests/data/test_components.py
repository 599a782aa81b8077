import pickle

import numpy as np
import pytest
from detection import write_image
from masks import write_mask
from scipy import ndimage

from morphism.data import outlines, sources
from morphism.errors import UserError

SIZE = (40, 60)


def classes(seed):
    return (ndimage.zoom(np.random.default_rng(seed).random((10, 15)), 4, order=1) * 3.999).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate("ab"):
        write_image(tmp_path / "images" / "train" / f"{name}.jpg", *SIZE)
        write_mask(tmp_path / "masks" / "train" / f"{name}.png", classes(seed))
    (tmp_path / "classes.txt").write_text("road\ncar\nsign\nsky\n")
    return tmp_path


def opened(argument):
    return sources.load(sources.within(f"components:{argument}", ""), "train")


def filled(pixels, start):
    """The pixels that can be reached from `start` within pixels of its class, by steps to all eight neighbours."""
    reached, front = set(), [start]
    while front:
        at = front.pop()
        if at not in reached and 0 <= at[0] < SIZE[0] and 0 <= at[1] < SIZE[1] and pixels[at] == pixels[start]:
            reached.add(at)
            front += [(at[0] + y, at[1] + x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return reached


@pytest.mark.parametrize("least", [1, 30])
def test_objects_are_the_connected_parts_of_each_class(root, least):
    source = opened(f"sign,car:{least}:masks:{root}")
    assert dict(source.targets) == {
        "boxes": ("sign", "car"),
        "masks": ("sign", "car"),
        "segmentation": ("road", "car", "sign", "sky"),
    }
    small = 0
    for index, held in ((0, source), (1, pickle.loads(pickle.dumps(source)))):
        pixels = classes(index)
        expected, seen = {}, set()
        for start in map(tuple, np.argwhere(np.isin(pixels, (1, 2))).tolist()):
            if start not in seen:
                part = frozenset(filled(pixels, start))
                expected[part] = {2: 0, 1: 1}[pixels[start]]
                seen |= part
        small += sum(len(part) < least for part in expected)
        expected = {part: label for part, label in expected.items() if len(part) >= least}
        record = held[index]
        objects, found = record["annotations"], {}
        for row, label in enumerate(objects.classes.tolist()):
            y, x = np.nonzero(outlines.mask(record["masks"][row], SIZE))
            found[frozenset(zip(y.tolist(), x.tolist(), strict=True))] = label
            assert objects.boxes[row].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert objects.area[row] == len(y)
        assert found == expected and len(found) == len(objects)
        np.testing.assert_array_equal(record["segmentation"], pixels)
        np.testing.assert_array_equal(held.segmentation(index), pixels)
    counted = f"{small:,} components of fewer than {least:,} pixels (these are not objects)"
    assert (counted in source.oddities) == (small > 0)
    assert source.files.tolist() == [b"images/train/a.jpg", b"images/train/b.jpg"]


def test_what_cannot_be_made_objects_is_refused(root, tmp_path):
    for argument, reason in (
        (f"car:0:masks:{root}", "config.data.source is 'components:car:0:masks:.*; write components:car,sign:100"),
        (f"car,car:9:masks:{root}", "config.data.source is 'components:car,car:9"),
        (f"masks:{root}", "config.data.source is 'components:masks"),
        (f"cars:9:masks:{root}", "the class is 'cars', which is none of car, road, sign, sky; did you mean car?"),
        ("car:9:embedded", "embedded has no masks of classes, but label"),
    ):
        with pytest.raises(UserError, match=reason):
            opened(argument)
