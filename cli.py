"""What every command shares: the --config flag, and errors told in one line."""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from errors import UserError, one_line
from experiment_file import ExperimentParser, overridden, suggest_field

RESUMED = str(Path(__file__).parent / "training" / "resumed.py")


class ConfigFlag:
    """The flag --config: a file of `experiments/`, ":variant" after it, and --config.a.b=value for single values."""

    def __init__(self):
        self._flag = config_flags.DEFINE_config_file(
            "config", None, "experiments/FILE.py[:variant]; --config.a.b=value overrides one value", lock_config=True
        )
        flags.FLAGS["config"].parser = ExperimentParser()

    @property
    def given(self) -> bool:
        return self._flag.value is not None

    @property
    def of_workdir(self) -> bool:
        """Whether it is the one of the run in --workdir."""
        return config_flags.get_config_filename(flags.FLAGS["config"]).startswith(f"{RESUMED}:")

    @property
    def overrides(self) -> set[str]:
        """The fields, such as "data.source", that --config.field=value gave on the command line."""
        return set(config_flags.get_override_values(flags.FLAGS["config"]))

    def override(self, config: ConfigDict, allowed: Collection[str]) -> None:
        """Sets what --config.field=value gave in a run's own `config`. Raises UserError for a field not `allowed`."""
        given = config_flags.get_override_values(flags.FLAGS["config"]) if self.given else {}
        for field in given:
            if field not in allowed:
                instead = {"data.source": "source", "data.val_split": "split"}.get(field)
                remedy = f"give --{instead} instead" if instead in flags.FLAGS else "leave it out"
                raise UserError(
                    f"--config.{field}: the run in --workdir has its own; {remedy}; only {', '.join(allowed)} may "
                    "be others"
                )
        with config.unlocked():
            config.update_from_flattened_dict(given)

    @property
    def value(self) -> ConfigDict:
        if self._flag.value is None:
            raise UserError("--config is missing; give an experiment, such as --config experiments/quickstart.py")
        return self._flag.value


def check_trained(workdir: str | None, weights: str | None, config: ConfigFlag) -> None:
    """Raises UserError unless what is trained is given once: --workdir, or --config and --weights."""
    if not workdir and not weights:
        raise UserError("--workdir is missing; name the folder of a training run, or give --config and --weights")
    if workdir and (weights or (config.given and not config.of_workdir)):
        raise UserError("--workdir has a config and weights of its own; leave out --config and --weights")


def with_config_of_workdir(argv: list[str]) -> list[str]:
    """`argv` with the configuration of the run in --workdir as --config, unless that or --weights is given."""
    flagged = [argument.lstrip("-") if argument.startswith("-") else "" for argument in argv]
    names = [argument.partition("=")[0] for argument in flagged]
    if "config" in names or "weights" in names or "workdir" not in names:
        return argv
    place = names.index("workdir")
    _, equals, value = flagged[place].partition("=")
    workdir = value if equals else "".join(argv[place + 1 : place + 2])
    if not workdir or ("://" not in workdir and not (Path(workdir) / "config.json").exists()):
        return argv
    return [argv[0], f"--config={RESUMED}:{workdir}", *argv[1:]]


def run(main: Callable[[list[str]], None], program: str) -> None:
    """Parses the flags and runs `main`; bad input is told in one line and exits with 2."""

    def parse(argv: list[str]) -> list[str]:
        try:
            with _readers_choice():
                return flags.FLAGS(argv)
        except flags.Error as error:
            fail(program, explain_override(argv) or _last_line(error))
        except UserError as error:
            fail(program, _one_line(error))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            fail(program, explain_override(argv) or f"--config: {_one_line(error)}")
        except SystemExit:  # --help has been printed; absl would exit with 1
            with _readers_choice():
                sys.stdout.flush()
            sys.exit(0)

    def guarded(argv: list[str]) -> None:
        _quieten()
        try:
            with _readers_choice():
                main(argv)
                sys.stdout.flush()
        except UserError as error:
            fail(program, _one_line(error))
        except KeyboardInterrupt:
            fail(program, "interrupted", status=130)

    # Names of files and classes may hold what this terminal cannot show; a name in half is better than a traceback.
    sys.stdout.reconfigure(errors="backslashreplace")
    app.run(guarded, flags_parser=parse)


@contextmanager
def _readers_choice() -> Iterator[None]:
    """Ends the process without a word where the reader of its output, such as head, has seen enough."""
    try:
        yield
    except BrokenPipeError:
        os._exit(141)


def _quieten() -> None:
    """Leaves it to the main thread to speak: what fails in a library's background reaches it as an exception."""
    faulthandler.disable()  # absl's: pages of every thread's stack where a lost process ends this one
    logging.set_verbosity(logging.FATAL)
    sys.excepthook = _in_main_thread(sys.excepthook)
    sys.unraisablehook = _in_main_thread(sys.unraisablehook)
    threading.excepthook = lambda error: None


def _in_main_thread(hook: Callable) -> Callable:
    return lambda *error: hook(*error) if threading.current_thread() is threading.main_thread() else None


def fail(program: str, message: str, status: int = 2) -> None:
    """Ends the process at once: what runs in the background, and may have failed too, is not waited for."""
    sys.stdout.flush()
    print(f"{program}: error: {message}", file=sys.stderr, flush=True)
    os._exit(status)


def _one_line(error: BaseException) -> str:
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return one_line(message)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def explain_override(argv: list[str]) -> str:
    """Names the first --config.a.b=value that the configuration has no single field for, or ''."""
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
    return ""


def _sets(argument: str) -> bool:
    return argument == "--config" or argument.startswith("--config=")
