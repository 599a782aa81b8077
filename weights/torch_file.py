"""Reads torch.save's files without torch: tensors, plain containers, and placeholders for common settings.

A file holds a pickle, and Python's reader of pickles runs whatever program the file contains. This one runs nothing
(weights/pickles.py), and accepts a fixed list of names (weights/torch_objects.py). While the pickle is read, a tensor
is only a description; arrays are made at the end, and only for the tensors in the model's state dict.

Reads both of torch's formats: the zip archive with one member per storage (torch >= 1.6), and the older sequence of
pickles followed by the storages. Source: torch/serialization.py.
"""

import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from morphism.errors import UserError, one_line
from morphism.weights import state_dict
from morphism.weights.archive import Archive
from morphism.weights.pickles import Budget, Machine, Stream
from morphism.weights.torch_objects import Foreign, Storage, Tensor, call, is_count, name, storage_of

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
REPEATED = 64 << 20  # bytes by which all expanded or lazy tensors together may exceed their storages
BUDGET, PER_BYTE = 32 << 20, 8  # bytes of memory for pickled objects: per file, and per byte of the file
NOT_TORCHS = {  # beginnings of other files that people have under these names
    b"version https://git-lfs": "a pointer of Git LFS in place of the file; git lfs pull fetches it",
    b"<!DOCTYPE": "a web page; fetch the file itself",
    b"<html": "a web page; fetch the file itself",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"\x89HDF": "HDF5, perhaps Keras's, which is not read",
}


