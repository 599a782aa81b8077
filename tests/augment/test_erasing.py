from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.augment.erasing import box_size, draw_box, random_erase
from morphism.augment.geometric import rectangle

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "augment.npz")
KEY = jax.random.key(0)


def test_a_given_box_is_erased_as_by_torchvision():
    image = GOLDENS["picture/busy"]
    top, left, height, width = map(int, GOLDENS["erase/box"])
    box = rectangle((top, top + height), (left, left + width), *image.shape[:2])
    found = np.where(box[..., None], 0, image)
    assert np.array_equal(found, GOLDENS["erase/image"])


def test_boxes_are_distributed_as_torchvisions():
    """Quantiles of 20,000 boxes in an image of 22 x 30: top, left, height, width."""
    boxes = np.asarray(jax.vmap(lambda key: draw_box(key, 22, 30))(jax.random.split(KEY, 20_000)))
    none = (boxes[:, 2] == 0).mean()
    assert none == pytest.approx(GOLDENS["erase/none"], abs=0.002)
    quantiles = np.quantile(boxes[boxes[:, 2] > 0], np.linspace(0, 1, 21), axis=0)
    assert np.abs(quantiles - GOLDENS["erase/quantiles"])[1:-1].max() <= 1
    assert np.abs(quantiles - GOLDENS["erase/quantiles"]).mean() < 0.15
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= [22, 30]).all()


def test_a_box_has_its_share_of_the_area_and_its_ratio():
    height, width = box_size(jnp.array(0.2), jnp.array(2.0), 224, 224)
    assert (height, width) == (round((0.4 * 224**2) ** 0.5), round((0.1 * 224**2) ** 0.5))


def test_where_no_box_fits_the_image_stays_whole():
    image = jnp.ones((1, 400, 3))  # a box would have to be 0 high
    assert (jax.vmap(lambda key: draw_box(key, 1, 2)[2:])(jax.random.split(KEY, 200)) <= jnp.array([0, 1])).all()
    assert random_erase(KEY, image, 1.0).shape == image.shape


def test_images_are_erased_about_as_often_as_asked():
    erased = jax.vmap(lambda key: (random_erase(key, jnp.ones((24, 24, 1)), 0.25) == 0).any())
    assert erased(jax.random.split(KEY, 4000)).mean() == pytest.approx(0.25, abs=0.03)
