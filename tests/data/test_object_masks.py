import numpy as np
import pytest
from detection import write_image
from PIL import Image

from morphism.data import outlines, sources
from morphism.errors import UserError, noting

SIZE = (20, 30)


def discs():
    """Two objects, which overlap, and a mask without a pixel."""
    found = np.zeros((3, *SIZE), np.uint8)
    found[0, 2:10, 3:12] = 255
    found[1, 6:15, 8:20] = 255
    return found


def write(root, name="n1", masks=None):
    write_image(root / name / "images" / f"{name}.png", *SIZE)
    (root / name / "masks").mkdir()
    for number, mask in enumerate(discs() if masks is None else masks):
        Image.fromarray(mask).save(root / name / "masks" / f"{number}.png")


def opened(root, split="train"):
    return sources.load(sources.within(f"object_masks:{root}", ""), split)


def test_each_file_is_an_object_with_all_its_pixels(tmp_path):
    write(tmp_path)
    write_image(tmp_path / "n2" / "images" / "n2.png", 9, 11)
    source = opened(tmp_path)
    assert dict(source.targets) == {"boxes": ("object",), "masks": ("object",)}
    assert source.image_ids.tolist() == ["n1", "n2"] and source.sizes.tolist() == [[20, 30], [9, 11]]
    record = source[0]
    assert record["annotations"].boxes.tolist() == [[3, 2, 12, 10], [8, 6, 20, 15]]
    for row in (0, 1):
        np.testing.assert_array_equal(outlines.mask(record["masks"][row], SIZE), discs()[row] > 0)
        assert record["annotations"].area[row] == (discs()[row] > 0).sum()
    assert len(source[1]["annotations"]) == len(source[1]["masks"]) == 0
    assert source.oddities == f"odd boxes: 1 masks without a pixel (dropped), first in {tmp_path / 'n1' / 'masks'}"


def test_splits_are_folders_and_masks_may_be_of_any_lossless_mode(tmp_path):
    inside = discs()[0] > 0
    modes = [inside, inside.astype(np.uint8), inside.astype(np.uint16) * 3000, np.stack([inside * np.uint8(9)] * 3, -1)]
    write(tmp_path / "train", masks=modes)
    write(tmp_path / "val", "n3")
    assert sources.splits(sources.within(f"object_masks:{tmp_path}", "")) == ("train", "val")
    assert opened(tmp_path, "val").image_ids.tolist() == ["n3"]
    found = opened(tmp_path).masks(0)
    assert len(found) == 4 and all(found[row] == found[0] for row in range(4))


def test_masks_of_another_size_and_missing_images_are_named(tmp_path):
    write(tmp_path, masks=discs()[:1, :-1])
    write(tmp_path, "n2")
    with pytest.raises(UserError, match=r"n1/masks/0.png: is 30 x 19, its image is 30 x 20: masks must have their"):
        opened(tmp_path)
    with noting() as notes:
        source = opened(tmp_path)
    assert len(notes) == 1 and source.box_counts[:, 0].tolist() == [0, 2]
    (tmp_path / "n1" / "images" / "n1.png").unlink()
    with pytest.raises(UserError, match=r"n1/images: holds 0 images, not one"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"no images; expected \S+/<name>/images/<name>.png next to masks/"):
        opened(tmp_path / "n2" / "masks")
