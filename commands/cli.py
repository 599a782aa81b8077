"""What all commands share: flags, the configuration among them, and errors that are reported in one line."""

import importlib
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from morphism.commands import own_data
from morphism.commands.experiment_file import ExperimentParser, meant_field, misfit, overridden, suggest_field
from morphism.errors import UserError, one_line

if TYPE_CHECKING:
    from morphism.evaluation.run import Run

RESUMED = str(Path(__file__).parent / "resumed.py")

PER_PROCESS = ("process_id", "workdir", "output")  # flags that processes of one command may have otherwise


class Command:
    """The flags of one command, separate from those of every other, so that one process can import them all.

    config: "flag" for --config, "first" where the experiment is the first argument, "" for neither.
    distributed: adds the flags of a process that is one of several.
    trained: adds --workdir, --checkpoint and --weights, which say what `open_trained` opens.
    data: adds --data, whose path becomes the data of --config.
    """

    def __init__(self, config: str = "", distributed: bool = False, trained: bool = False, data: bool = False):
        self.flags = flags.FlagValues()
        self.data = self.string("data", None, own_data.MEANING) if data else None
        self.config = ConfigFlag(self.flags) if config else None
        self._experiment_first = config == "first"
        if distributed:
            self.boolean("distributed", False, "Join other processes; three more flags say what JAX cannot detect.")
            self.string("coordinator", None, "host:port of process 0.")
            self.integer("num_processes", None, "How many processes there are.")
            self.integer("process_id", None, "Which of them this is, from 0.")
        if trained:
            self.workdir = self.string("workdir", None, "The --workdir of a training run.")
            self.checkpoint = self.string("checkpoint", "best", "best, latest or a step.")
            self.weights = self.string(
                "weights", None, "With --config, instead of --workdir: a file, torchvision:..., a run."
            )
        self._trained = trained

    def string(self, name: str, default: str | None, help: str) -> flags.FlagHolder:
        return flags.DEFINE_string(name, default, help, flag_values=self.flags)

    def boolean(self, name: str, default: bool, help: str) -> flags.FlagHolder:
        return flags.DEFINE_bool(name, default, help, flag_values=self.flags)

    def integer(self, name: str, default: int | None, help: str, least: int | None = None) -> flags.FlagHolder:
        return flags.DEFINE_integer(name, default, help, least, flag_values=self.flags)

    def number(self, name: str, default: float, help: str, least: float, most: float) -> flags.FlagHolder:
        return flags.DEFINE_float(name, default, help, least, most, flag_values=self.flags)

    def start_jax(self) -> None:
        """Joins the other processes as the flags of `distributed` say. Raises UserError where it cannot."""
        from morphism.runtime.startup import start_jax

        start_jax(*(self.flags[name].value for name in ("distributed", "coordinator", "num_processes", "process_id")))

    def open_trained(self, say: Callable[[str], None]) -> "Run":
        """The run in --workdir, or the model of --config with --weights; `say` gets notes. JAX must have been started.

        --config.field=value changes what may differ in the evaluation of a run. Raises UserError, in every process, if
        they have other flags.
        """
        from morphism.evaluation.run import open_run, open_weights
        from morphism.runtime.paths import folder
        from morphism.runtime.processes import check_same
        from morphism.runtime.resume import OF_EVALUATION, of_all_hosts

        if self.workdir.value:
            change = partial(self.config.override, allowed=OF_EVALUATION)
            run = open_run(folder(self.workdir.value), self.checkpoint.value, change)
        else:
            run = open_weights(self.config.value, self.weights.value, self.config.overrides, say)
        if "distributed" in self.flags and self.flags["distributed"].value:
            given = {name: value for name, value in self.flags.flag_values_dict().items() if name not in PER_PROCESS}
            own = {f"--{name}": value for name, value in given.items() if not name.startswith("config")}
            check_same(own | of_all_hosts(run.config))
        return run

    def parse(self, argv: list[str]) -> list[str]:
        """Reads the flags of `argv`; returns the other arguments, the program first.

        Raises absl's errors, and UserError unless what is trained is given once: --workdir, or --config and --weights.
        """
        if self._experiment_first and len(argv) > 1 and not argv[1].startswith("-"):
            argv = [argv[0], f"--config={argv[1]}", *argv[2:]]
        elif self.config and "workdir" in self.flags:
            changes = any(argument.startswith("--config.") for argument in argv)
            argv = with_config_of_workdir(argv) if changes or "weights" not in self.flags else argv
        sys.argv = argv  # where ml_collections looks for --config.field=value
        rest = self.flags(argv)
        if self.config:
            for argument in rest[1:]:
                _check_argument(argument)
        if self._trained:
            self._check_trained()
        return rest

    def find_data(self) -> None:
        """Finds out what lies at --data, or at a config.data.source without a kind."""
        path = self.data.value if self.data is not None else None
        if path and not self.config.given:
            raise UserError("--data needs --config, which says what to learn from it, or a --workdir that has a run")
        if self.config and self.config.given:
            own_data.find(self.config.value, self.config.overrides, path)

    def explained(self, error: flags.Error) -> str:
        """One line on a flag that is unknown or has no valid value."""
        if isinstance(error, flags.UnrecognizedFlagError) and self.config and (path := meant_field(error.flagname)):
            return f"--{error.flagname} is no flag; write --config.{path}=..."
        found = re.match(r"flag --(\w+)=(.*?): ", str(error), re.DOTALL)
        if found and found[1] in self.flags:
            parser = self.flags[found[1]].parser
            words = "True or False" if isinstance(parser, flags.BooleanParser) else parser.syntactic_help
            return f"--{found[1]} is {found[2]!r}; it must be {words}"
        return _last_line(error)

    def _check_trained(self) -> None:
        workdir, weights = self.workdir.value, self.weights.value
        if not workdir and not weights:
            raise UserError("--workdir is missing; name the folder of a training run, or give --config and --weights")
        if workdir and (weights or (self.config.given and not self.config.of_workdir)):
            raise UserError("--workdir has a config and weights of its own; leave out --config and --weights")

    def help(self, program: str, documentation: str) -> str:
        lines = self.flags.get_help().splitlines()
        if not list(self.flags):
            return f"{program}: {documentation.strip()}"
        return f"{program}: {documentation.strip()}\n\nFlags:\n" + "\n".join(lines[1:])


