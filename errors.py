"""Errors that are written for people, and the words in them."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input: one line that names the file, record or field, and the remedy. Commands print it and exit with 2."""


class NonFinite(UserError):
    """A number in training, evaluation or prediction is not finite."""


class Unwritable(UserError):
    """The disk refuses: what was to be written is not at fault, and can be tried again."""


class Busy(UserError):
    """Another process holds what this one needs."""


def one_line(message: object) -> str:
    """`message` on one line. Control characters, as names in files may have, are escaped."""
    text = " ".join(str(message).split())
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


_notes: list[list[str]] = []  # one list per open `noting`, for all threads


@contextmanager
def noting() -> Iterator[list[str]]:
    """Collects the errors of all `skippable` blocks inside in a list, instead of stopping at the first."""
    notes: list[str] = []
    _notes.append(notes)
    try:
        yield notes
    finally:
        _notes.pop()


@contextmanager
def skippable(raised_again: bool = False) -> Iterator[None]:
    """Wraps the reading of one file or record without which the others can still be read.

    Inside `noting` its UserError is noted and the code after the block runs, without that file; otherwise it is raised.
    With `raised_again` it is not noted either: the record is kept, and fails again when it is read.
    """
    try:
        yield
    except UserError as error:
        if not _notes:
            raise
        if not raised_again:
            _notes[-1].append(" ".join(str(error).split()))


# Names that other codebases use -> ours.
ALIASES = {
    **dict.fromkeys(("lr", "base_lr", "init_lr", "peak_lr", "rate"), "learning_rate"),
    **dict.fromkeys(("epoch", "epochs", "max_epochs", "num_epochs", "steps", "train_steps", "max_steps"), "duration"),
    **dict.fromkeys(("iterations", "max_iter", "num_steps"), "duration"),
    **dict.fromkeys(("bs", "batch", "batchsize"), "batch_size"),
    **dict.fromkeys(("last", "newest"), "latest"),
    **{"wd": "weight_decay", "num_workers": "workers", "pretrained": "init_from", "weights": "init_from"},
    **{"optim": "optimizer", "dataset": "source", "arch": "name", "syncbn": "sync_bn", "resolution": "image_size"},
}


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that was probably meant by `word`: equal but for case, an alias, or a similar word."""
    by_case = {choice.casefold(): choice for choice in choices}
    word = word.casefold()
    for same in (word, ALIASES.get(word, "")):
        if same in by_case:
            return by_case[same]
    close = difflib.get_close_matches(word, list(by_case), n=1)
    return by_case[close[0]] if close else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """'; did you mean X?' with the choice nearest to a misspelt word, or '' if none is near."""
    near = nearest(word, choices)
    return f"; did you mean {near}?" if near else ""


def check_choice(field: str, value: str, choices: Iterable[str]) -> None:
    """Raises UserError if `value` is none of `choices`; `field` is where it was written."""
    choices = sorted(choices)
    if value not in choices:
        raise UserError(f"{field} is {value!r}, which is none of {', '.join(choices)}{did_you_mean(value, choices)}")
