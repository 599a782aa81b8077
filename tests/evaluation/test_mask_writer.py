import numpy as np
import pytest
from PIL import Image

from morphism.errors import UserError
from morphism.evaluation.masks import MaskWriter


def test_a_mask_never_replaces_an_image(tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (2, 2), "red").save(image)
    before = image.read_bytes()
    (tmp_path / "linked").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "linked"):
        with pytest.raises(UserError, match="a mask would replace the image .*a.png; name another folder"):
            MaskWriter(folder, [image])
    assert image.read_bytes() == before
    MaskWriter(tmp_path / "masks", [image]).write(0, np.eye(2, dtype=np.uint8))
    assert np.array_equal(Image.open(tmp_path / "masks" / "a.png"), np.eye(2))


def test_several_masks_of_an_image_have_files_of_their_own(tmp_path):
    writer = MaskWriter(tmp_path, [tmp_path / "a.jpg"], ("road", "lanes"))
    writer.write(0, np.eye(2, dtype=np.uint8), "lanes")
    assert [path.name for path in tmp_path.iterdir()] == ["a_lanes.png"]
    with pytest.raises(UserError, match="--masks: a_b is the name of two images"):
        MaskWriter(tmp_path, [tmp_path / "a_b.jpg", tmp_path / "a.jpg"], ("", "b"))
