"""The options of an architecture or head: those arguments of its constructor that have a plain value as their default.

The fields of a dataclass that is an argument's default are options too.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from morphism.errors import UserError, did_you_mean

PLAIN = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a tuple"}


def options_of(make: Callable[..., Any], without: Collection[str] = ()) -> dict[str, Any]:
    """The options of the constructor `make` with their defaults, `without` the arguments that something else sets."""
    found = {}
    for argument, parameter in inspect.signature(make).parameters.items():
        if argument not in without:
            group = _group(parameter.default)
            found |= group or {argument: parameter.default}
    return {option: default for option, default in found.items() if type(default) in PLAIN}


def grouped(given: Mapping[str, Any], make: Callable[..., Any]) -> dict[str, Any]:
    """Options as arguments of `make`, lists as tuples: those that are fields of an argument's dataclass go there."""
    result = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    for argument, parameter in inspect.signature(make).parameters.items():
        inside = {name: result.pop(name) for name in _group(parameter.default).keys() & result.keys()}
        if inside:
            result[argument] = replace(parameter.default, **inside)
    return result


def _group(default: Any) -> dict[str, Any]:
    """The fields of a dataclass that is an argument's default; of any other default none."""
    if not is_dataclass(default) or isinstance(default, type):
        return {}
    return {field.name: getattr(default, field.name) for field in fields(default)}


def check_options(path: str, owner: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises UserError for options at `path` that `owner` does not have, and for those of a wrong type.

    path: such as "config.model.options". known: the owner's options with their defaults.
    """
    if found := unknown(given, known):
        option, hint = found
        kept = {name: value for name, value in given.items() if name in known}
        leave = "" if hint.startswith("; did") else f'; leave it out: --{path}="{kept}"'
        raise UserError(f"{path}.{option}: {owner} has no such option{hint}{leave}")
    for option, value in given.items():
        _check_type(f"{path}.{option}", value, known[option])


def unknown(given: Iterable[str], known: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first of the `given` options that is not `known`, and what was meant or what there is."""
    for option in given:
        if option not in known:
            return option, did_you_mean(option, known) or f"; it has {', '.join(known) or 'none'}"
    return None


def _check_type(field: str, value: Any, default: Any) -> None:
    """Raises UserError unless an option has the type of its default; a whole number is fine as any number."""
    accepted = {float: (int, float), tuple: (tuple, list)}.get(type(default), (type(default),))
    if type(value) not in accepted:
        raise UserError(f"{field} is {value!r}; it must be {PLAIN[type(default)]}, such as {default!r}")
