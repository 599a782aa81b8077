"""torch.save's files read without torch: tensors and plain containers, and nothing else.

A file is a pickle, which can run any program where it is read freely. Here the pickle may name what is listed below and
no more. Both of torch's formats are understood: the zip archive (torch >= 1.6) with a member a storage, and the older
row of pickles with the storages behind them. Source: torch/serialization.py and torch/_utils.py.
"""

import collections
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from errors import UserError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
HOLDERS = ("state_dict", "model_state_dict", "model")  # where a checkpoint keeps the model's tensors
STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
DTYPES = {  # as which bytes (UntypedStorage) may be seen, and what a checkpoint's settings may name
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}


class _Dtype(NamedTuple):
    """Stands where the pickle names a storage's class or a dtype; nothing in a pickle can call or change it."""

    dtype: np.dtype


class _Foreign(Exception):
    """The pickle names what is neither tensor nor plain container."""


def read(path: Path) -> dict[str, np.ndarray]:
    """Torch's name -> array, of the state dict in `path`; the arrays are views into its storages, not writable.

    A checkpoint of several parts gives the part named "state_dict", "model_state_dict" or "model", looked for in this
    order and again inside it; without one, the tensors of the dict itself, and whatever else it holds is left out. The
    prefix "module.", which torch's data parallelism writes, is taken off where all names have it.
    Raises UserError for a file that is broken, big-endian, holds anything but tensors and plain containers, or none.
    """
    try:
        with path.open("rb") as file:
            content = _read_zip(file) if file.read(4) == b"PK\x03\x04" else _read_old(file)
    except _Foreign as error:
        raise UserError(
            f"{path}: holds {error}, which is no tensor, and reading it would run a program; where you trust the file, "
            "load it in torch, and save the model's state_dict() with safetensors"
        ) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever cut or altered bytes lead unpickling to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: broken, or no file of torch.save ({reason[:200]}); fetch it again") from error
    return _state_dict(content, path)


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        index = next((name for name in archive.namelist() if re.fullmatch(r"[^/]*/data\.pkl", name)), None)
        if index is None:
            raise ValueError("an archive without data.pkl")
        folder = index.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise UserError("written on a big-endian machine; save it again on a little-endian one")
        storages: dict[str, bytes] = {}

        def find(reference: tuple) -> np.ndarray:
            kind, storage, key, _, count = reference
            if kind != "storage":
                raise ValueError(f"a reference to {kind!r}")
            if key not in storages:
                storages[key] = archive.read(f"{folder}data/{key}")
            return _values(storages[key], storage.dtype, count)

        with archive.open(index) as stream:
            return _Unpickler(stream, find).load()


def _read_old(file: BinaryIO) -> Any:
    """The pickles: magic number, version, the machine, the content, the storages' keys; then count and bytes of each.

    The content comes before its bytes, so tensors are first made in storages of zeros, which the bytes then fill.
    """
    file.seek(0)

    def none(reference: tuple) -> None:
        raise ValueError("a storage before the content")

    if _Unpickler(file, none).load() != MAGIC:
        raise ValueError("another magic number")
    version, machine = _Unpickler(file, none).load(), _Unpickler(file, none).load()
    if version != PROTOCOL:
        raise ValueError(f"version {version}")
    if not machine["little_endian"]:
        raise UserError("written on a big-endian machine; save it again on a little-endian one")
    start = file.tell()
    size = file.seek(0, 2)
    file.seek(start)
    storages: dict[str, np.ndarray] = {}

    def find(reference: tuple) -> np.ndarray:
        kind, storage, key, _, count, view = reference
        if kind != "storage":
            raise ValueError(f"a reference to {kind!r}")
        if key not in storages:
            if not 0 <= count * storage.dtype.itemsize <= size:
                raise ValueError(f"storage {key} is larger than the file")
            storages[key] = np.zeros(count, storage.dtype)
        values = storages[key]
        if view is not None:
            _, offset, length = view
            if not 0 <= offset <= offset + length <= len(values):
                raise ValueError(f"a view beyond storage {key}")
            values = values[offset : offset + length]
        return values

    content = _Unpickler(file, find).load()
    for key in _Unpickler(file, none).load():
        storage = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(storage.nbytes)
        if count != len(storage) or len(data) != storage.nbytes:
            raise ValueError(f"storage {key} is cut off")
        storage.view(np.uint8)[:] = np.frombuffer(data, np.uint8)
    return content


class _Whole:
    """A stream whose end is an EOFError wherever it comes."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    def read(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise EOFError("it ends too early")
        return data

    def readline(self) -> bytes:
        line = self._stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line


class _Unpickler(pickle._Unpickler):
    """`find` maps the reference to a storage, a tuple of torch's, to the array of its values.

    The form of the pickle module that is written in Python: the other reserves whatever memory broken bytes ask for.
    """

    def __init__(self, stream: BinaryIO, find: Callable[[tuple], np.ndarray]):
        super().__init__(_Whole(stream), encoding="utf-8")
        self._find = find

    def persistent_load(self, reference: tuple) -> np.ndarray:
        return self._find(reference)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ADMITTED:
            return ADMITTED[module, name]
        raise _Foreign(f"{module}.{name}")


def _values(data: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    """`count` is in values, or in bytes for an untyped storage, whose dtype is uint8."""
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"a storage of {len(data)} bytes where {count} values of {dtype} are said to be")
    return np.frombuffer(data, dtype)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """torch._utils._rebuild_tensor_v2: a view; offset and strides in values. Raises ValueError beyond the storage."""
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise ValueError(f"a tensor of shape {shape} and strides {strides}")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    if last >= len(storage):
        raise ValueError("a tensor beyond its storage")
    steps = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _tensor_of_bytes(
    storage: np.ndarray, offset: int, shape: tuple, strides: tuple, _: bool, __: Any, dtype: _Dtype, *___: Any
) -> np.ndarray:
    """torch._utils._rebuild_tensor_v3: dtypes that have no storage class of their own."""
    return _tensor(storage.view(dtype.dtype), offset, shape, strides)


def _parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_bytes,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "UntypedStorage"): _Dtype(np.dtype(np.uint8)),
    **{("torch", name): _Dtype(np.dtype(dtype)) for name, dtype in (STORAGES | DTYPES).items()},
}


def _state_dict(content: Any, path: Path) -> dict[str, np.ndarray]:
    while isinstance(content, dict):
        inner = next((content[name] for name in HOLDERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    tensors = content if isinstance(content, dict) else {}
    tensors = {name: x for name, x in tensors.items() if isinstance(name, str) and isinstance(x, np.ndarray)}
    if not tensors:
        held = ", ".join(map(str, content)) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise UserError(
            f"{path}: no state dict in it, but {held[:200] or 'nothing'}; a model's tensors are looked for at the top, "
            f"or under {', '.join(HOLDERS)}"
        )
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): x for name, x in tensors.items()}
    return tensors
