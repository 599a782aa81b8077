"""Reads experiment files, and suggests what was meant by a field that a configuration does not have."""

import ast
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import tuple_parser

from morphism import experiments
from morphism.errors import ALIASES, UserError, nearest
from morphism.experiments.base import FIELDS, declared, get_base
from morphism.experiments.fields import TUPLE_OR_TEXT, flat
from morphism.runtime.scripts import execute, find


class ExperimentParser(flags.ArgumentParser):
    """FILE.py[:variant] -> the locked ConfigDict of its get_config, with fields for the options that flags set.

    Options of --config.model.options.<name>=<value> that the experiment does not list are added here, so that the flag
    finds a field of its type; models.create checks which options an architecture has.
    Raises UserError for a file that is missing or fails, and for one that returns anything else.
    """

    def parse(self, argument: str) -> ConfigDict:
        file, variant = (argument, None) if Path(argument).is_file() else split_variant(argument)
        file = str(find(file)) if file else file
        if file and Path(file).is_dir():
            raise UserError(f"--config: {file} is a folder; give an experiment, such as experiments/quickstart.py")
        if not Path(file).is_file():
            raise UserError(f"--config: {file or 'nothing'}: no such file{_suggest_file(Path(file))}")
        if Path(file).suffix != ".py":
            raise UserError(
                f"--config: {file} is no Python file; give an experiment, such as experiments/quickstart.py"
            )
        try:
            module = execute(Path(file), "experiment")
            if not hasattr(module, "get_config"):
                raise UserError(f"--config: {file} has no function get_config")
            config = module.get_config() if variant is None else module.get_config(variant)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"--config {argument}: {_explained(error, file)}") from error
        if not isinstance(config, ConfigDict):
            kind = type(config).__name__
            kind = "nothing" if config is None else f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
            raise UserError(f"--config {argument}: get_config returns {kind}; return the config that get_base made")
        task = overridden(sys.argv).get("task")
        if task and task != config.get("task", task):
            raise UserError("config.task cannot be changed; choose an experiment of that task")
        _add_options(config, sys.argv)
        return config.lock()

    def flag_type(self) -> str:
        return "experiment"


class TupleOrTextParser(flags.ArgumentParser):
    """Parses --config.field=value for a field of either: "(1, 0.5)" and "1,0.5" are tuples, all else is text."""

    def parse(self, argument: str | tuple) -> str | tuple:
        value = _literal(argument) if isinstance(argument, str) else argument
        return value if isinstance(value, tuple) else argument

    def flag_type(self) -> str:
        return "tuple or text"


class WordsParser(tuple_parser.TupleParser):
    """Parses --config.field=value for a tuple, as it is written in Python or as words with commas: 10ep,20ep."""

    def parse(self, argument: str | tuple) -> tuple:
        return super().parse(_words(argument) if isinstance(argument, str) else argument)


config_flags.register_flag_parser_for_type(TUPLE_OR_TEXT, TupleOrTextParser())
config_flags.register_flag_parser_for_type(tuple, WordsParser())


def _suggest_file(file: Path) -> str:
    """Suggests the experiment next to `file`, or in experiments/, that was probably meant."""
    folder = file.parent if file.parent != Path() else Path("experiments")
    found = folder if folder != Path("experiments") or folder.is_dir() else Path(experiments.__path__[0])
    files = [path for path in sorted(found.glob("*.py")) if path.is_file()]
    names = [path.stem for path in files if path.stem not in ("__init__", *experiments.SHARED)]
    near = nearest(file.stem, names)
    return f"; did you mean {folder / near}.py?" if near else "; give an experiment, such as experiments/quickstart.py"


def split_variant(argument: str) -> tuple[str, str | None]:
    file, _, variant = argument.partition(":")
    return file, variant or None


