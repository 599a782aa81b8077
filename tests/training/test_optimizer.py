"""Each optimiser against its torch namesake: ten steps by torch, and the documented update in NumPy float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from morphism.errors import UserError
from morphism.experiments.base import get_base
from morphism.training.optimizer import make_optimizer
from morphism.training.parameters import split

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "optimizers.npz")
CLIP = 1.5  # of goldens/make_optimizers.py
STEPS, DECAY = 6, 0.03
RATES = [0.1, 0.1, 0.05, 0.05, 0.01, 0.01]
RNG = np.random.default_rng(0)
KERNEL, BIAS = RNG.normal(size=(3, 2)), RNG.normal(size=2)
GRADIENTS = [(RNG.normal(size=(3, 2)), RNG.normal(size=2)) for _ in range(STEPS)]


def torch_sgd(w, g, s, lr, decay, momentum=0.0, nesterov=False):
    g = g + decay * w
    s["b"] = momentum * s.get("b", 0) + g
    return w - lr * (g + momentum * s["b"] if nesterov else s["b"])


def torch_rmsprop(w, g, s, lr, decay, momentum):
    g = g + decay * w
    s["v"] = 0.99 * s.get("v", 0) + 0.01 * g**2
    s["b"] = momentum * s.get("b", 0) + g / (np.sqrt(s["v"]) + 1e-8)
    return w - lr * s["b"]


def torch_adagrad(w, g, s, lr, decay):
    g = g + decay * w
    s["v"] = s.get("v", 0) + g**2
    return w - lr * g / (np.sqrt(s["v"]) + 1e-8)


def torch_adam(w, g, s, lr, decay, decoupled=False):
    w, g = (w * (1 - lr * decay), g) if decoupled else (w, g + decay * w)
    s["t"] = s.get("t", 0) + 1
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
    m, v = s["m"] / (1 - 0.9 ** s["t"]), s["v"] / (1 - 0.999 ** s["t"])
    return w - lr * m / (np.sqrt(v) + 1e-8)


def paper_lars(w, g, s, lr, decay, momentum):
    """You et al. 2017, algorithm 1; vectors, being biases and norms, without the trust ratio."""
    g = g + decay * w
    if w.ndim > 1:
        # The decay is already in g, so the ratio is |w| / |g + decay w|, as in optax and MLPerf's later references.
        g = g * 0.001 * np.linalg.norm(w) / np.linalg.norm(g)
    s["b"] = momentum * s.get("b", 0) + lr * g
    return w - s["b"]


REFERENCES = {
    "sgd": torch_sgd,
    "momentum": lambda *a: torch_sgd(*a, momentum=0.9),
    "nesterov": lambda *a: torch_sgd(*a, momentum=0.9, nesterov=True),
    "rmsprop": lambda *a: torch_rmsprop(*a, momentum=0.9),
    "adagrad": torch_adagrad,
    "adam": torch_adam,
    "adamw": lambda *a: torch_adam(*a, decoupled=True),
    "lars": lambda *a: paper_lars(*a, momentum=0.9),
}


def settings(name, **changes):
    config = get_base().optimizer
    config.update(name=name, weight_decay=DECAY, **changes)
    return config


def run(config):
    optimizer = make_optimizer(config, lambda step: jnp.array(RATES)[step])
    params = {"kernel": jnp.array(KERNEL, jnp.float32), "bias": jnp.array(BIAS, jnp.float32)}
    state = optimizer.init(params)
    for kernel, bias in GRADIENTS:
        gradients = {"kernel": jnp.array(kernel, jnp.float32), "bias": jnp.array(bias, jnp.float32)}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
def test_updates_are_the_references(name, exclude):
    found = run(settings(name, decay="kernels" if exclude else "all"))
    kernel, bias, states = KERNEL, BIAS, ({}, {})
    for rate, (kernel_gradient, bias_gradient) in zip(RATES, GRADIENTS, strict=True):
        kernel = REFERENCES[name](kernel, kernel_gradient, states[0], rate, DECAY)
        bias = REFERENCES[name](bias, bias_gradient, states[1], rate, 0.0 if exclude else DECAY)
    np.testing.assert_allclose(found["kernel"], kernel, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(found["bias"], bias, rtol=2e-5, atol=1e-6)


TORCH = {
    "rmsprop_plain": {"name": "rmsprop", "momentum": 0.0, "rms_decay": 0.95, "epsilon": 1e-3},
    "adam": {"name": "adam", "beta2": 0.99, "epsilon": 1e-6},
    **{name: {"name": name} for name in ("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adamw")},
}


@pytest.mark.parametrize("clipping", ["plain", "clipped"])
@pytest.mark.parametrize("name", TORCH)
def test_ten_steps_are_torchs(name, clipping):
    config = get_base().optimizer
    config.update(TORCH[name], weight_decay=DECAY, clip_norm=CLIP if clipping == "clipped" else 0.0)
    optimizer = make_optimizer(config, lambda step: jnp.array(GOLDENS["rates"], jnp.float32)[step])
    params = {"kernel": jnp.array(GOLDENS["kernel"], jnp.float32), "bias": jnp.array(GOLDENS["bias"], jnp.float32)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step, expected in enumerate(GOLDENS[f"{name}/{clipping}"]):
        gradients = {key: jnp.array(GOLDENS[f"{key}_gradients"][step], jnp.float32) for key in params}
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        found = np.concatenate([np.ravel(params[key]) for key in ("kernel", "bias")])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


NETWORK = {
    "conv1": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
    "bn1": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
    "layer1.0": {"conv1": {"kernel": jnp.ones((2, 2))}},
    "fc": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(4)},
}


def updates_of(**changes):
    """The updates of one step of SGD with momentum on NETWORK, all gradients being 1, and the optimiser's state."""
    config = get_base().optimizer
    config.update(changes)
    optimizer = make_optimizer(config, lambda step: 0.5)
    gradients = split(jax.tree.map(jnp.ones_like, NETWORK), config.freeze)[0]
    return optimizer.update(gradients, optimizer.init(NETWORK), NETWORK)