class ConfigFlag:
    """The flag --config: a file of `experiments/`, ":variant" after it, and --config.a.b=value for single values."""

    def __init__(self, values: flags.FlagValues):
        self._values = values
        self._flag = config_flags.DEFINE_config_file(
            "config",
            None,
            "experiments/FILE.py[:variant]; --config.a.b=value overrides one value",
            lock_config=True,
            flag_values=values,
        )
        values["config"].parser = ExperimentParser()

    @property
    def given(self) -> bool:
        return self._flag.value is not None

    @property
    def of_workdir(self) -> bool:
        """Whether it is the configuration of the run in --workdir."""
        return config_flags.get_config_filename(self._values["config"]).startswith(f"{RESUMED}:")

    @property
    def overrides(self) -> set[str]:
        """The fields, such as "data.source", that --config.field=value gave on the command line."""
        return set(config_flags.get_override_values(self._values["config"]))

    def override(self, config: ConfigDict, allowed: Collection[str]) -> None:
        """Sets what --config.field=value gave in a run's own `config`. Raises UserError for a field not `allowed`."""
        from morphism.runtime.resume import among, refused, set_fields

        given = config_flags.get_override_values(self._values["config"]) if self.given else {}
        for field in given:
            if not among(allowed, field):
                instead = {"data.source": "data", "data.val_split": "split"}.get(field)
                remedy = f"give --{instead} instead" if instead in self._values else "leave it out"
                raise UserError(refused(field, remedy, allowed).replace("config.", "--config.", 1))
        set_fields(config, given)

    @property
    def value(self) -> ConfigDict:
        if self._flag.value is None:
            raise UserError("--config is missing; give an experiment, such as --config experiments/quickstart.py")
        return self._flag.value


def _check_argument(argument: str) -> None:
    """Raises UserError for an argument that is a field with a value, without the dashes of a flag."""
    name, equals, _ = argument.partition("=")
    if equals and (path := meant_field(name)) and not Path(argument).exists():
        raise UserError(f"unexpected argument {argument!r}; write --config.{path}=...")


def with_config_of_workdir(argv: list[str]) -> list[str]:
    """`argv` with the configuration of the run in --workdir as --config, unless --config or --weights is given."""
    flagged = [argument.lstrip("-") if argument.startswith("-") else "" for argument in argv]
    names = [argument.partition("=")[0] for argument in flagged]
    if "config" in names or "weights" in names or "workdir" not in names:
        return argv
    position = names.index("workdir")
    _, equals, value = flagged[position].partition("=")
    workdir = value if equals else "".join(argv[position + 1 : position + 2])
    if not workdir or ("://" not in workdir and not (Path(workdir) / "config.json").exists()):
        return argv
    return [argv[0], f"--config={RESUMED}:{workdir}", *argv[1:]]