def read(path: Path, say: Callable[[str], None] = lambda line: None) -> dict[str, np.ndarray]:
    """The state dict in `path`: torch's name -> array. Arrays are read-only views of the storages where they can be.

    weights/state_dict.py decides which part of a checkpoint is used, and which prefixes are removed from names; `say`
    gets a line for each such decision.
    Raises UserError if the file is broken or big-endian, contains no tensors, or contains objects other than tensors,
    plain containers and common settings.
    """
    try:
        with path.open("rb") as file:
            _check_beginning(file)
            size = file.seek(0, 2)
            file.seek(0)
            zipped = file.read(4) == b"PK\x03\x04"
            content, load = _read_zip(file, size) if zipped else _read_old(file, size)
            part = state_dict.choose(content, Tensor)
            notes = list(part.notes)
            arrays = _arrays(state_dict.unwrap(part.tensors, notes.append), load)
    except Foreign as error:
        raise UserError(
            f"{path}: holds {one_line(error)}, which is no tensor, and reading it would run a program; where you "
            "trust the file, load it in torch, and save the model's state_dict() with safetensors"
        ) from error
    except UserError as error:
        raise UserError(f"{path}: {one_line(error)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise UserError(f"{path}: this machine has too little memory for it") from error
    except Exception as error:  # whatever cut or altered bytes lead to
        reason = one_line(error)[:200] or type(error).__name__
        raise UserError(f"{path}: broken, or no file of torch.save ({reason}); fetch it again") from error
    for note in notes:
        say(f"{path}: {one_line(note)}")
    return arrays


def _check_beginning(file: io.BufferedIOBase) -> None:
    start = file.read(512)
    for beginning, meaning in NOT_TORCHS.items():
        if start.startswith(beginning):
            raise UserError(f"is {meaning}")
    if start[257:262] == b"ustar":
        raise UserError("is a tar archive; unpack it first")


def _read_zip(file: io.BufferedIOBase, size: int) -> tuple[Any, Callable[[str], bytes]]:
    """The content, and a function from a storage's key to its bytes."""
    archive = Archive(file)
    indices = [name for name in archive.names() if re.fullmatch(r"([^/]*/)?data\.pkl", name)]
    if len(indices) != 1:
        raise ValueError("an archive without data.pkl" if not indices else "an archive with two of data.pkl")
    folder = indices[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive and archive.read(f"{folder}byteorder") != b"little":
        raise UserError("written on a big-endian machine; save it again on a little-endian one")

    def refer(reference: Any) -> Storage:
        storage = storage_of(reference, 5)
        held = archive.size(f"{folder}data/{storage.key}")
        if held != storage.nbytes:
            raise ValueError(f"a storage of {held} bytes, where {storage.count} values of {storage.dtype} should be")
        return storage

    index = archive.read(indices[0])
    budget = Budget(BUDGET + PER_BYTE * size)
    content = Machine(Stream(io.BytesIO(index), len(index)), budget, name, call, refer).load()
    return content, lambda key: archive.read(f"{folder}data/{key}")


def _read_old(file: io.BufferedIOBase, size: int) -> tuple[Any, Callable[[str], bytes]]:
    """As _read_zip. The pickles: magic number, version, machine, content, keys of the storages; then their bytes."""
    file.seek(0)
    budget = Budget(BUDGET + PER_BYTE * size)
    kept: dict[str, int] = {}  # key -> bytes

    def no_reference(reference: Any) -> None:
        raise ValueError("a storage where none should be")

    def pickled(refer: Callable[[Any], Any] = no_reference) -> Any:
        return Machine(Stream(file, size - file.tell()), budget, name, call, refer).load()

    if pickled() != MAGIC:
        raise ValueError("another magic number")
    version, machine = pickled(), pickled()
    if version != PROTOCOL:
        raise ValueError("another version of the format")
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise UserError("written on a big-endian machine; save it again on a little-endian one")
    content, keys = pickled(partial(_old_storage, kept=kept)), pickled()
    starts = _starts(file, size, keys, kept)

    def load(key: str) -> bytes:
        file.seek(starts[key])
        return file.read(kept[key])

    return content, load


def _old_storage(reference: Any, kept: dict[str, int]) -> Storage:
    """The storage that a reference of the older format points to, or a view of it; its bytes are added to `kept`."""
    storage = storage_of(reference, 6)
    if kept.setdefault(storage.key, storage.nbytes) != storage.nbytes:
        raise ValueError("a storage of two sizes")
    view = reference[5]
    if view is None:
        return storage
    if type(view) is not tuple or len(view) != 3 or not all(map(is_count, view[1:])):
        raise ValueError("a view of a storage that is none")
    if sum(view[1:]) > storage.count:
        raise ValueError("a view beyond its storage")
    return Storage(storage.key, storage.dtype, *view[1:])


def _starts(file: io.BufferedIOBase, size: int, keys: Any, kept: dict[str, int]) -> dict[str, int]:
    """Key of a storage -> offset of its bytes; `file`, of `size` bytes, is positioned at the first storage."""
    found = {}
    for key in keys if type(keys) is list else ():
        if type(key) is not str or key not in kept or key in found:
            raise ValueError("a storage that no tensor has")
        start = file.tell() + 8  # after the number of its values
        if start + kept[key] > size:
            raise ValueError("a storage that is cut off")
        found[key] = start
        file.seek(start + kept[key])
    if found.keys() != kept.keys():
        raise ValueError("a storage that is missing")
    return found


def _arrays(tensors: dict[str, Tensor], load: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    """The arrays of `tensors`. Raises ValueError if expanded and lazy ones are much larger than their storages."""
    held = [(tensor.nbytes, 0 if tensor.lazy else tensor.storage.nbytes) for tensor in tensors.values()]
    if sum(max(0, own - stored) for own, stored in held) > REPEATED:
        raise ValueError("its tensors are much larger than their storages")
    storages = {tensor.storage.key: b"" for tensor in tensors.values()}
    for key in storages:
        storages[key] = load(key)
    return {name: _array(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


def _array(tensor: Tensor, data: bytes) -> np.ndarray:
    if 0 in tensor.shape:
        return np.empty(tensor.shape, tensor.dtype)
    size, storage = tensor.dtype.itemsize, tensor.storage
    start = storage.start * storage.dtype.itemsize + tensor.offset * size
    found = np.ndarray(tensor.shape, tensor.dtype, data, start, tuple(stride * size for stride in tensor.strides))
    for bit in tensor.lazy:
        found = np.conj(found) if bit == "conj" else np.negative(found)
    return found
