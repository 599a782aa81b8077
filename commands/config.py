"""An experiment's configuration, and what its fields mean.

    morphism config experiments/quickstart.py[:variant] [--config.field=value ...] [--json]
    morphism config [experiments/quickstart.py] --explain data.canvases

The first prints a line per field; "*" marks a value that differs from the default in experiments/base.py, which the
line also shows. The second prints the default, the range and the meaning of a field, or of a group such as data. With
an experiment, `--explain model.options` lists the options of its architecture.
"""

import json
from typing import Any

from ml_collections import ConfigDict

from morphism.commands import cli
from morphism.errors import UserError, did_you_mean, nearest
from morphism.experiments.base import FIELDS, declared
from morphism.experiments.fields import Field, flat

COMMAND = cli.Command(config="first")
_JSON = COMMAND.boolean("json", False, "Print JSON, as in the config.json of a run.")
_EXPLAIN = COMMAND.string("explain", None, "A field to explain, such as data.canvases, or a group, such as data.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; the experiment comes first, then the flags")
    if _EXPLAIN.value is not None and _JSON.value:
        raise UserError("--json prints the whole configuration; leave out --explain, or --json")
    if _EXPLAIN.value is not None and not COMMAND.config.given:
        print(explained(_EXPLAIN.value.removeprefix("config.")))
        return
    from morphism import models
    from morphism.data import sources
    from morphism.runtime.validation import check_config

    config = COMMAND.config.value
    check_config(config)
    models.create(config.model, 2, axis="")  # checks its name and options
    sources.check_kind(config.data.source)
    if _EXPLAIN.value is not None:
        print(explained(_EXPLAIN.value.removeprefix("config."), config))
    else:
        print(json.dumps(config.to_dict(), indent=2, allow_nan=False) if _JSON.value else table(config))


def table(config: ConfigDict) -> str:
    """A line per field, in the order of declaration; groups are separated by blank lines."""
    lines, group = [], ""
    for name, field in declared(config).items():
        if name.rpartition(".")[0] != group:
            group = name.rpartition(".")[0]
            lines.append("")
        lines += _lines(name, field, config)
    return "\n".join(lines)


def explained(name: str, config: ConfigDict | None = None) -> str:
    """The default, or value in `config`, meaning and range of the field or group `name`; per task where they differ.

    Raises UserError where no task, or not that of `config`, has such a field.
    """
    of_tasks = {config.task: declared(config)} if config else {task: flat(FIELDS[task]) for task in FIELDS}
    names = list(dict.fromkeys(each for fields in of_tasks.values() for each in fields))
    if config and name.startswith("model.options."):
        return "\n".join(_option(config, name.removeprefix("model.options.")))
    name = "model.options" if name.startswith("model.options.") else name
    found = [each for each in names if f"{each}.".startswith(f"{name}.")]
    tasks = [task for task in FIELDS if any(f"{each}.".startswith(f"{name}.") for each in flat(FIELDS[task]))]
    if not found and tasks:
        raise UserError(f"--explain {name}: a field of {' and '.join(tasks)} only; the experiment is {config.task}")
    if not found:
        raise UserError(f"--explain {name}: no such field{_suggestion(name, names)}")
    entries = []
    for each in found:
        alike: dict[tuple[str, str], dict[str, Field]] = {}  # meaning and range -> the tasks that have them
        for task, fields in of_tasks.items():
            if each in fields:
                field = fields[each]
                alike.setdefault((field.meaning, field.range.words), {})[task] = field
        for (meaning, words), by_task in alike.items():
            if not config:
                head = [_defaults(each, by_task)]
            elif each == "model.options":
                head = _options(config)
            else:
                head = _lines(each, by_task[config.task], config)
            entries.append("\n".join([*head, f"    {meaning}", f"    Range: {words}"]))
    return "\n\n".join(entries)


def _options(config: ConfigDict) -> list[str]:
    """A line per option of the architecture, marked if the experiment sets another value than the default."""
    from morphism import models

    given = config.model.options
    values = {name: (given.get(name, default), default) for name, default in models.options(config.model.name).items()}
    lines = [_valued(f"model.options.{name}", *each) for name, each in values.items()]
    return lines or [f"  model.options = {{}}  ({config.model.name} has none)"]


def _option(config: ConfigDict, name: str) -> list[str]:
    """The value of one option of the architecture, and its type. Raises UserError if it has no such option."""
    from morphism import models
    from morphism.models.arguments import PLAIN

    known = models.options(config.model.name)
    if name not in known:
        hint = did_you_mean(name, known) or f"; its options are {', '.join(known) or 'none'}"
        raise UserError(f"--explain model.options.{name}: {config.model.name} has no such option{hint}")
    head = _valued(f"model.options.{name}", config.model.options.get(name, known[name]), known[name])
    return [head, f"    An option of {config.model.name}.", f"    Range: {PLAIN[type(known[name])]}"]


def _valued(name: str, value: Any, default: Any) -> str:
    return f"  {name} = {value!r}" if value == default else f"* {name} = {value!r}  (default {default!r})"


def _lines(name: str, field: Field, config: ConfigDict) -> list[str]:
    """The value of a field, marked if it is not the default; for model.options a line per option.

    No line for parts, and for heads one per option: the fields of their own follow.
    """
    value = config
    for each in name.split("."):
        value = value[each]
    if name == "parts" and value:
        return []
    if name == "model.heads" and value:
        options = {f"{part}.options": head.get("options", {}) for part, head in value.items()}
        lines = [(f"{name}.{path}.{option}", each) for path, given in options.items() for option, each in given.items()]
        return [f"* {field} = {each!r}  (default: the head's)" for field, each in lines]
    if isinstance(value, ConfigDict) and value:
        default = "the architecture's" if name == "model.options" else "none"
        return [f"* {name}.{option} = {each!r}  (default: {default})" for option, each in value.items()]
    if isinstance(value, ConfigDict):
        return [f"  {name} = {{}}"]
    return [_valued(name, value, field.default)]


def _defaults(name: str, by_task: dict[str, Field]) -> str:
    """The default of a field, with the names of its tasks unless all tasks have the same."""
    tasks: dict[str, list[str]] = {}
    for task, field in by_task.items():
        tasks.setdefault(repr(field.default), []).append(task)
    if len(tasks) == 1 and len(by_task) == len(FIELDS):
        return f"{name} = {next(iter(tasks))}"
    return f"{name} = " + ", ".join(f"{default} ({', '.join(names)})" for default, names in tasks.items())


def _suggestion(name: str, names: list[str]) -> str:
    by_last = {each.rpartition(".")[2]: each for each in reversed(names)}
    by_last |= {each.partition(".")[0]: each.partition(".")[0] for each in names if "." in each}
    near = nearest(name.rpartition(".")[2], by_last)
    return f"; did you mean {by_last[near]}?" if near else ""
