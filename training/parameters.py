"""Selects parameters by patterns of their dotted paths, such as layer1.0.conv1.kernel.

Patterns are those of fnmatch: "conv1.*" is everything below conv1, "*.bias" every bias.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from morphism.errors import UserError, did_you_mean

Params = dict[str, Any]


def map_by_path(function: Callable[[str, Any], Any], params: Params) -> Params:
    """The same tree with function(dotted path, leaf) in place of each leaf."""
    return unflatten_dict({path: function(".".join(path), leaf) for path, leaf in flatten_dict(params).items()})


def split(params: Params, patterns: Sequence[str]) -> tuple[Params, Params]:
    """Two trees: the parameters that no pattern names, and those that a pattern names."""
    if not patterns:
        return params, {}
    halves: tuple[Params, Params] = ({}, {})
    for path, leaf in flatten_dict(params).items():
        halves[any(fnmatchcase(".".join(path), pattern) for pattern in patterns)][path] = leaf
    return unflatten_dict(halves[0]), unflatten_dict(halves[1])


def merge(one: Params, other: Params) -> Params:
    """The tree that `split` divided."""
    return unflatten_dict(flatten_dict(one) | flatten_dict(other)) if other else one


def check_patterns(patterns: Sequence[str], params: Params, field: str) -> None:
    """Raises UserError if one of `patterns`, the value of `field`, names no parameter."""
    paths = [".".join(path) for path in flatten_dict(params)]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            modules = {path[:end] + ".*" for path in paths for end, letter in enumerate(path) if letter == "."}
            hint = did_you_mean(pattern, sorted(modules | set(paths)))
            outermost = ", ".join(f"{name}.*" for name in params)
            raise UserError(f"{field}: no parameter is called {pattern!r}{hint or '; there are ' + outermost}")
