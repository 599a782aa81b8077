"""torchvision's classifiers and ours, with the same weights: goldens/make_classifiers.py wrote what torch computes."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from goldens.drawn import drawn, random_image, sample
from ml_collections import ConfigDict

from morphism import models
from morphism.models.layers import BatchNorm
from morphism.runtime.mesh import AXIS
from morphism.weights.convert import from_torch, to_torch, torch_shapes

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "classifiers.npz")
NAMES = sorted({key.split("/")[1] for key in GOLDENS if key.startswith("logits/")})
SIZES = ((224, 224), (139, 181))
FEATURES = sorted({key.split("/")[1] for key in GOLDENS if key.startswith("features/")})


def make(name, classes=1000, **options):
    fields = {"name": name, "dtype": "float32", "remat": False, "sync_bn": False, "frozen_bn": False}
    return models.create(ConfigDict(fields | {"options": options}), classes, AXIS)


@cache
def drawn_dense(name, shape):
    """Drawn once for all VGGs, whose dense layers have 124 million weights; laid out so that ours are no copy."""
    return np.asfortranarray(drawn(name, shape))


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    yield
    drawn_dense.cache_clear()


def drawn_variables(model, size):
    """The model's variables, each drawn by torch's name in torch's layout, and turned into ours."""
    like = jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))
    shapes = torch_shapes(like).items()
    return from_torch({name: (drawn_dense if len(shape) == 2 else drawn)(name, shape) for name, shape in shapes}, like)


def assert_close(ours, torchs, tolerance):
    """`tolerance` is relative to the largest of torch's values."""
    assert np.shape(ours) == np.shape(torchs)
    assert np.abs(np.asarray(ours) - torchs).max() <= tolerance * np.abs(torchs).max()


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_torchvisions(name):
    model = make(name)
    variables = drawn_variables(model, 224)
    apply = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
    for height, width in [size for size in SIZES if f"logits/{name}/{size[0]}x{size[1]}" in GOLDENS]:
        expected = GOLDENS[f"logits/{name}/{height}x{width}"]
        assert_close(apply(variables, random_image(height, width))[0], expected, 1e-5)


@pytest.mark.parametrize("case", FEATURES)
def test_features_are_torchvisions(case):
    """Cases are architectures, ":8" and ":16" behind them for an output stride."""
    name, _, stride = case.partition(":")
    model = make(name, **({"output_stride": int(stride)} if stride else {}))
    found = jax.jit(lambda variables, images: model.apply(variables, images, train=False, features=True))(
        drawn_variables(model, 224), random_image(*SIZES[1])
    )
    nodes = [key.split("/")[2] for key in GOLDENS if key.startswith(f"features/{case}/")]
    assert set(found) == set(nodes)
    for node, value in found.items():
        assert value.shape == tuple(GOLDENS[f"shape/{case}/{node}"])
        assert_close(sample(np.transpose(value, (0, 3, 1, 2)), 64), GOLDENS[f"features/{case}/{node}"], 1e-5)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_two_steps_of_sgd_are_torchs(name):
    """Loss, gradients, running statistics, and parameters with momentum and weight decay.

    In float64 on both sides: in float32 a single ReLU that falls on the other side of 0 shows in the third digit.
    """
    with jax.enable_x64(True):
        model = make(name, 10, **({"dropout": 0.0} if name.startswith("vgg") else {})).clone(dtype=jnp.float64)
        model = model.clone(norm=partial(BatchNorm, dtype=jnp.float64))
        variables = drawn_variables(model, 64)
        params, stats = variables["params"], variables["batch_stats"]
        params, stats = jax.jit(partial(jax.tree.map, jnp.float64))((params, stats))
        optimizer = optax.chain(optax.add_decayed_weights(1e-2), optax.trace(0.9), optax.scale(-0.01))
        opt_state = jax.jit(optimizer.init)(params)
        images, labels = random_image(64, 64, batch=8).astype(np.float64), np.arange(8)

        def loss(params, stats):
            logits, updates = model.apply(
                {"params": params, "batch_stats": stats}, images, train=True, mutable=["batch_stats"]
            )
            return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(8), labels]), updates["batch_stats"]

        @partial(jax.jit, donate_argnums=(0, 1, 2))
        def step(params, stats, opt_state):
            (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(params, stats)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return optax.apply_updates(params, updates), stats, opt_state, value, gradients

        for index in range(2):
            params, stats, opt_state, value, gradients = step(params, stats, opt_state)
            np.testing.assert_allclose(value, GOLDENS[f"step/{name}/{index}/loss"], rtol=1e-9)
            assert_samples(gradients, f"step/{name}/{index}/gradient/")
        assert_samples(params, f"step/{name}/state/")
        assert_samples(stats, f"step/{name}/state/")


def assert_samples(tree, prefix):
    """Equal to what torch's values lose in the goldens' float32; a bias before a batch norm has a gradient of 0."""
    for name, found in to_torch({"": tree}).items():
        if not name.endswith("num_batches_tracked"):
            expected = GOLDENS[prefix + name]
            np.testing.assert_allclose(
                sample(found, 8), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max() + 1e-12
            )
