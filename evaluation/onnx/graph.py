"""The values, nodes and constants of an ONNX graph that is being made."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

OPSET = 18
BATCH = "batch"  # the symbol of the batch's size in JAX's shapes, and its name in the graph
WHOLE = np.iinfo(np.int64).max  # as an end of a slice: to the end of the axis

Dim = Any  # int, or an expression of BATCH
Shape = tuple[Dim, ...]


@dataclass(eq=False)
class Value:
    """An array of the graph.

    dtype: that of the graph, by `internal`. name: of the tensor; "" if there is none yet. array: its content, if known.
    narrow: the value that it is a broadcast of, with the same rank; there is no tensor before one is needed.
    """

    shape: Shape
    dtype: np.dtype
    name: str = ""
    array: np.ndarray | None = None
    narrow: "Value | None" = None


@dataclass
class Scope:
    """The nodes of a graph or subgraph, and the broadcasts that were made there."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    expanded: dict[int, tuple[Value, str]] = field(default_factory=dict)


class Graph:
    """A graph that is being made: `op` adds nodes, constants become initialisers."""

    def __init__(self) -> None:
        self.initialisers: list[onnx.TensorProto] = []
        self.scopes = [Scope()]
        self._count = 0
        self._constants: dict[Any, str] = {}
        self._transposed: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.batch = ""  # an int64 [1], the batch's size

    # Names

    def fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def constant(self, array: Any, dtype: Any = None) -> str:
        """The name of a tensor with this content; equal ones share it."""
        array = np.asarray(array, dtype, order="C")
        digest = hashlib.sha256(array.tobytes()).digest()
        key = array.dtype.str, array.shape, digest
        if key not in self._constants:
            self._constants[key] = self.fresh("constant")
            self.initialisers.append(onnx.numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def name(self, value: Value) -> str:
        """The name of the value's tensor, which is made if there is none."""
        if value.array is not None and value.narrow is None:
            return self.constant(value.array)
        if value.narrow is None:
            return value.name
        for scope in self.scopes:
            if id(value) in scope.expanded:
                return scope.expanded[id(value)][1]
        made = self.op("Expand", self.name(value.narrow), self.shape(value.shape))
        self.scopes[-1].expanded[id(value)] = value, made
        return made

    # Nodes

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; the name of its output, or the names if there are several."""
        if kind == "Transpose":
            return self._transpose(inputs[0], tuple(map(int, attributes["perm"])))
        names = [self.fresh(kind.lower()) for _ in range(outputs)]
        self.scopes[-1].nodes.append(onnx.helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def _transpose(self, name: str, perm: tuple[int, ...]) -> str:
        """Transposes; two in a row become one or none."""
        if name in self._transposed:
            before, first = self._transposed[name]
            name, perm = before, tuple(first[axis] for axis in perm)
        if perm == tuple(range(len(perm))):
            return name
        made = self.fresh("transpose")
        self.scopes[-1].nodes.append(onnx.helper.make_node("Transpose", [name], [made], perm=perm))
        self._transposed[made] = name, perm
        return made

    @contextmanager
    def subgraph(self) -> Iterator[Scope]:
        """What is added inside belongs to a subgraph, which sees all that was made before."""
        self.scopes.append(Scope())
        try:
            yield self.scopes[-1]
        finally:
            self.scopes.pop()

    # Shapes

    def dim(self, dim: Dim) -> str:
        """An int64 [1] with the length of an axis."""
        if is_static(dim):
            return self.constant([int(dim)], np.int64)
        factor, offset = affine(dim)
        name = self.batch if factor == 1 else self.op("Mul", self.batch, self.constant([factor], np.int64))
        return self.op("Add", name, self.constant([offset], np.int64)) if offset else name

    def shape(self, shape: Sequence[Dim]) -> str:
        """An int64 vector of lengths of axes."""
        if all(map(is_static, shape)):
            return self.constant(np.array(shape, np.int64))
        return self.op("Concat", *map(self.dim, shape), axis=0)

    def reshaped(self, name: str, shape: Sequence[Dim]) -> str:
        lengths = [dim for dim in shape if is_static(dim)]
        if len(shape) - len(lengths) == 1 and 0 not in lengths:  # ONNX finds out the other one itself
            return self.op("Reshape", name, self.constant([dim if is_static(dim) else -1 for dim in shape], np.int64))
        return self.op("Reshape", name, self.shape(shape))

    def cast(self, name: str, dtype: Any) -> str:
        return self.op("Cast", name, to=element_type(dtype))


Rule = Callable[[Graph, Any, list[Value]], Sequence[Value]]


def made(name: str, aval: Any) -> Value:
    """The value of the tensor `name` that stands for an array of JAX's."""
    return Value(aval.shape, internal(aval.dtype), name)


def known(array: Any) -> Value:
    array = np.asarray(array)
    return Value(array.shape, internal(array.dtype), array=array.astype(internal(array.dtype)))


def internal(dtype: Any) -> np.dtype:
    """The type in which values of a type of JAX's are computed."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return dtype
    if dtype.kind in "iu":
        return np.dtype(np.int64 if dtype.itemsize == 8 or dtype == np.uint32 else np.int32)
    if dtype.kind == "f" or dtype.name == "bfloat16":
        return np.dtype(np.float64 if dtype == np.float64 else np.float32)
    raise NotImplementedError(f"values of type {dtype}")


def element_type(dtype: Any) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def is_static(dim: Dim) -> bool:
    return isinstance(dim, int | np.integer)


def affine(dim: Dim) -> tuple[int, int]:
    """A, b such that the length is a batch + b."""
    functions = {"floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b, "max": max, "min": min}
    one, two, three = (eval(str(dim), {"__builtins__": {}} | functions | {BATCH: size}) for size in (1, 2, 3))
    if three - two != two - one:
        raise NotImplementedError(f"an axis of length {dim}")
    return two - one, 2 * one - two


def dim_name(dim: Dim) -> int | str:
    return int(dim) if is_static(dim) else str(dim)
