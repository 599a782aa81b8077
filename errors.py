"""The exceptions that a person is meant to read."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input: one line that names the file, record or field, and the remedy. Commands print it and exit with 2."""


class NonFinite(UserError):
    """A number of a training, an evaluation or a prediction is infinite or NaN."""


def one_line(message: object) -> str:
    """`message` on one line. What a terminal would obey instead of showing it, from a name in a file, is escaped."""
    text = " ".join(str(message).split())
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


_notes: list[list[str]] = []  # of the `noting` that is open, for all threads


@contextmanager
def noting() -> Iterator[list[str]]:
    """Inside, what `apart` is around is noted in this list and goes on, so that all that is bad is found."""
    notes: list[str] = []
    _notes.append(notes)
    try:
        yield notes
    finally:
        _notes.pop()


@contextmanager
def apart(told_again: bool = False) -> Iterator[None]:
    """Around what fails for one file or record alone, without which the others can be read.

    Its UserError is raised, but noted inside `noting`, where what follows has to do without that file; with
    `told_again` not even that, since the record is kept and fails again when it is read.
    """
    try:
        yield
    except UserError as error:
        if not _notes:
            raise
        if not told_again:
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
    """The choice that a person who wrote `word` meant: the same but for case, another name for it, or a close one."""
    by_case = {choice.casefold(): choice for choice in choices}
    word = word.casefold()
    for same in (word, ALIASES.get(word, "")):
        if same in by_case:
            return by_case[same]
    close = difflib.get_close_matches(word, list(by_case), n=1)
    return by_case[close[0]] if close else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """'; did you mean X?' for the nearest choice to a misspelt word, else '' where nothing is near."""
    near = nearest(word, choices)
    return f"; did you mean {near}?" if near else ""


def check_choice(field: str, value: str, choices: Iterable[str]) -> None:
    """Raises UserError where `value` is none of `choices`; `field` says where it was written."""
    choices = sorted(choices)
    if value not in choices:
        raise UserError(f"{field} is {value!r}, which is none of {', '.join(choices)}{did_you_mean(value, choices)}")
