"""The kinds of sources: the files in data/sources, found by name, so that a new format is a new file."""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent / "sources"


def kinds() -> list[str]:
    return [module.name for module in pkgutil.iter_modules([str(FOLDER)])]


def module_of(kind: str) -> ModuleType:
    return importlib.import_module(f"morphism.data.sources.{kind}")