def _explained(error: Exception, file: str) -> str:
    """One line: what failed, and in which line of the file, without the whole config that ml_collections prints."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    unknown = re.match(r"""[\\'"]*(?:Key )?[\\'"]+(\w+)[\\'"]+(?: does not exist|n|\n|$)""", text)
    if isinstance(error, (AttributeError, KeyError)) and unknown:
        text = f"{unknown[1]}: no such field{_suggest_anywhere(unknown[1])}"
    elif not isinstance(error, (ValueError, TypeError)):
        text = f"{type(error).__name__}: {text}"
    meant = isinstance(error, ValueError) and frames[-1].filename == file  # a message of the experiment itself
    position = f"line {lines[-1]}: " if lines and not meant else ""
    return position + " ".join(text.split())


def _add_options(config: ConfigDict, argv: list[str]) -> None:
    """Adds a field for each option that `argv` sets and the config does not list, of the type of its value.

    Options are those of the architecture, those of the heads of a network of parts, and the targets of parts.
    """
    for path, text in overridden(argv).items():
        *parents, name = path.split(".")
        options = config
        for each in parents:
            options = options.get(each) if isinstance(options, ConfigDict) else None
        known = parents[:1] == ["model"] and parents[-1:] == ["options"]
        known |= parents[:1] == ["parts"] and parents[2:] == ["targets"]
        if known and isinstance(options, ConfigDict) and name.isidentifier() and name not in options:
            with options.unlocked():
                options[name] = _literal(text)


def _literal(text: str) -> Any:
    """The value of a literal: a number, True, False or a tuple; anything else is text."""
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (SyntaxError, ValueError):
        return text
    value = tuple(value) if isinstance(value, list) else value
    return value if isinstance(value, (bool, int, float, str, tuple)) else text


def _words(text: str) -> str | tuple[str, ...]:
    """The words between the commas of `text`; `text` itself if it is Python, or if a comma may be part of a word."""
    if "," not in text or not isinstance(_literal(text), str) or text[0] in "([" or set(text) & set("'\"{}"):
        return text
    return tuple(word.strip() for word in text.split(",") if word.strip())


def misfit(config: ConfigDict, path: str, text: str) -> str:
    """What is wrong with `text` as the value of the field `path`, such as "data.crop"; '' if nothing."""
    from morphism.runtime.validation import check_field

    fields = declared(config) if config.get("task") in FIELDS else {}
    if path not in fields:  # an option of an architecture, or a config that get_base did not make
        return ""
    try:
        check_field(path, fields[path], written(text, fields[path].default))
    except UserError as error:
        return str(error)
    return ""


def written(text: str, like: Any) -> Any:
    """The value of `text` in a field whose values have the type of `like`."""
    if isinstance(like, str):
        return text
    value = _literal(text) if _words(text) == text else _words(text)
    return (value,) if isinstance(like, tuple) and not isinstance(value, tuple) and "," not in text else value


def overridden(argv: list[str]) -> dict[str, str]:
    """The fields that --config.field=value or --config.field value sets, with the values as they are written.

    A field without a value is switched on.
    """
    found = {}
    for argument, after in zip(argv, [*argv[1:], "--"], strict=True):
        match = re.fullmatch(r"--?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL)
        if match:
            following = "True" if after.startswith("--") else after
            found[match[1]] = following if match[2] is None else match[2]
    return found


def meant_field(name: str) -> str:
    """The path, such as "data.source", of the only field that has `name`, or what others call so, at its end; or ''."""
    paths = {path for fields in FIELDS.values() for path in flat(fields)}
    name = name.removeprefix("config.")
    found = [path for path in paths if path.rpartition(".")[2] in (name, ALIASES.get(name))]
    return name if name in paths else found[0] if len(found) == 1 else ""


def suggest_field(config: ConfigDict, parent: str, field: str, value: str) -> str:
    """'; did you mean config.a.b?' for a field that `parent`, such as "config.optimizer", does not have, or ''.

    Fields of `parent` are searched first, then the whole configuration; `value` is what was to be set.
    """
    node = config
    for name in parent.split(".")[1:]:
        node = node[name]
    near = nearest(field, node.keys())
    path = f"{parent}.{near}" if near else _anywhere(config, field)
    if path == "config.duration" and "epoch" in field and value.isdigit():
        path += f"={value}ep"
    return f"; did you mean {path}?" if path else ""


def _suggest_anywhere(field: str) -> str:
    found = (_anywhere(get_base(task), field) for task in FIELDS)
    path = next(filter(None, found), None)
    return f"; did you mean {path}?" if path else ""


def _anywhere(config: ConfigDict, field: str) -> str | None:
    """The path of the field with that name or a similar one, in any group."""

    def paths(node: ConfigDict, path: str) -> list[str]:
        groups = [(name, value) for name, value in node.items() if isinstance(value, ConfigDict)]
        below = [each for name, value in groups for each in paths(value, f"{path}.{name}")]
        return [f"{path}.{name}" for name in node] + below

    known = {path.rpartition(".")[2]: path for path in reversed(paths(config, "config"))}
    near = nearest(field, known)
    return known[near] if near else None