@pytest.mark.parametrize(
    ("decay", "spared"),
    [("all", set()), ("not_norms", {"bn1.scale", "bn1.bias"}), ("kernels", {"bn1.scale", "bn1.bias", "conv1.bias"})],
)
@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_weight_decay_spares_what_the_config_says(name, decay, spared):
    plain, _ = updates_of(name=name)
    found, _ = updates_of(name=name, decay=decay, weight_decay=0.1)
    same = {
        f"{module}.{leaf}"
        for module in ("conv1", "bn1")
        for leaf in found[module]
        if np.array_equal(found[module][leaf], plain[module][leaf])
    }
    assert same == spared


def test_a_multiplier_scales_the_update_of_what_it_names_first_and_no_other():
    changes = {"name": "adamw", "weight_decay": 0.1, "clip_norm": 1.0}
    plain, _ = updates_of(**changes)
    found, _ = updates_of(**changes, lr_multipliers=(("fc.bias", 3.0), ("fc.*", 10.0), ("layer1.*", 0.25)))
    factors = {"fc.kernel": 10, "fc.bias": 3, "layer1.0.conv1.kernel": 0.25}
    for path, update in flatten_dict(found).items():
        np.testing.assert_array_equal(update, flatten_dict(plain)[path] * factors.get(".".join(path), 1))


def test_frozen_parameters_have_no_update_and_no_state_and_do_not_weigh_in_others():
    changes = {"name": "momentum", "weight_decay": 0.1, "decay": "not_norms"}
    plain, _ = updates_of(**changes)
    found, state = updates_of(**changes, freeze=("conv1.*", "layer1.*", "*.scale"))
    assert {".".join(path) for path in flatten_dict(found)} == {"bn1.bias", "fc.kernel", "fc.bias"}
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2 + 8 + 4
    for path, update in flatten_dict(found).items():
        np.testing.assert_array_equal(update, flatten_dict(plain)[path])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": ("conv1.*", "layr1.*")}, r"config.optimizer.freeze: .* 'layr1\.\*'; did you mean layer1\.\*\?"),
        ({"freeze": ("backbone.*",)}, r"'backbone\.\*'; there are conv1\.\*, bn1\.\*"),
        ({"freeze": ("*",)}, "config.optimizer.freeze names every parameter"),
        ({"lr_multipliers": (("fc", 2.0),)}, r"config.optimizer.lr_multipliers: .* 'fc'; did you mean fc\.\*\?"),
    ],
)
def test_patterns_that_name_nothing_or_everything_are_errors(changes, message):
    with pytest.raises(UserError, match=message):
        updates_of(**changes)


def test_clipping_scales_the_whole_gradient_to_the_norm():
    config = settings("sgd", clip_norm=0.5, momentum=0.0)
    config.weight_decay = 0.0
    optimizer = make_optimizer(config, lambda step: 1.0)
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    updates, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    np.testing.assert_allclose(updates["a"], [-0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [[-0.4]], rtol=1e-6)


def test_the_state_of_every_optimiser_is_a_tree_of_arrays():
    for name in REFERENCES:
        state = make_optimizer(settings(name), lambda step: 0.1).init({"w": jnp.ones((2, 2))})
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
