"""Sends a function to worker processes without a copy of its tables in each.

Arrays of LARGE bytes and more are written to a file once, and every worker maps the same file into its memory, whose
pages the system shares. So the memory of a worker does not grow with the number of records, whatever the source holds.
"""

import io
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from morphism.errors import UserError

LARGE = 1 << 18  # bytes
CONTENT = "content"


@contextmanager
def shipped(function: Callable) -> Iterator[tuple["Shipped", Callable[[], None]]]:
    """`function` as it should be sent, and what to call when all processes have received it.

    The files go with that call, or with the context. Raises UserError if they cannot be written.
    """
    folder = Path(tempfile.mkdtemp(prefix="morphism-input-"))

    def received() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    try:
        try:
            with (folder / CONTENT).open("wb") as file:
                _Pickler(file, folder).dump(function)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}); tables of the data are sent to worker processes "
                "there: make room, set TMPDIR to another folder, or --config.data.workers=0"
            ) from error
        yield Shipped(function, folder), received
    finally:
        received()


@dataclass(frozen=True)
class Shipped:
    """A function that is pickled as the folder that holds it."""

    function: Callable
    folder: Path

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __reduce__(self) -> tuple[Callable, tuple[Path]]:
        return _opened, (self.folder,)


def _opened(folder: Path) -> Callable:
    return _Unpickler(io.BytesIO((folder / CONTENT).read_bytes()), folder).load()


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BufferedIOBase, folder: Path):
        super().__init__(file)
        self._folder, self._written = folder, {}

    def persistent_id(self, value: Any) -> str | None:
        """The name of the file of a large array."""
        if not isinstance(value, np.ndarray) or value.nbytes < LARGE or value.dtype.hasobject:
            return None
        if id(value) not in self._written:
            name = f"{len(self._written)}.npy"
            np.save(self._folder / name, value)
            self._written[id(value)] = name, value  # which keeps the array, so that its id stays its own
        return self._written[id(value)][0]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BufferedIOBase, folder: Path):
        super().__init__(file)
        self._folder = folder

    def persistent_load(self, name: str) -> np.ndarray:
        return np.load(self._folder / name, mmap_mode="c")  # a change stays in its process
