"""Folders and files of a run: on a local disk, or on a store such as gs://bucket that etils.epath reaches."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any

from etils import epath

from morphism.errors import Unwritable, UserError

AnyPath = Path | epath.Path
REMEDY = "make room and start the same command again"


def folder(text: str) -> AnyPath:
    """The folder that --workdir names. Raises UserError if it cannot be reached, or if a package for it is missing."""
    if "://" not in text:
        return Path(text)
    try:
        path = epath.Path(text)
        path.exists()
    except Exception as error:  # each store's client has types of its own
        raise UserError(f"{text}: cannot be reached ({' '.join(str(error).split())})") from error
    return path


def cache_folder(kind: str) -> Path:
    """Where this user's files of `kind` are cached. Raises RuntimeError if the user has no home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "morphism" / kind


def is_local(path: AnyPath) -> bool:
    """Whether `path` can be locked, appended to and renamed. A store only accepts whole files."""
    return isinstance(path, Path)


def write_json(path: AnyPath, value: Any, remedy: str = REMEDY) -> None:
    """Writes JSON atomically: a reader never sees half of it.

    Raises UserError with `remedy` if the disk refuses, and if a number is not finite, which JSON cannot hold.
    """
    write_text(path, _text(path, value, indent=2) + "\n", remedy)


def write_json_lines(path: AnyPath, values: Iterable[Any], remedy: str = REMEDY) -> None:
    """Writes each value as JSON on a line of its own, as `write_json` does."""
    write_text(path, "".join(f"{_text(path, value)}\n" for value in values), remedy)


def _text(path: AnyPath, value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{path}: not written, because a number in it is not finite") from error


def write_text(path: AnyPath, text: str, remedy: str = REMEDY) -> None:
    """Writes text atomically, as `write_json` does.

    Surrogates, which stand for bytes of a file's name that are not UTF-8, are written as JSON's escapes.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"), remedy)


def write_bytes(path: AnyPath, content: bytes, remedy: str = REMEDY) -> None:
    """Writes bytes atomically, as `write_json` does."""
    try:
        if not is_local(path):
            path.write_bytes(content)
            return
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise Unwritable(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error


def write_files(into: AnyPath, files: Iterable[tuple[str, bytes]], remedy: str = REMEDY) -> None:
    """Writes files, each a name and its content, into a folder, which is made for the first of them."""
    for name, content in files:
        try:
            into.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unwritable(f"{into}: cannot be made ({error.strerror or error}); {remedy}") from error
        write_bytes(into / name, content, remedy)


def read_json(path: AnyPath, kind: type | UnionType) -> Any:
    """The value in a JSON file. Raises UserError if there is no such file, or if the value is not a `kind`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; is {path.parent} the --workdir of a training run?") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); restore it, or start in another --workdir") from error
    if not isinstance(value, kind):
        raise UserError(f"{path}: holds a {type(value).__name__}, not a {getattr(kind, '__name__', kind)}; restore it")
    return value
