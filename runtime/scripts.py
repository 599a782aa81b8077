"""Python files that a person names: experiments, and the spaces of sweeps."""

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from morphism import experiments


def find(file: str) -> Path:
    """The file; "experiments/NAME.py", where there is none, is that of the package, wherever the command is run."""
    path = Path(file)
    packaged = Path(experiments.__path__[0]) / path.name
    return packaged if not path.is_file() and path.parent == Path("experiments") and packaged.is_file() else path


def execute(path: Path, name: str) -> ModuleType:
    """The module `name` that the file defines. What the file raises is raised; RuntimeError where it exits Python."""
    spec = importlib.util.spec_from_file_location(name, path, loader=_Uncached(name, str(path)))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        raise RuntimeError(f"it calls sys.exit({error.code!r})") from error
    return module


class _Uncached(SourceFileLoader):
    """Always compiles the source, and leaves no __pycache__ next to it.

    Python takes cached bytecode for current if the source has the same size and was changed in the same second, and
    whoever edits a number of an experiment and starts it, in a loop, is faster than that.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)
