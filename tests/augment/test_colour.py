import colorsys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.augment import colour
from morphism.augment.colour import (
    ADJUSTMENTS,
    add_components,
    additive_distortion,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_in_order,
    adjust_saturation,
    colour_jitter,
    distort,
    distort_additively,
    draw_distortion,
    lighting,
)

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "augment.npz")
PART = np.s_[4:18, 4:20]


@pytest.mark.parametrize("golden", [name for name in GOLDENS.files if name.startswith("colour/")])
def test_each_adjustment_is_torchvisions_for_float(golden):
    _, picture, name, factor = golden.split("/")
    image = GOLDENS[f"picture/{picture}"][PART].astype(np.float32)
    found = getattr(colour, f"adjust_{name}")(jnp.array(image), float(factor))
    np.testing.assert_allclose(found / 255, GOLDENS[golden], atol=3e-6)


@pytest.mark.parametrize("golden", [name for name in GOLDENS.files if name.startswith("jitter/")])
def test_jitter_in_a_given_order_is_torchvisions(golden):
    image = GOLDENS["picture/busy"][PART].astype(np.float32)
    order = jnp.array([int(index) for index in golden.removeprefix("jitter/")])
    found = jax.jit(lambda *x: adjust_in_order(x[0], ADJUSTMENTS, *x[1:]))(
        image, jnp.array([1.3, 0.7, 1.2, 0.07]), order
    )
    np.testing.assert_allclose(found / 255, GOLDENS[golden], atol=1e-5)


def test_jitter_draws_factors_evenly_between_their_bounds():
    image = jnp.full((1, 1, 3), 50.0)
    draws = jax.vmap(lambda key: colour_jitter(key, image, (0.4, 0.0, 0.0, 0.0))[0, 0, 0] / 50)
    factors = np.sort(draws(jax.random.split(jax.random.key(0), 4000)))
    np.testing.assert_allclose(factors, np.linspace(0.6, 1.4, 4000), atol=0.02)
    beyond = jax.vmap(lambda key: colour_jitter(key, image, (3.0, 0.0, 0.0, 0.0))[0, 0, 0] / 50)
    assert beyond(jax.random.split(jax.random.key(0), 4000)).min() >= 0


def test_jitter_takes_every_order():
    """Brightness cut off at white, then contrast about a mean: what is left tells which came first."""
    image = jnp.array([[[200.0] * 3, [20.0] * 3]])
    keys = jax.random.split(jax.random.key(0), 60)

    def both(key):
        return colour_jitter(key, image, (0.9, 0.9, 0.0, 0.0))

    found = np.asarray(jax.vmap(both)(keys))
    in_order = jax.jit(lambda *x: adjust_in_order(image, ADJUSTMENTS, *x))
    count = {0: 0, 1: 0}
    for key, each in zip(keys, found, strict=True):
        factor_key = jax.random.split(key)[1]
        factors = jax.random.uniform(
            factor_key, (4,), minval=jnp.array([0.1, 0.1, 1, 0]), maxval=jnp.array([1.9, 1.9, 1, 0])
        )
        results = [in_order(factors, jnp.array(order)) for order in ((0, 1), (1, 0))]
        matches = [np.allclose(each, result, atol=1e-3) for result in results]
        assert any(matches)
        if not all(matches):
            count[matches.index(True)] += 1
    assert min(count.values()) > 4


def test_lighting_adds_eigenvectors_by_their_eigenvalues():
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-3)  # as printed, to four places
    weights = np.array([0.1, -0.2, 0.05])
    image = np.random.default_rng(0).uniform(0, 255, (4, 5, 3)).astype(np.float32)
    added = sum(weights[k] * value * vectors[:, k] for k, value in enumerate((0.2175, 0.0188, 0.0045)))
    np.testing.assert_allclose(
        add_components(jnp.array(image), jnp.array(weights)) / 255, image / 255 + added, atol=1e-6
    )


def test_lighting_has_the_covariance_of_its_components():
    image = jnp.zeros((1, 1, 3))
    colours = jax.vmap(lambda key: lighting(key, image, 0.1)[0, 0])(jax.random.split(jax.random.key(0), 20_000)) / 255
    vectors, values = np.array(colour.EIGENVECTORS), np.array(colour.EIGENVALUES)
    expected = 0.01 * vectors @ np.diag(values**2) @ vectors.T
    np.testing.assert_allclose(np.cov(np.asarray(colours).T), expected, atol=0.03 * expected.max())


