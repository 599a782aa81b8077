import pickle

import numpy as np
import pytest
from detection import write_image
from PIL import Image

from morphism.data import outlines, sources
from morphism.data.sources.cityscapes import CLASSES, THINGS
from morphism.errors import UserError

SIZE = (32, 64)


def instance_ids():
    """Road (7), sky (23), ego vehicle (1, not evaluated), two cars, a crowd of persons, a caravan (not evaluated)."""
    ids = np.full(SIZE, 7, np.uint16)
    ids[:10] = 23
    ids[28:] = 1
    ids[8:20, 4:20] = 26_001
    ids[12:24, 16:30] = 26_000  # in front of the other car
    ids[10:20, 40:50] = 24
    ids[10:14, 54:60] = 29_000
    return ids


def write(root, maps=None):
    maps = maps or {"aachen_0": instance_ids(), "bochum_0": np.full(SIZE, 7, np.uint16)}
    for name, ids in maps.items():
        city = name.partition("_")[0]
        write_image(root / "leftImg8bit" / "train" / city / f"{name}_leftImg8bit.png", *SIZE)
        path = root / "gtFine" / "train" / city / f"{name}_gtFine_instanceIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(path)
    return root


def opened(root):
    return sources.load(sources.within(f"cityscapes:{root}", ""), "train")


def test_instances_have_boxes_and_masks_and_groups_are_crowds(tmp_path):
    source, ids = opened(write(tmp_path)), instance_ids()
    assert dict(source.targets) == {"boxes": THINGS, "masks": THINGS, "segmentation": CLASSES}
    assert source.image_ids.tolist() == ["aachen_0", "bochum_0"] and source.category_ids[:3] == (24, 25, 26)
    assert source.box_counts.tolist() == [[3, 3, 2], [0, 0, 0]]
    for held in (source, pickle.loads(pickle.dumps(source))):
        record = held[0]
        objects = record["annotations"]
        assert [THINGS[k] for k in objects.classes] == ["person", "car", "car"]
        assert objects.crowd.tolist() == [True, False, False]
        assert objects.boxes.tolist() == [[40, 10, 50, 20], [16, 12, 30, 24], [4, 8, 20, 20]]
        for row, number in enumerate((24, 26_000, 26_001)):
            np.testing.assert_array_equal(outlines.mask(record["masks"][row], SIZE), ids == number)
            assert objects.area[row] == (ids == number).sum()
        assert held.masks(0).counts == record["masks"].counts


def test_pixels_have_the_classes_that_are_evaluated(tmp_path):
    source, ids = opened(write(tmp_path)), instance_ids()
    expected = np.full(SIZE, 255)
    for number, name in ((7, "road"), (23, "sky"), (24, "person")):
        expected[ids == number] = CLASSES.index(name)
    expected[ids >= 26_000] = CLASSES.index("car")
    expected[ids == 29_000] = 255
    np.testing.assert_array_equal(source[0]["segmentation"], expected)
    np.testing.assert_array_equal(source.segmentation(0), expected)


def test_broken_data_is_refused_with_its_place(tmp_path):
    root = write(tmp_path, maps={"aachen_0": np.where(instance_ids() == 26_001, 34_001, 7).astype(np.uint16)})
    with pytest.raises(UserError, match=r"aachen_0_gtFine_instanceIds.png: holds the id 34001, which is of no class"):
        opened(root)
    root = write(tmp_path, maps={"aachen_0": instance_ids()[:-1]})
    with pytest.raises(UserError, match=r"aachen_0_gtFine_instanceIds.png is 64 x 31, its annotations are for 64 x 32"):
        opened(root)
    write(tmp_path)
    (root / "gtFine/train/bochum/bochum_0_gtFine_instanceIds.png").unlink()
    with pytest.raises(UserError, match=r"bochum_0_leftImg8bit.png: no map of ids \S+; add it, or remove the image"):
        opened(root)
    with pytest.raises(UserError, match=r"no leftImg8bit/train next to gtFine/train; unpack"):
        opened(tmp_path / "gtFine")
