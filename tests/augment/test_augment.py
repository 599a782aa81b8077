from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.augment import augment, normalise
from morphism.augment.geometric import flip_left_right, random_crop, rectangle
from morphism.augment.mixing import blend_pairs, cutmix_weights, mix, mixup_weights
from morphism.experiments.base import get_base

KEY = jax.random.key(0)
GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "augment.npz")
EVERYTHING = {
    **{"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "lighting": 0.1},
    **{"auto": "trivialaugment", "erase_probability": 0.5},
}


def make_batch(ids, size=8):
    ids = np.asarray(ids, np.int32)
    images = np.stack([np.random.default_rng(int(i)).integers(0, 256, (size, size, 3), np.uint8) for i in ids])
    return {"image": images, "id": ids, "draw": np.zeros_like(ids), "label": (ids % 5).astype(np.int32)}


def settings(**changes):
    config = get_base().augment
    config.update(crop_padding=2, **changes)
    return config


def test_normalise_is_torchvisions_to_tensor_and_normalize():
    image = np.array([[[[0, 128, 255]]]], np.uint8)
    found = normalise(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"auto": "randaugment"}])
def test_an_example_is_augmented_the_same_way_wherever_it_stands(changes):
    config = settings(**changes)
    run = jax.jit(lambda batch: augment(KEY, batch, config, 5)["image"])
    one, other = run(make_batch([3, 9, 4, 7])), run(make_batch([7, 3]))
    np.testing.assert_allclose(one[0], other[1], atol=1e-5)
    np.testing.assert_allclose(one[3], other[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_pair_is_mixed_as_by_torchvision(kind):
    images = np.stack([GOLDENS[f"picture/{name}"] / np.float32(255) for name in ("busy", "flat")])
    height, width = images.shape[1:3]
    x0, y0, x1, y1 = map(int, GOLDENS["cutmix/box"])
    weights = 1.0 - rectangle((y0, y1), (x0, x1), height, width) if kind == "cutmix" else jnp.full((height, width), 0.3)
    mixed = blend_pairs({"image": images, "label": jnp.array([2, 0])}, weights[None], 4)
    np.testing.assert_allclose(mixed["image"], GOLDENS[f"{kind}/images"], atol=3e-6)
    np.testing.assert_allclose(mixed["label"], GOLDENS[f"{kind}/labels"], atol=3e-6)


def test_what_is_switched_on_later_leaves_the_other_draws_as_they_are():
    """Keys are by purpose: crop and flip of an example do not change when erasing is added."""
    plain = np.asarray(augment(KEY, make_batch(range(8)), settings(), 5)["image"])
    erased = np.asarray(augment(KEY, make_batch(range(8)), settings(erase_probability=1.0), 5)["image"])
    assert ((erased == plain) | (erased == 0)).all()
    assert (erased != plain).any(axis=(1, 2, 3)).sum() >= 6


def test_an_example_is_augmented_differently_in_every_draw():
    batch = make_batch([5] * 64)
    batch["draw"] = np.arange(64, dtype=np.int32)
    images = jax.jit(lambda batch: augment(KEY, batch, settings(), 5)["image"])(batch)
    assert len({np.asarray(image).tobytes() for image in images}) > 30  # of 25 crops x 2 flips


def test_flip_turns_columns_round_about_as_often_as_asked():
    image = jnp.arange(12.0).reshape(2, 3, 2)
    flipped = np.asarray(jax.jit(jax.vmap(lambda key: flip_left_right(key, image, 0.25)))(jax.random.split(KEY, 4000)))
    is_flipped = np.all(flipped == image[:, ::-1], axis=(1, 2, 3))
    assert np.all(is_flipped | np.all(flipped == image, axis=(1, 2, 3)))
    assert is_flipped.mean() == pytest.approx(0.25, abs=0.03)


def test_random_crop_reaches_every_offset_and_pads_with_black():
    image = jnp.arange(1.0, 26).reshape(5, 5, 1)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[y : y + 5, x : x + 5].tobytes(): (y, x) for y in range(5) for x in range(5)}
    crops = jax.jit(jax.vmap(lambda key: random_crop(key, image, 2)))(jax.random.split(KEY, 1000))
    found = {windows[crop.tobytes()] for crop in np.asarray(crops)}
    assert len(found) == 25


def mixer(*alphas_and_classes):
    """Of a key and a batch."""
    return jax.jit(lambda key, batch: mix(jax.random.split(key, len(batch["label"])), batch, *alphas_and_classes))


def test_mixup_blends_neighbours_and_their_labels_by_one_weight():
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    batch = make_batch([10, 11, 12, 13]) | {"image": images}
    mixed = mixer(0.4, 0.0, 5)(KEY, batch)
    for i, j in ((0, 1), (1, 0), (2, 3), (3, 2)):
        own = mixed["label"][i, batch["label"][i]]
        np.testing.assert_allclose(
            mixed["image"][i], own * batch["image"][i] + (1 - own) * batch["image"][j], atol=1e-6
        )
        np.testing.assert_allclose(mixed["label"][i].sum(), 1, rtol=1e-6)


def test_cutmix_pastes_a_box_and_weights_labels_by_its_area():
    images = np.stack([np.full((16, 12, 3), i, np.float32) for i in range(2)])
    batch, mixed_by = {"image": images, "label": np.array([0, 1])}, mixer(0.0, 1.0, 2)
    for seed in range(20):
        mixed = jax.tree.map(np.asarray, mixed_by(jax.random.key(seed), batch))
        assert set(np.unique(mixed["image"])) <= {0.0, 1.0}
        np.testing.assert_allclose(mixed["label"][0, 1], mixed["image"][0, :, :, 0].mean(), rtol=1e-5, atol=1e-7)


def test_cutmix_box_is_a_rectangle_of_the_drawn_share_of_the_area():
    def drawn(seed):
        key = jax.random.key(seed)
        return cutmix_weights(key, 1.0, 64, 48), jax.random.beta(jax.random.split(key, 3)[0], 1.0, 1.0)

    shares = []
    for weights, kept in zip(*map(np.asarray, jax.jit(jax.vmap(drawn))(np.arange(200))), strict=True):
        rows, columns = np.flatnonzero((weights == 0).any(1)), np.flatnonzero((weights == 0).any(0))
        assert (weights == 0).sum() == len(rows) * len(columns)
        assert len(rows) <= 64 * np.sqrt(1 - kept) + 1e-3
        shares.append((weights == 0).mean())
    assert 0.15 < np.mean(shares) < 0.45


def test_mixup_weight_follows_the_beta_distribution():
    weights = jax.jit(jax.vmap(lambda key: mixup_weights(key, 0.2, 1, 1)[0, 0]))(jax.random.split(KEY, 20_000))
    weights = np.asarray(weights, np.float64)
    assert weights.mean() == pytest.approx(0.5, abs=0.01)
    assert weights.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.005)


def test_with_both_alphas_each_pair_is_mixed_by_one_of_the_two():
    batch = {
        "image": np.tile(np.array([0, 1], np.float32)[:, None, None, None], (200, 8, 8, 1)),
        "label": np.zeros(400, int),
    }
    image = np.asarray(mixer(1.0, 1.0, 2)(KEY, batch)["image"])[::2, :, :, 0]
    constant = np.array([len(np.unique(each)) == 1 and 0 < each[0, 0] < 1 for each in image])
    assert constant.mean() == pytest.approx(0.5, abs=0.12)
