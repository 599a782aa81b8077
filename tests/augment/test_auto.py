from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from morphism.augment import auto
from morphism.augment.auto import OPERATIONS, SIGNED, SPACES, Operation, apply, bins, draw_operation, tabulate
from morphism.ops.platform import as_tpu

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "augment.npz")
CHANGED = [name for name in GOLDENS.files if name.split("/")[0] in SPACES and "/bins/" not in name]
APPLY = jax.jit(apply)


def operation(space, name, number, sign, height, width):
    table = tabulate(space, height, width)
    place = OPERATIONS.index(name), number, int(sign < 0)
    return jax.tree.map(lambda values: jnp.asarray(values[place]), table)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_torchvisions_for_uint8(space, name):
    """Exactly, but that a few pixels of a blend, or between others, may be off by one, where they are rounded."""
    goldens = [each for each in CHANGED if each.startswith(space) and f"/{name}/" in each]
    assert len(goldens) >= 2
    for golden in goldens:
        _, picture, _, number, sign = golden.split("/")
        image, expected = GOLDENS[f"picture/{picture}"].astype(np.float32), GOLDENS[golden].astype(np.float32)
        given = operation(space, name, int(number), int(sign), *image.shape[:2])
        off = np.abs(np.asarray(APPLY(image, given)) - expected)
        if name in (*auto.GEOMETRIC, *auto.ENHANCING):
            assert off.max() <= 1 and (off > 0).mean() < 1e-2, golden
        else:
            assert not off.any(), golden


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("height", "width"), [(24, 24), (29, 38), (176, 176), (224, 224)])
def test_magnitudes_are_torchvisions(space, height, width):
    for name, found in bins(space, height, width).items():
        golden = f"{space}/bins/{height}x{width}/{name}"
        np.testing.assert_allclose(found, GOLDENS.get(golden, 0), rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("fill", [0, 1, 255])
@pytest.mark.parametrize("name", ["AutoContrast", "Equalize", "Sharpness"])
def test_a_flat_image_stays_as_it_is(name, fill):
    image = np.full((22, 30, 3), fill, np.float32)
    assert np.array_equal(APPLY(image, operation("trivialaugment", name, 0, 1, 22, 30)), image)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3)])
def test_images_too_small_to_blur_pass(height, width):
    table = jax.tree.map(lambda values: values[:, 9, 0], tabulate("randaugment", height, width))
    image = jnp.full((height, width, 3), 7.0)
    found = jax.vmap(apply, (None, 0))(image, table)
    assert found.shape == (len(OPERATIONS), height, width, 3)
    assert (found[OPERATIONS.index("Sharpness")] == 7).all()


@pytest.mark.parametrize("magnitude", [None, 9])
def test_operations_bins_and_signs_are_drawn_evenly(magnitude):
    marks = np.arange(len(OPERATIONS) * 31 * 2).reshape(len(OPERATIONS), 31, 2)
    draw = jax.vmap(lambda key: draw_operation(key, Operation(marks, marks, marks, marks), magnitude).index)
    operations, numbers, signs = np.unravel_index(draw(jax.random.split(jax.random.key(0), 42_000)), marks.shape)
    for found, count in ((operations, len(OPERATIONS)), (signs, 2), (numbers, 31)):
        if magnitude is None or count != 31:
            shares = np.bincount(found, minlength=count) / len(found)
            assert np.abs(shares * count - 1).max() < 5 * np.sqrt(count / len(found))
        else:
            assert set(numbers) == {9}
    assert abs(np.corrcoef(operations, signs)[0, 1]) < 0.02


def test_only_signed_operations_have_a_minus():
    table = tabulate("trivialaugment", 24, 24)
    for number, name in enumerate(OPERATIONS):
        differ = (table.amount[number, 20, 0] != table.amount[number, 20, 1]) | (
            table.matrix[number, 20, 0] != table.matrix[number, 20, 1]
        ).any()
        assert differ == (name in SIGNED)


