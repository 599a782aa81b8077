"""The optimisers, each with the update of its torch namesake, so that published recipes carry over unchanged."""

from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from morphism.errors import UserError
from morphism.training.parameters import Params, check_patterns, map_by_path, split

# In these, as in torch, weight decay is L2 regularisation: it enters the gradient before all else.
L2 = ("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam")


def make_optimizer(config: ConfigDict, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Gradient -> clipping by global norm -> L2 -> the rule of config.optimizer.name -> times -learning_rate(step).

    `init` and `update` take all parameters; gradients, updates and state are of those that config.optimizer.freeze does
    not name, which for everything here, the global norm included, are as if they did not exist. An update is that of
    config.optimizer.lr_multipliers' first pattern that names its parameter times the factor beside it, weight decay
    included: torch's parameter groups with rates of their own.
    `init` raises UserError for a pattern that names no parameter, and where nothing is left to train.
    """

    def trained(tree: Params) -> Params:
        return split(tree, config.freeze)[0]

    def chain(params: Params) -> optax.GradientTransformation:
        mask = trained(decayed(params, config.decay))
        parts = []
        if config.clip_norm > 0:
            parts.append(optax.clip_by_global_norm(config.clip_norm))
        if config.weight_decay > 0 and config.name in L2:
            parts.append(optax.add_decayed_weights(config.weight_decay, mask))
        parts += _rule(config, learning_rate, mask)
        if config.lr_multipliers:
            factors = trained(map_by_path(lambda path, leaf: _factor(path, config), params))
            parts.append(optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors)))
        return optax.chain(*parts)

    def init(params: Params) -> Any:
        check_patterns(config.freeze, params, "config.optimizer.freeze")
        check_patterns([pattern for pattern, _ in config.lr_multipliers], params, "config.optimizer.lr_multipliers")
        if not trained(params):
            raise UserError("config.optimizer.freeze names every parameter, nothing is left to train; leave some out")
        return chain(params).init(trained(params))

    def update(gradients: Params, state: Any, params: Params) -> tuple[Params, Any]:
        return chain(params).update(gradients, state, trained(params))

    return optax.GradientTransformation(init, update)


def decayed(params: Params, which: str) -> Params:
    """True where weight decay acts.

    "all"; "not_norms": all but the scales and shifts of norms (torchvision's --norm-weight-decay 0); "kernels": the
    weights of convolutions and dense layers.
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


def _rule(config: ConfigDict, learning_rate: optax.Schedule, mask: Params) -> list[optax.GradientTransformation]:
    if config.name == "lars":
        return [
            optax.lars(
                learning_rate,
                config.weight_decay,
                weight_decay_mask=mask,
                trust_coefficient=config.trust_coefficient,
                trust_ratio_mask=kernels,  # biases and norms keep the plain rate
                momentum=config.momentum,
            )
        ]
    adam = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    rules = {
        "sgd": [],
        "momentum": [optax.trace(config.momentum)],
        "nesterov": [optax.trace(config.momentum, nesterov=True)],
        "rmsprop": [
            optax.scale_by_rms(config.rms_decay, config.epsilon, eps_in_sqrt=False),
            *([optax.trace(config.momentum)] if config.momentum > 0 else []),
        ],
        "adagrad": [scale_by_adagrad(config.epsilon)],
        "adam": [adam],
        "adamw": [adam, optax.add_decayed_weights(config.weight_decay, mask)],
    }
    return [*rules[config.name], optax.scale_by_learning_rate(learning_rate)]


def _factor(path: str, config: ConfigDict) -> float:
    return next((factor for pattern, factor in config.lr_multipliers if fnmatchcase(path, pattern)), 1.0)


def scale_by_adagrad(epsilon: float) -> optax.GradientTransformation:
    """g / (sqrt(sum of g^2) + epsilon): torch.optim.Adagrad. optax.scale_by_rss has its epsilon inside the root."""

    def update(gradients, squares, params=None):
        squares = jax.tree.map(lambda s, g: s + jnp.square(g), squares, gradients)
        return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + epsilon), gradients, squares), squares

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)
