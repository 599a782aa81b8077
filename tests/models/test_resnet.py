from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.models import cost
from morphism.models.cifar_resnet import shortcut_a
from morphism.models.summary import layers
from morphism.runtime.mesh import AXIS


def make(name, classes, **changes):
    fields = {
        "name": name,
        "dtype": "float32",
        "remat": False,
        "sync_bn": False,
        "frozen_bn": False,
        "options": {},
    } | changes
    return models.create(ConfigDict(fields), classes, AXIS)


def shapes_of(model, size):
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))


# He et al. 2015, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million.
@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
def test_cifar_resnets_have_the_papers_parameters(depth, parameters):
    assert cost.parameters(shapes_of(make(f"cifar_resnet{depth}", 10), 32)["params"]) == parameters


def test_paths_joined_with_dots_are_torchvisions_names():
    params = shapes_of(make("resnet50", 1000), 224)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
    assert names["conv1.kernel"] == (7, 7, 3, 64)
    assert names["layer1.0.downsample.0.kernel"] == (1, 1, 64, 256)
    assert names["layer1.0.downsample.1.scale"] == (256,)
    assert names["layer4.2.conv3.kernel"] == (1, 1, 512, 2048)
    assert names["fc.bias"] == (1000,)
    assert len(names) == 161  # torchvision's resnet50 has 161 parameter tensors


@pytest.mark.parametrize(("stride_in_1x1", "sizes"), [(False, (16, 8)), (True, (8, 8))])
def test_the_stride_of_a_bottleneck_is_on_its_3x3_or_its_first_1x1(stride_in_1x1, sizes):
    model = make("resnet50", 10, options={"stride_in_1x1": stride_in_1x1})
    found = {layer.name: layer.output[0] for layer in layers(model, shapes_of(model, 64), (64, 64, 3))}
    assert (found["layer2.0.conv1"], found["layer2.0.conv2"]) == sizes


@pytest.mark.parametrize(
    ("output_stride", "sizes"), [(32, [32, 16, 8, 4, 2]), (16, [32, 16, 8, 4, 4]), (8, [32, 16, 8, 8, 8])]
)
def test_features_have_the_strides_that_the_output_stride_leaves(output_stride, sizes):
    model = make("resnet50", 10, options={"output_stride": output_stride})
    maps = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False, features=True))
    assert "fc" not in maps["params"]
    found = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, 64, 64, 3)), train=False, features=True), maps)
    names = ("relu", "layer1", "layer2", "layer3", "layer4")
    assert [found[name].shape[1] for name in names] == sizes


def test_frozen_batch_norm_has_no_parameters_and_never_moves():
    model = make("cifar_resnet8", 10, frozen_bn=True)
    variables = jax.jit(lambda: models.init(model, jax.random.key(0), 16))()
    assert "bn1" not in variables["params"]
    assert set(variables["batch_stats"]["bn1"]) == {"scale", "bias", "mean", "var"}
    images = np.random.default_rng(1).normal(3, size=(4, 16, 16, 3)).astype(np.float32)
    _, updates = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))(variables, images)
    for a, b in zip(jax.tree.leaves(updates["batch_stats"]), jax.tree.leaves(variables["batch_stats"]), strict=True):
        np.testing.assert_array_equal(a, b)


@cache
def resnet18_of_5():
    return jax.jit(lambda: models.init(make("resnet18", 5), jax.random.key(0), 32))()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (1, 1)])
def test_any_input_size_gives_logits(size):
    model = make("resnet18", 5)
    logits = jax.jit(partial(model.apply, train=False))(resnet18_of_5(), np.ones((2, *size, 3), np.float32))
    assert logits.shape == (2, 5)
    assert np.isfinite(logits).all()


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters():
    images = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(lambda: models.init(make("cifar_resnet8", 10), jax.random.key(0), 32))()
    half = make("cifar_resnet8", 10, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(half, 32))} == {jnp.dtype("float32")}
    exact, near = (
        jax.jit(partial(model.apply, train=False))(variables, images) for model in (make("cifar_resnet8", 10), half)
    )
    assert near.dtype == jnp.float32
    assert 0 < jnp.abs(near - exact).max() < 0.1 * jnp.abs(exact).max()


def gradient(model, variables, images):
    def loss(params):
        logits, _ = model.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.sum(logits[:, 0])

    return jax.jit(jax.grad(loss))(variables["params"])


def test_remat_changes_neither_names_nor_gradients():
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    plain, saving = make("cifar_resnet8", 10), make("cifar_resnet8", 10, remat=True)
    variables = jax.jit(lambda: models.init(plain, jax.random.key(0), 16))()
    expected, *found = (
        jax.tree.leaves(gradient(each, variables, images))
        for each in (plain, saving, make("cifar_resnet8", 10, remat=True, remat_policy="products"))
    )
    for of_policy in found:
        for a, b in zip(expected, of_policy, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_remat_keeps_less_for_the_backward_pass_by_its_policy():
    images = jnp.zeros((4, 16, 16, 3))

    def kept(**fields):
        """Values that the forward pass keeps, by their shapes."""
        model = make("cifar_resnet8", 10, **fields)
        variables = jax.eval_shape(lambda: models.init(model, jax.random.key(0), 16))

        def backward(variables):
            apply = lambda params: model.apply(  # noqa: E731
                variables | {"params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jax.vjp(apply, variables["params"])[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, variables)))

    products, blocks = kept(remat=True, remat_policy="products"), kept(remat=True)
    assert blocks < 0.8 * products < 0.8 * 0.8 * kept()


def test_zero_init_residual_zeroes_the_last_norm_of_every_block():
    model = make("resnet18", 10, options={"zero_init_residual": True})
    block = jax.jit(lambda: models.init(model, jax.random.key(0), 32)["params"]["layer3.1"])()  # no more is computed
    assert jnp.all(block["bn2"]["scale"] == 0)
    assert jnp.all(block["bn1"]["scale"] == 1)


def test_shortcut_a_subsamples_and_pads_channels_with_zeros():
    x = jnp.arange(2 * 5 * 5 * 4.0).reshape(2, 5, 5, 4)
    y = shortcut_a(x, 8, 2)
    assert y.shape == (2, 3, 3, 8)
    assert jnp.all(y[..., 2:6] == x[:, ::2, ::2])
    assert jnp.all(y[..., :2] == 0)
    assert jnp.all(y[..., 6:] == 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "alexnet", "sync_bn": True}, "config.model.sync_bn: alexnet has no use for it"),
        ({"remat_policy": "products"}, "config.model.remat_policy is 'products'.* set config.model.remat to True"),
        ({"options": {"norm": None}}, "config.model.options.norm: resnet18 has no such option"),
        ({"options": {"parent": 1}}, "config.model.options.parent: resnet18 has no such option"),
        ({"options": {"name": "x"}}, "config.model.options.name: resnet18 has no such option"),
        ({"name": "resnet51"}, "config.model.name is 'resnet51'.*did you mean resnet50"),
        ({"dtype": "float16"}, "config.model.dtype is 'float16'.*bfloat16"),
        ({"options": {"zero_init": True}}, "config.model.options.zero_init: resnet18 has no such option"),
    ],
)
def test_what_a_model_does_not_know_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        make(**({"name": "resnet18", "classes": 10} | changes))
