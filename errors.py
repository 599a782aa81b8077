"""The exceptions that a person is meant to read."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: one line that names the file, record or field, and the remedy. Commands print it and exit with 2."""


class NonFinite(UserError):
    """A number of a training, an evaluation or a prediction is infinite or NaN."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """'; did you mean X?' for the choice closest to a misspelt word, else '' where nothing is close."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def check_choice(field: str, value: str, choices: Iterable[str]) -> None:
    """Raises UserError where `value` is none of `choices`; `field` says where it was written."""
    choices = sorted(choices)
    if value not in choices:
        raise UserError(f"{field} is {value!r}, which is none of {', '.join(choices)}{did_you_mean(value, choices)}")