def run(name: str, program: str, argv: list[str]) -> None:
    """Runs the command `name` as `program` on the arguments `argv`; bad input ends it with one line and status 2."""
    # Names of files and classes may hold letters that this terminal cannot show; escapes are better than a traceback.
    sys.stdout.reconfigure(errors="backslashreplace")
    module = importlib.import_module(f"morphism.commands.{name}")
    command, argv = module.COMMAND, [program, *argv]
    _quieten(program)
    with _readers_choice():
        if {"--help", "-help", "-h", "--helpfull"} & set(argv):
            print(command.help(program, module.__doc__), flush=True)
            return
        try:
            rest = command.parse(argv)
        except flags.Error as error:
            fail(program, explain_override(sys.argv) or command.explained(error))
        except UserError as error:
            fail(program, _one_line(error))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            fail(program, explain_override(sys.argv) or f"--config: {_one_line(error)}")
        try:
            command.find_data()
            module.main(rest)
            sys.stdout.flush()
        except UserError as error:
            fail(program, _one_line(error))
        except KeyboardInterrupt:
            fail(program, "interrupted", status=130)
        except Exception as error:
            from morphism.runtime.processes import is_lost

            if not is_lost(error):
                raise
            lost = f"another process of the run is lost ({_one_line(error)[:200]})"
            fail(program, f"{lost}; look at what it says, and start the same command on all hosts again")


@contextmanager
def _readers_choice() -> Iterator[None]:
    """Ends the process silently when the reader of its output, such as head, has closed it."""
    try:
        yield
    except BrokenPipeError:
        os._exit(141)


def _quieten(program: str) -> None:
    """Lets only the main thread report errors: what fails in a library's threads reaches it as an exception.

    Where nothing can be raised, as in a callback of the garbage collector, Ctrl-C would be lost: it ends the process.
    """
    logging.set_verbosity(logging.FATAL)
    sys.excepthook = _in_main_thread(sys.excepthook)
    threading.excepthook = lambda error: None
    report = _in_main_thread(sys.unraisablehook)

    def unraisable(error: Any) -> None:
        if isinstance(error.exc_value, KeyboardInterrupt):
            fail(program, "interrupted", status=130)
        report(error)

    sys.unraisablehook = unraisable


def _in_main_thread(hook: Callable) -> Callable:
    return lambda *error: hook(*error) if threading.current_thread() is threading.main_thread() else None


def fail(program: str, message: str, status: int = 2) -> None:
    """Ends the process at once, without waiting for background threads, which may have failed too."""
    sys.stdout.flush()
    print(f"{program}: error: {message}", file=sys.stderr, flush=True)
    os._exit(status)


def _one_line(error: BaseException) -> str:
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return one_line(message)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def explain_override(argv: list[str]) -> str:
    """What is wrong with the first --config.a.b=value that names no single field or has no valid value, or ''."""
    path = next((b if a == "--config" else a[9:] for a, b in zip(argv, [*argv[1:], ""], strict=True) if _sets(a)), None)
    if path is None:
        first = next(iter(overridden(argv)), None)
        missing = "--config is missing; give an experiment, such as --config experiments/quickstart.py"
        return "" if first is None else f"config.{first} cannot be set: {missing}"
    try:
        config = ExperimentParser().parse(path)
    except Exception:  # the experiment itself fails, and its own message says how
        return ""
    for path, value in overridden(argv).items():
        node, parent = config, "config"
        for field in path.split("."):
            if not isinstance(node, ConfigDict):
                return f"{parent}: a single value, it has no field {field}"
            if field not in node:
                return f"{parent}.{field}: no such field{suggest_field(config, parent, field, value)}"
            node, parent = node[field], f"{parent}.{field}"
        if isinstance(node, ConfigDict) and not value.startswith("{"):
            return f"{parent}: a group of fields; set one of them, such as {parent}.{next(iter(node), '<option>')}"
        if wrong := misfit(config, path, value):
            return wrong
    return ""


def _sets(argument: str) -> bool:
    return argument == "--config" or argument.startswith("--config=")
