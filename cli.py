"""What every command shares: the --config flag, and errors told in one line."""

import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from errors import UserError, did_you_mean


class _Config:
    """The flag --config: a file of `experiments/`, ":variant" after it, and --config.a.b=value for single values."""

    def __init__(self):
        self._flag = config_flags.DEFINE_config_file(
            "config", None, "experiments/FILE.py[:variant]; --config.a.b=value overrides one value", lock_config=True
        )

    @property
    def value(self) -> ConfigDict:
        if self._flag.value is None:
            raise UserError("--config is missing; give an experiment, such as --config experiments/quickstart.py")
        try:
            self._flag.value.is_locked  # noqa: B018  a file that did not load raises on first use
        except OSError as error:
            raise UserError(f"--config: {error.__cause__}") from error
        return self._flag.value


def define_config() -> _Config:
    return _Config()


def run(main: Callable[[list[str]], None], program: str) -> None:
    """Parses the flags and runs `main`; bad input is told in one line and exits with 2."""

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            fail(program, _last_line(error))
        except (UserError, AttributeError, KeyError, TypeError, ValueError) as error:
            fail(program, _explain(error, argv))

    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(logging.ERROR)  # Orbax narrates every save
        try:
            main(argv)
        except UserError as error:
            fail(program, str(error))
        except KeyboardInterrupt:
            fail(program, "interrupted", status=130)

    app.run(guarded, flags_parser=parse)


def fail(program: str, message: str, status: int = 2) -> None:
    print(f"{program}: error: {message}", file=sys.stderr)
    sys.exit(status)


def _last_line(error: Exception) -> str:
    """ml_collections wraps an experiment's exception in a whole traceback: its last line is the message."""
    return str(error).strip().splitlines()[-1].removeprefix("errors.UserError: ")


def _explain(error: Exception, argv: list[str]) -> str:
    """Names the --config.* override that the configuration has no field for."""
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    for argument in argv:
        if not argument.startswith("--config.") or not isinstance(config, ConfigDict):
            continue
        node = config
        path = argument.removeprefix("--").partition("=")[0].split(".")
        for depth, field in enumerate(path[1:], start=1):
            if not isinstance(node, ConfigDict):
                return f"{'.'.join(path[:depth])}: a single value, it has no field {field}"
            if field not in node:
                parent = ".".join(path[:depth])
                near = did_you_mean(field, node.keys()).replace("mean ", f"mean {parent}.")
                return f"{parent}.{field}: no such field{near}"
            node = node[field]
    return _last_line(error)
