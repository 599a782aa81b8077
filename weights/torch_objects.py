"""The names that torch's pickles may contain, and the descriptions that calls of them return.

Any other name raises Foreign. Everything here is immutable, except for the pickle's own dicts.
Source: torch/_utils.py, torch/_tensor.py, torch/_weights_only_unpickler.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from morphism.weights.pickles import Inert, named

LARGEST = 2**48  # size, stride or offset
LONGEST_KEY = 100  # characters of a storage's key; torch's are numbers
AXES = 64  # NumPy's maximum
LAZY = ("conj", "neg")  # in a tensor's metadata: torch._utils.get_tensor_metadata
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
DTYPES = {  # views of an UntypedStorage have them, and settings
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
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
INERT = {  # module -> its classes and functions that become placeholders
    "argparse": "Namespace",
    "builtins": "bool bytearray bytes complex dict float frozenset int list long object range set slice str tuple "
    "unicode xrange",
    "collections": "Counter deque",
    "copyreg": "_reconstructor",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "numpy": "bool bool_ bytes_ complex128 complex64 datetime64 dtype float16 float32 float64 int16 int32 int64 int8 "
    "longdouble ndarray str_ timedelta64 uint16 uint32 uint64 uint8 void",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy._core.numeric": "_frombuffer",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "torch": "Generator Tensor complex32 device qint32 qint8 quint8",
    "torch.nn.parameter": "Buffer Parameter",
    "torch.serialization": "_get_layout",
    "torch.torch_version": "TorchVersion",
    "types": "SimpleNamespace",
    "uuid": "UUID SafeUUID",
    "_codecs": "encode",
}
SETTINGS = (  # packages for settings and logs: all of their names become placeholders
    *("addict", "detectron2.config", "easydict", "fvcore.common.config", "lightning", "lightning_fabric"),
    *("ml_collections", "mmcv", "mmengine", "numpy.dtypes", "numpy.random", "omegaconf", "pytorch_lightning", "yacs"),
)
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2 -> 3


@dataclass(frozen=True, slots=True)
class Dtype:
    """Stands for a class of storages or a dtype."""

    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class Maker:
    """Stands for a function or class; calling it calls `make`, which checks its arguments."""

    make: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Storage:
    """`count` values of those stored under `key`, from index `start` on."""

    key: str
    dtype: np.dtype
    start: int
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, in which all its values lie. Offset and strides are in values of `dtype`.

    `lazy` names what torch has yet to do to the stored values: "conj" after x.conj(), "neg" after x.conj().imag.
    """

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    lazy: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class Foreign(Exception):
    """The pickle contains a name that is not accepted."""


def name(module: str, attribute: str) -> Any:
    """The Inert, Dtype or Maker that stands for module.attribute. Raises Foreign."""
    module = RENAMED.get(module, module)
    if (module, attribute) in KNOWN:
        return KNOWN[module, attribute]
    if module.startswith(tuple(f"{each}." for each in SETTINGS)) or module in SETTINGS:
        return Inert(f"{module}.{attribute}")
    raise Foreign(f"{module}.{attribute}")


def call(function: Any, arguments: tuple) -> Any:
    """The result of calling `function`, or a class. Raises ValueError, or TypeError for too few arguments."""
    if type(function) is Inert:
        return function
    if type(function) is Maker:
        return function.make(*arguments)
    raise ValueError(f"it calls a {type(function).__name__}")


def storage_of(reference: Any, length: int) -> Storage:
    """The storage that a reference points to: a tuple of "storage", dtype, key, location, number of values, ..."""
    if type(reference) is not tuple or len(reference) != length or reference[0] != "storage":
        raise ValueError("a reference to what is no storage")
    _, kind, key, _, count = reference[:5]
    if type(kind) is not Dtype or type(key) is not str or len(key) > LONGEST_KEY or not is_count(count):
        raise ValueError("a storage that is none")
    return Storage(key, kind.dtype, 0, count)


