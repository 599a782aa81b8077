"""The vocabulary of base.py: a field has a default, a range of values, and a meaning.

Defaults of experiments, the check of configurations, and `morphism config` all read these declarations.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FieldReference


class Range(NamedTuple):
    """The values that a field accepts.

    words: completes "it must be ...".
    holds: whether a value is accepted.
    choices: all values, where they can be listed.
    types: the types of the values, where the default's type is not the only one.
    """

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()
    types: tuple[type, ...] = ()


class Field(NamedTuple):
    """A field of the configuration. Its name is its key in the dict that declares it."""

    default: Any
    range: Range
    meaning: str


Fields = dict[str, Any]  # name -> Field, or the Fields of a group


def merged(common: Fields, own: Fields) -> Fields:
    """`common` and `own` together. A plain value in `own` replaces the default of a field in `common`."""
    found = dict(common)
    for name, each in own.items():
        if isinstance(each, dict):
            found[name] = merged(common.get(name, {}), each)
        else:
            found[name] = each if isinstance(each, Field) else common[name]._replace(default=each)
    return found


def flat(fields: Fields, prefix: str = "") -> dict[str, Field]:
    """Dotted name, such as "data.source" -> Field, in the order of declaration."""
    found = {}
    for name, each in fields.items():
        found |= {prefix + name: each} if isinstance(each, Field) else flat(each, f"{prefix}{name}.")
    return found


def leaves(config: ConfigDict, prefix: str = "") -> list[str]:
    """The dotted names of all fields in `config` that are no groups, and of empty groups."""
    found = []
    for name, value in config.items():
        below = leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else []
        found += below or [prefix + name]
    return found


def defaults(fields: Fields) -> ConfigDict:
    """The configuration in which every field has its default."""
    found = {}
    for name, each in fields.items():
        if not isinstance(each, Field):
            found[name] = defaults(each)
        elif isinstance(each.default, dict):
            found[name] = ConfigDict(each.default, convert_dict=False)
        else:
            found[name] = FieldReference(each.default, each.range.types) if each.range.types else each.default
    return ConfigDict(found)


# Numbers. With an integer bound, as in at_least(1), only integers are accepted.


def at_least(low: float) -> Range:
    return _numbers(low, f"of at least {low:.10g}", lambda x: x >= low)


def at_most(high: float) -> Range:
    return _numbers(high, f"of at most {high:.10g}", lambda x: x <= high)


def above(low: float, high: float = math.inf) -> Range:
    """`low` excluded, `high` included."""
    return _numbers(low, f"above {low:.10g}{_at_most(high)}", lambda x: low < x <= high)


def between(low: float, high: float) -> Range:
    """Both bounds included."""
    return _numbers(low, f"from {low:.10g} to {high:.10g}", lambda x: low <= x <= high)


def below(low: float, high: float) -> Range:
    """From `low`, included, to `high`, excluded."""
    return _numbers(low, f"of at least {low:.10g} and below {high:.10g}", lambda x: low <= x < high)


def interval(low: float, high: float = math.inf) -> Range:
    return Range(
        f"two numbers above {low:.10g}{_at_most(high)}, the smaller first",
        lambda x: _is_sequence(x) and len(x) == 2 and all(map(_is_number, x)) and low < x[0] <= x[1] <= high,
    )


def _numbers(bound: float, words: str, holds: Callable[[float], bool]) -> Range:
    if isinstance(bound, int):
        return Range(f"a whole number {words}", lambda x: isinstance(x, int) and _is_number(x) and holds(x))
    return Range(f"a number {words}", lambda x: _is_number(x) and holds(x))


def _at_most(high: float) -> str:
    return f", at most {high:.10g}" if high < math.inf else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# Switches, groups and texts.

SWITCH = Range("True or False", lambda x: isinstance(x, bool))
GROUP = Range("a group of fields", lambda x: isinstance(x, (dict, ConfigDict)))
TEXT = Range("a text", lambda x: isinstance(x, str))
STEPS_OR_EPOCHS = re.compile(r"(\d+(?:\.\d+)?)(k|ep|)")
LENGTH = Range(
    'a text, such as "500" or "64k" steps or "90ep" epochs',
    lambda x: isinstance(x, str) and STEPS_OR_EPOCHS.fullmatch(x.strip()) is not None,
)
POSITIVE_LENGTH = Range(
    'a text, such as "500" or "64k" steps or "90ep" epochs, of one step at least',
    lambda x: LENGTH.holds(x) and float(STEPS_OR_EPOCHS.fullmatch(x.strip())[1]) > 0,
)

TIME = re.compile(r"(\d+(?:\.\d+)?)(s|min|h)")


def _is_budget(x: Any) -> bool:
    found = isinstance(x, str) and (TIME.fullmatch(x.strip()) or STEPS_OR_EPOCHS.fullmatch(x.strip()))
    return x == "" or bool(found and float(found[1]) > 0)


BUDGET = Range('a time, such as "30min" or "2h", a length, such as "20ep" or "500" steps, or ""', _is_budget)


def one_of(*choices: str) -> Range:
    return Range(f"one of {', '.join(map(repr, choices))}", lambda x: x in choices, choices)


# Tuples.


def tuple_of(each: Range, words: str, count: int | None = None, least: int = 0) -> Range:
    """A tuple of values in the range `each`: exactly `count` of them, or at least `least`."""

    def holds(x: Any) -> bool:
        return _is_sequence(x) and len(x) >= least and count in (None, len(x)) and all(map(each.holds, x))

    return Range(words, holds)


def optional(given: Range) -> Range:
    """An empty tuple, or a value in the range `given`."""
    return Range(f"() or {given.words}", lambda x: (_is_sequence(x) and not x) or given.holds(x))


TUPLE_OR_TEXT = (tuple, str)


def numbers_or(word: str) -> Range:
    """(), the `word` of a rule that computes the numbers, or the numbers, one per class."""
    numbers = tuple_of(above(0.0), "", least=2)
    return Range(
        f'(), "{word}", or a number above 0 for each class, such as (1.0, 0.5, 2.0)',
        lambda x: x in ((), [], word) or numbers.holds(x),
        types=TUPLE_OR_TEXT,
    )


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (tuple, list))


SIZES = tuple_of(at_least(1), "a tuple of sizes of at least 1")
SHAPE = tuple_of(at_least(1), "a height and a width, such as (512, 1024)", count=2)
SHAPES = tuple_of(SHAPE, "pairs of a height and a width, such as ((800, 1344), (1344, 800))")
SCALES = tuple_of(above(0.0), "a tuple of one or more numbers above 0", least=1)
LENGTHS = tuple_of(LENGTH, 'a tuple of texts, such as ("32k", "48k") steps or ("30ep", "60ep") epochs')
TEXTS = tuple_of(TEXT, "a tuple of texts")
NAMES = tuple_of(TEXT, 'a tuple of one or more names, such as ("boxes", "segmentation")', least=1)
WRITERS = tuple_of(
    one_of("tensorboard", "wandb", "mlflow", "aim"), 'a tuple of "tensorboard", "wandb", "mlflow" and "aim"'
)
PATTERNS = tuple_of(TEXT, 'patterns of parameters, such as ("conv1.*", "layer1.*")')
FACTORS = tuple_of(
    Range("", lambda x: _is_sequence(x) and len(x) == 2 and TEXT.holds(x[0]) and above(0.0).holds(x[1])),
    'pairs of a pattern and a factor above 0, such as (("fc.*", 10.0),)',
)
MEANS = tuple_of(Range("", _is_number), "three numbers, one per channel", count=3)
STDS = tuple_of(above(0.0), f"{MEANS.words}, all above 0", count=3)
SPACING = optional(tuple_of(above(0.0), "two numbers above 0, millimetres per pixel down and across", count=2))
HSV = tuple_of(between(0.0, 255.0), "three numbers from 0 to 255, of hue, saturation and value", count=3)
INTENSITY = optional(
    Range(
        "the stored values that become black and white, such as (-160, 240), the smaller first",
        lambda x: interval(-math.inf).holds(x) and x[0] < x[1],
    )
)