def test_all_at_once_and_one_by_one_give_the_same(monkeypatch):
    """What runs on accelerators against what runs on CPU."""
    augment = auto.trivial_augment
    images = np.random.default_rng(0).integers(0, 256, (48, 20, 20, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 48)
    one_by_one = np.asarray(jax.jit(augment)(keys, images))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    at_once = np.asarray(jax.jit(lambda *batch: augment(*batch))(keys, images))
    assert (one_by_one != at_once).mean() < 1e-3
    assert len({image.tobytes() for image in one_by_one - images}) > 30
    assert one_by_one.min() >= 0 and one_by_one.max() <= 255 and (one_by_one % 1 == 0).all()


@pytest.mark.parametrize("whole", [True, False])
def test_on_tpus_products_resample_as_gathers(whole):
    """Of the largest maps of either space, in float64."""
    rng = np.random.default_rng(5)
    with jax.enable_x64(True):
        image = jnp.asarray(rng.integers(0, 256, (37, 50, 3)) + (0.0 if whole else 0.3))
        given = [operation("trivialaugment", name, 30, s, 37, 50) for name in auto.GEOMETRIC for s in (1, -1)]
        given += [
            operation("trivialaugment", "Rotate", 10, 1, 37, 50),
            operation("trivialaugment", "Identity", 0, 1, 37, 50),
        ]
        given = jax.tree.map(lambda *x: jnp.stack(x), *given)
        given = given._replace(matrix=given.matrix.astype(float))
        resample = jax.vmap(lambda each: auto._resample(image, each, whole))
        expected = jax.jit(resample)(given)
        with as_tpu():
            found = jax.jit(lambda given: resample(given))(given)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def torchvision_floats(name, image, given):
    """torchvision.transforms.v2.functional of a float image, in float64: units of 0..1 there, of 0..255 here."""
    x, amount = image.astype(np.float64) / 255, float(given.amount)
    greys = (x @ [0.2989, 0.587, 0.114])[..., None]
    if name == "Sharpness":
        around = sum(x[a : a + x.shape[0] - 2, b : b + x.shape[1] - 2] for a in range(3) for b in range(3))
        other = x.copy()
        other[1:-1, 1:-1] = (around + 4 * x[1:-1, 1:-1]) / 13
    else:
        other = {"Brightness": 0, "Color": greys, "Contrast": greys.mean()}.get(name)
    if other is not None:
        return 255 * np.clip(amount * x + (1 - amount) * other, 0, 1)
    if name == "Posterize":
        return 255 * np.clip(np.floor(x * 2**amount), 0, 2**amount - 1) / 2**amount
    if name == "Solarize":
        return 255 * np.where(x >= amount / 255, 1 - x, x)
    if name == "AutoContrast":
        return 255 * (x - x.min((0, 1))) / (x.max((0, 1)) - x.min((0, 1)))
    assert name == "Equalize"  # of the image in 8 bits
    levels = np.floor(x * 255.999).astype(int)
    table = [
        np.asarray(auto.equalising_table(jnp.asarray(np.bincount(levels[..., c].ravel(), minlength=256))))
        for c in range(3)
    ]
    return np.stack([table[c][levels[..., c]] for c in range(3)], axis=-1)


def resampled(image, given):
    """SciPy's linear interpolation, with zeros outside."""
    center = (np.array(image.shape[1::-1]) - 1) / 2
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    at = np.einsum("ij,jhw->ihw", given.matrix, np.stack([x - center[0], y - center[1], np.ones_like(x)]))
    places = [at[1] + center[1], at[0] + center[0]]
    channels = [map_coordinates(image[..., c], places, order=1, mode="grid-constant", cval=0) for c in range(3)]
    return np.stack(channels, axis=-1)


def test_each_operation_on_high_bit_images_is_torchvisions_for_floats():
    image = np.random.default_rng(0).uniform(3, 250, (20, 24, 3)).astype(np.float32)
    of_floats = jax.jit(lambda image, given: apply(image, given, whole=False))
    for name in OPERATIONS:
        given = operation("trivialaugment", name, 17, -1, 20, 24)
        found = np.asarray(of_floats(image, given))
        if name == "Identity":
            assert np.array_equal(found, image)
        elif name in auto.GEOMETRIC:
            np.testing.assert_allclose(found, resampled(image, given), atol=0.05)
        else:
            off = np.abs(found - torchvision_floats(name, image, given))
            assert (off < 1e-3).mean() > 0.999, name  # a pixel may lie on a step's edge
        assert (found % 1 != 0).any() == (name != "Equalize")