def test_ssds_distortion_is_its_steps_in_order():
    image = jax.random.uniform(jax.random.key(0), (7, 9, 3), maxval=255.0)
    factors, channels = jnp.array([1.1, 0.6, 1.4, -0.04]), jnp.array([2, 0, 1])
    brighter = adjust_brightness(image, factors[0])
    first = adjust_hue(adjust_saturation(adjust_contrast(brighter, factors[1]), factors[2]), factors[3])
    last = adjust_contrast(adjust_hue(adjust_saturation(brighter, factors[2]), factors[3]), factors[1])
    assert not np.allclose(first, last, atol=1)
    for contrast_first, expected in ((True, first), (False, last)):
        found = distort(image, factors, jnp.array(contrast_first), channels)
        np.testing.assert_allclose(found, expected[..., channels], atol=1e-2)
    nothing = distort(image, jnp.array([1.0, 1.0, 1.0, 0.0]), jnp.array(True), jnp.arange(3))
    np.testing.assert_allclose(nothing, image, atol=1e-2)


def test_ssds_distortion_leaves_the_ground_around_an_image_as_it_is():
    """The part inside changes as the image alone does."""
    image = jax.random.uniform(jax.random.key(0), (5, 6, 3), maxval=255.0)
    ground = jnp.full((9, 8, 3), 117.0).at[2:7, 1:7].set(image)
    inside = jnp.zeros((9, 8), bool).at[2:7, 1:7].set(True)
    changes = jnp.array([1.1, 0.6, 1.4, -0.04]), jnp.array(True), jnp.array([2, 0, 1])
    found = distort(ground, *changes, inside)
    np.testing.assert_allclose(found[2:7, 1:7], distort(image, *changes), atol=1e-3)
    assert (found[~inside] == 117).all()


@pytest.mark.parametrize("contrast_first", [True, False])
def test_mmsegmentations_distortion_is_its_steps_in_order(contrast_first):
    """By Python's own HSV, pixel by pixel."""
    image = np.random.default_rng(0).uniform(0, 255, (4, 5, 3))
    brightness, contrast, saturation, shift = 20.0, 0.7, 1.3, -11
    expected = np.clip(image + brightness, 0, 255)
    expected = np.clip(expected * (contrast if contrast_first else 1), 0, 255)
    for pixel in expected.reshape(-1, 3):
        hue, strength, value = colorsys.rgb_to_hsv(*pixel / 255)
        pixel[:] = 255 * np.array(colorsys.hsv_to_rgb((hue + shift / 180) % 1, min(strength * saturation, 1), value))
    expected = np.clip(expected * (1 if contrast_first else contrast), 0, 255)
    found = distort_additively(jnp.array(image), brightness, contrast, saturation, shift, jnp.array(contrast_first))
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_mmsegmentations_distortion_swaps_no_channels_and_stays_in_its_range():
    """Of a grey image only brightness and contrast change anything; of two greys they tell what was drawn."""
    image = jnp.broadcast_to(jnp.array([40.0, 80.0])[None, :, None], (1, 2, 3))
    found = jax.vmap(additive_distortion, (0, None))(jax.random.split(jax.random.key(0), 2000), image)
    assert np.ptp(found, axis=-1).max() < 1e-3  # grey stays grey
    contrast = (found[:, 0, 1, 0] - found[:, 0, 0, 0]) / 40
    brightness = found[:, 0, 0, 0] / contrast - 40
    for values, nothing, low, high in ((contrast, 1, 0.5, 1.5), (brightness, 0, -32, 32)):
        changed = np.abs(values - nothing) > 1e-3
        assert abs(changed.mean() - 0.5) < 0.05
        assert low - 1e-2 < values.min() < low + 0.02 * (high - low)
        assert high + 1e-2 > values.max() > high - 0.02 * (high - low)


def test_ssds_distortion_changes_each_thing_half_of_the_time_and_within_its_range():
    keys = jax.random.split(jax.random.key(0), 2000)
    factors, contrast_first, channels = jax.vmap(draw_distortion)(keys)
    changed = factors != jnp.array([1.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(jnp.mean(changed, axis=0), 0.5, atol=0.05)
    np.testing.assert_allclose(jnp.mean(contrast_first), 0.5, atol=0.05)
    np.testing.assert_allclose(jnp.mean(jnp.any(channels != jnp.arange(3), axis=1)), 0.5 * 5 / 6, atol=0.05)
    for column, low, high in zip(factors.T, (0.875, 0.5, 0.5, -0.05), (1.125, 1.5, 1.5, 0.05), strict=True):
        assert low <= column.min() < low + 0.02 * (high - low) and high >= column.max() > high - 0.02 * (high - low)