def is_count(value: Any) -> bool:
    """Whether `value` can be a size, stride or offset."""
    return type(value) is int and 0 <= value <= LARGEST


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    gradient: Any = False,
    hooks: Any = None,
    metadata: Any = None,
    *more: Any,
) -> Tensor:
    """torch._utils._rebuild_tensor_v2. Raises ValueError beyond the storage."""
    if type(storage) is not Storage:
        raise ValueError("a tensor without a storage")
    return _within(storage, storage.dtype, offset, shape, strides, metadata)


def _tensor_of_bytes(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    gradient: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
    *more: Any,
) -> Tensor:
    """torch._utils._rebuild_tensor_v3: for dtypes without a storage class."""
    if type(storage) is not Storage or type(dtype) is not Dtype:
        raise ValueError("a tensor without a storage or dtype")
    return _within(storage, dtype.dtype, offset, shape, strides, metadata)


def _within(storage: Storage, dtype: np.dtype, offset: Any, shape: Any, strides: Any, metadata: Any) -> Tensor:
    if type(shape) is not tuple or type(strides) is not tuple or not len(shape) == len(strides) <= AXES:
        raise ValueError("a tensor without a shape")
    if not all(map(is_count, (offset, *shape, *strides))):
        raise ValueError("a tensor of an impossible shape")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.nbytes // dtype.itemsize:
        raise ValueError("a tensor beyond its storage")
    lazy = tuple(bit for bit in LAZY if type(metadata) is dict and metadata.get(bit) is True)
    return Tensor(storage, dtype, offset, shape, strides, lazy)


def _parameter(tensor: Any, *more: Any) -> Tensor:
    """torch._utils._rebuild_parameter; `more` is about gradients and attributes."""
    if type(tensor) is not Tensor:
        raise ValueError("a parameter that is no tensor")
    return tensor


def _typed(function: Any, kind: Any, arguments: Any, state: Any) -> Tensor:
    """torch._tensor._rebuild_from_type_v2: a tensor or parameter that has attributes."""
    maker = TENSOR if function is TENSOR else TENSOR_OF_BYTES if function is TENSOR_OF_BYTES else None
    if maker is None or type(kind) is not Inert or type(arguments) is not tuple:
        raise ValueError("a tensor of another kind")
    return maker.make(*arguments)


def _ordered(pairs: Any = ()) -> dict[str, Any]:
    """collections.OrderedDict; Python 2 passes its items as pairs."""
    if type(pairs) not in (list, tuple) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("a dict of what are no pairs")
    return named(pairs)


def _size(sizes: Any = ()) -> tuple:
    """torch.Size"""
    if type(sizes) not in (list, tuple):
        raise ValueError("a size that is none")
    return tuple(sizes)


def _attribute(owner: Any, name: Any) -> Inert:
    """getattr: older pickles name the methods of a class this way."""
    if type(owner) is not Inert:
        raise Foreign("builtins.getattr")
    return owner


TENSOR, TENSOR_OF_BYTES = Maker(_tensor), Maker(_tensor_of_bytes)
KNOWN: dict[tuple[str, str], Any] = {
    ("builtins", "getattr"): Maker(_attribute),
    ("collections", "OrderedDict"): Maker(_ordered),
    ("collections", "defaultdict"): Maker(lambda *_: {}),
    ("torch", "Size"): Maker(_size),
    ("torch._utils", "_rebuild_tensor"): TENSOR,
    ("torch._utils", "_rebuild_tensor_v2"): TENSOR,
    ("torch._utils", "_rebuild_tensor_v3"): TENSOR_OF_BYTES,
    ("torch._utils", "_rebuild_parameter"): Maker(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Maker(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Maker(_typed),
    ("torch.storage", "UntypedStorage"): Dtype(np.dtype(np.uint8)),
    **{("torch", name): Dtype(np.dtype(dtype)) for name, dtype in (STORAGES | DTYPES).items()},
    **{(module, name): Inert(f"{module}.{name}") for module, names in INERT.items() for name in names.split()},
}
