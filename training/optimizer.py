"""Optimisers with the updates of their torch namesakes, so that published recipes carry over unchanged."""

from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from morphism.errors import UserError
from morphism.training.hyper import OptimizerValues, Share, optimizer_values
from morphism.training.parameters import Params, check_patterns, map_by_path, split

# In these, as in torch, weight decay is L2 regularisation: it is added to the gradient first.
L2 = ("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam")


def make_optimizer(
    config: ConfigDict, learning_rate: optax.Schedule, values: OptimizerValues | None = None
) -> optax.GradientTransformation:
    """Gradient -> clipping by global norm -> L2 -> the rule of config.optimizer.name -> times -learning_rate(step).

    `init` and `update` take all parameters. Gradients, updates and state cover only those that config.optimizer.freeze
    does not name; the others have no effect here, not even on the global norm. An update, weight decay included, is
    multiplied by the factor of the first pattern in config.optimizer.lr_multipliers that names its parameter: torch's
    parameter groups with their own learning rates.

    config: config.optimizer.
    learning_rate: step, from 0 -> learning rate.
    values: the hyper-parameters of `config`, which may be traced; by default those of `config`.

    `init` raises UserError if a pattern names no parameter, and if no parameter is left to train.
    """
    values = values or optimizer_values(config)

    def chain(params: Params) -> optax.GradientTransformation:
        return optax.chain(*_parts(config, values, learning_rate, params))

    def init(params: Params) -> Any:
        check_patterns(config.freeze, params, "config.optimizer.freeze")
        check_patterns(values.patterns, params, "config.optimizer.lr_multipliers")
        trained = _trained(params, config)
        if not trained:
            raise UserError("config.optimizer.freeze names every parameter, nothing is left to train; leave some out")
        return chain(params).init(trained)

    def update(gradients: Params, state: Any, params: Params) -> tuple[Params, Any]:
        return chain(params).update(gradients, state, _trained(params, config))

    return optax.GradientTransformation(init, update)


def _trained(tree: Params, config: ConfigDict) -> Params:
    return split(tree, config.freeze)[0]


def _parts(
    config: ConfigDict, values: OptimizerValues, learning_rate: optax.Schedule, params: Params
) -> list[optax.GradientTransformation]:
    """The transformations that make an update, in order."""
    mask = _trained(decayed(params, config.decay), config)
    parts = []
    if values.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(values.clip_norm))
    if values.weight_decay is not None and config.name in L2:
        parts.append(optax.add_decayed_weights(values.weight_decay, mask))
    parts += _rule(config.name, values, learning_rate, mask)
    if values.patterns:
        factors = _trained(map_by_path(lambda path, leaf: _factor(path, values), params), config)
        parts.append(optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors)))
    return parts


def decayed(params: Params, which: str) -> Params:
    """True for parameters that weight decay affects.

    which: "all"; "not_norms", all except the scales and shifts of norms (torchvision's --norm-weight-decay 0); or
    "kernels", the weights of convolutions and dense layers.
    """
    norms = {".".join(path[:-1]) for path in flatten_dict(params) if path[-1] == "scale"}
    return {
        "all": lambda: jax.tree.map(lambda leaf: True, params),
        "not_norms": lambda: map_by_path(lambda path, leaf: path.rpartition(".")[0] not in norms, params),
        "kernels": lambda: kernels(params),
    }[which]()


def kernels(params: Params) -> Params:
    """True for the weights of convolutions and dense layers, False for biases and the scales and shifts of norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _rule(
    name: str, values: OptimizerValues, learning_rate: optax.Schedule, mask: Params
) -> list[optax.GradientTransformation]:
    momentum, weight_decay = (0.0 if x is None else x for x in (values.momentum, values.weight_decay))
    if name == "lars":
        return [
            optax.lars(
                learning_rate,
                weight_decay,
                weight_decay_mask=mask,
                trust_coefficient=values.trust_coefficient,
                trust_ratio_mask=kernels,  # biases and norms keep the plain learning rate
                momentum=momentum,
            )
        ]
    adam = scale_by_adam(values.beta1, values.beta2, values.epsilon)
    rules = {
        "sgd": lambda: [],
        "momentum": lambda: [optax.trace(momentum)],
        "nesterov": lambda: [optax.trace(momentum, nesterov=True)],
        "rmsprop": lambda: [
            scale_by_rms(values.rms_decay, values.epsilon),
            *([] if values.momentum is None else [optax.trace(momentum)]),
        ],
        "adagrad": lambda: [scale_by_adagrad(values.epsilon)],
        "adam": lambda: [adam],
        "adamw": lambda: [adam, optax.add_decayed_weights(weight_decay, mask)],
    }
    return [*rules[name](), optax.scale_by_learning_rate(learning_rate)]


def _factor(path: str, values: OptimizerValues) -> Any:
    pairs = zip(values.patterns, values.factors, strict=True)
    return next((factor for pattern, factor in pairs if fnmatchcase(path, pattern)), 1.0)


def scale_by_adam(beta1: Share, beta2: Share, epsilon: Any) -> optax.GradientTransformation:
    """optax.scale_by_adam, to the bit, for betas that may be traced: optax would compute 1 - beta in float32."""

    def update(gradients, state, params=None):
        mu, nu = _average(beta1, gradients, state.mu), _average(beta2, _squares(gradients), state.nu)
        count = optax.safe_increment(state.count)
        means = optax.tree.bias_correction(mu, beta1.value, count)
        squares = optax.tree.bias_correction(nu, beta2.value, count)
        updates = jax.tree.map(lambda m, s: m / (jnp.sqrt(s) + epsilon), means, squares)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def scale_by_rms(decay: Share, epsilon: Any) -> optax.GradientTransformation:
    """optax.scale_by_rms with epsilon outside the root, to the bit, for a decay that may be traced."""

    def update(gradients, state, params=None):
        nu = _average(decay, _squares(gradients), state.nu)
        return jax.tree.map(lambda g, s: 1 / (jnp.sqrt(s) + epsilon) * g, gradients, nu), optax.ScaleByRmsState(nu)

    return optax.GradientTransformation(optax.scale_by_rms().init, update)


def scale_by_adagrad(epsilon: Any) -> optax.GradientTransformation:
    """g / (sqrt(sum of g^2) + epsilon), as torch.optim.Adagrad; optax.scale_by_rss has epsilon inside the root."""

    def update(gradients, squares, params=None):
        squares = jax.tree.map(jnp.add, squares, _squares(gradients))
        return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + epsilon), gradients, squares), squares

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def _average(decay: Share, new: Params, before: Params) -> Params:
    return jax.tree.map(lambda x, average: decay.rest * x + decay.value * average, new, before)


def _squares(tree: Params) -> Params:
    return jax.tree.map(jnp.square, tree)
