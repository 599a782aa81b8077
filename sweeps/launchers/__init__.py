"""What starts and places the workers of a sweep: this machine, SLURM or Ray. Each engine has one file.

A launcher is made of (folder, plan, store, workers). It is a context manager, at whose end its workers are asked to
save and end, and has `watch(stop, show)`, which returns once all trials are over or a stop is requested.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from morphism.errors import UserError, check_choice

LAUNCHERS = ("local", "slurm", "ray")


def of(name: str, options: str = "") -> Callable[..., AbstractContextManager]:
    """The launcher `name`; `options` are "name=value,name=value" of its engine. Raises UserError if it is missing."""
    check_choice("--launcher", name, LAUNCHERS)
    values = parsed(options)
    if name == "local":
        if values:
            raise UserError("--launcher_options are those of slurm or ray; leave them out")
        from morphism.sweeps.local import Pool

        return Pool
    try:
        if name == "slurm":
            from morphism.sweeps.launchers.slurm import Slurm as launcher
        else:
            from morphism.sweeps.launchers.ray import Ray as launcher
    except ImportError as error:
        raise UserError(f"--launcher {name} needs a package ({error}): pip install 'morphism[{name}]'") from error
    return partial(launcher, options=values)


def parsed(options: str) -> dict[str, Any]:
    """Names and values; whole and decimal numbers are numbers. Raises UserError for what is no name=value."""
    found: dict[str, Any] = {}
    for each in options.split(",") if options else []:
        name, equals, text = each.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UserError(f"--launcher_options: {each!r} is no name=value, such as timeout_min=240")
        found[name.strip()] = _number(text.strip())
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
