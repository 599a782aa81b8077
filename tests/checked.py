"""The type checker of the tests: an int will do for a float, as PEP 484 has it."""

from collections.abc import Callable
from functools import cache
from typing import Any

from beartype import BeartypeConf, beartype

_decorated = cache(beartype(conf=BeartypeConf(is_pep484_tower=True)))


def check(function: Callable) -> Callable:
    """`function`, checking its arguments and result; decorated when first called, as most are not in each process."""

    def checked(*arguments: Any, **named: Any) -> Any:
        return _decorated(function)(*arguments, **named)

    return checked
