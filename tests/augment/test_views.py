from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from morphism.augment.views import view

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "views.npz")


@pytest.mark.parametrize("case", GOLDENS)
def test_ten_crops_lie_where_torchvisions_do(case):
    square, size = map(int, case.split("/"))
    numbered = jnp.arange(float(square**2)).reshape(1, square, square, 1)
    found = view(jnp.concatenate([numbered, -numbered]), "ten_crop", size)
    assert found.shape == (10, 2, size, size, 1)
    np.testing.assert_array_equal(found[:, 0, :, :, 0], GOLDENS[case])
    np.testing.assert_array_equal(found[:, 1], -found[:, 0])


def test_flip_is_the_image_and_its_mirror_image():
    images = jnp.arange(12.0).reshape(1, 2, 2, 3)
    found = view(images, "flip", 2)
    np.testing.assert_array_equal(found[0], images)
    np.testing.assert_array_equal(found[1][0, :, 0], images[0, :, 1])
    assert found.shape == (2, 1, 2, 2, 3)
