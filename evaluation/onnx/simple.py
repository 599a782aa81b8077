"""Elementwise operations, and those that only move values."""

from collections.abc import Callable
from typing import Any

import numpy as np

from morphism.evaluation.onnx.graph import WHOLE, Graph, Rule, Value, internal, is_static, made


def names(graph: Graph, inputs: list[Value], shape: tuple) -> list[str]:
    """Names of operands that ONNX broadcasts to `shape`: broadcasts are made only if no operand has the shape."""
    whole = any(value.narrow is None and value.shape == shape for value in inputs)
    found = []
    for value in inputs:
        narrow = value.narrow is not None and whole
        found.append(graph.name(value.narrow if narrow else value))
        whole = whole or value.shape == shape
    return found


def elementwise(make: Callable[..., str]) -> Rule:
    """A rule for make(graph, *names) -> name."""

    def rule(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
        aval = eqn.outvars[0].aval
        return [made(make(graph, *names(graph, inputs, aval.shape)), aval)]

    return rule


def plain(kind: str, **attributes: Any) -> Rule:
    return elementwise(lambda graph, *x: graph.op(kind, *x, **attributes))


def constant_like(graph: Graph, value: float, dtype: Any) -> str:
    return graph.constant(np.array(value, internal(dtype)))


def _maximum(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Max(x, 0) is Relu, which runtimes fuse with convolutions."""
    aval = eqn.outvars[0].aval
    for x, other in (inputs, inputs[::-1]):
        is_zero = other.array is not None and not np.any(other.array)
        if is_zero and x.array is None and x.shape == aval.shape and x.dtype.kind == "f":
            return [made(graph.op("Relu", graph.name(x)), aval)]
    return plain("Max")(graph, eqn, inputs)


def _logical(of_bools: str, of_integers: str) -> Rule:
    def rule(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
        return plain(of_bools if inputs[0].dtype == bool else of_integers)(graph, eqn, inputs)

    return rule


def _compared(kind: str, negated: bool = False) -> Rule:
    """Booleans are compared as integers."""

    def rule(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
        aval = eqn.outvars[0].aval
        x = names(graph, inputs, aval.shape)
        if inputs[0].dtype == bool:
            x = [graph.cast(each, np.int32) for each in x]
        found = graph.op(kind, *x)
        return [made(graph.op("Not", found) if negated else found, aval)]

    return rule


def where(graph: Graph, which: str, x: str, other: str, dtype: Any) -> str:
    """x where `which` holds; ONNX's Where has no kernel for booleans everywhere."""
    if np.dtype(dtype) != bool:
        return graph.op("Where", which, x, other)
    return graph.op("Or", graph.op("And", which, x), graph.op("And", graph.op("Not", which), other))


def _select(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """case[which]."""
    aval = eqn.outvars[0].aval
    which, *cases = names(graph, inputs, aval.shape)
    found = cases[0]
    for number, case in enumerate(cases[1:], 1):
        here = which if inputs[0].dtype == bool else graph.op("Equal", which, graph.constant(number, np.int32))
        found = where(graph, here, case, found, aval.dtype)
    return [made(found, aval)]


def _cast(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x,) = eqn.outvars[0].aval, inputs
    if x.dtype == internal(aval.dtype):
        return [Value(aval.shape, x.dtype, x.name, x.array, x.narrow)]
    if x.narrow is not None:
        small = Value(x.narrow.shape, internal(aval.dtype), graph.cast(graph.name(x.narrow), internal(aval.dtype)))
        return [Value(aval.shape, small.dtype, narrow=small)]
    return [made(graph.cast(graph.name(x), internal(aval.dtype)), aval)]


def _integer_pow(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x,), power = eqn.outvars[0].aval, inputs, eqn.params["y"]
    name = graph.name(x)
    if power == 2:
        return [made(graph.op("Mul", name, name), aval)]
    return [made(graph.op("Pow", name, constant_like(graph, power, aval.dtype)), aval)]


def _is_finite(graph: Graph, x: str) -> str:
    return graph.op("Not", graph.op("Or", graph.op("IsNaN", x), graph.op("IsInf", x)))


def _plus(graph: Graph, eqn: Any, x: str, value: float) -> str:
    return graph.op("Add", x, constant_like(graph, value, eqn.outvars[0].aval.dtype))


def _clamp(graph: Graph, low: str, x: str, high: str) -> str:
    return graph.op("Min", graph.op("Max", x, low), high)


def same(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The inputs as they are."""
    return inputs


def broadcast(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Only a value with as many axes is made; it is expanded where something needs that."""
    aval, (x, *_) = eqn.outvars[0].aval, inputs
    axes = eqn.params["broadcast_dimensions"]
    small = [1] * len(aval.shape)
    source = x.narrow if x.narrow is not None else x
    for axis, dim in zip(axes, source.shape, strict=True):
        small[axis] = dim
    small = tuple(small)
    if source.array is not None:
        narrow = Value(small, x.dtype, array=source.array.reshape(small))
    else:
        name = graph.name(source)
        narrow = Value(small, x.dtype, name if small == source.shape else graph.reshaped(name, small))
    if small == aval.shape:
        return [narrow]
    return [Value(aval.shape, x.dtype, narrow=narrow)]


def _reshape(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, x = eqn.outvars[0].aval, inputs[0]
    return [made(graph.reshaped(graph.name(x), aval.shape), aval)]


def _transpose(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x,), perm = eqn.outvars[0].aval, inputs, eqn.params["permutation"]
    return [made(graph.op("Transpose", graph.name(x), perm=perm), aval)]


def _concatenate(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    found = graph.op("Concat", *map(graph.name, inputs), axis=eqn.params["dimension"])
    return [made(found, eqn.outvars[0].aval)]


def _stack(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    axis = graph.constant([eqn.params["axis"]], np.int64)
    each = [graph.op("Unsqueeze", graph.name(x), axis) for x in inputs]
    return [made(graph.op("Concat", *each, axis=eqn.params["axis"]), eqn.outvars[0].aval)]


def _unstack(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    axis, name = eqn.params["axis"], graph.name(inputs[0])
    return [
        made(graph.op("Gather", name, graph.constant(number, np.int64), axis=axis), var.aval)
        for number, var in enumerate(eqn.outvars)
    ]


def _tile(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x,) = eqn.outvars[0].aval, inputs
    return [made(graph.op("Tile", graph.name(x), graph.shape(eqn.params["reps"])), aval)]


def _dim_as_value(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The length of an axis as a number."""
    aval = eqn.outvars[0].aval
    return [made(graph.cast(graph.reshaped(graph.dim(eqn.params["dim"]), ()), internal(aval.dtype)), aval)]


def sliced(graph: Graph, name: str, starts: list, ends: list, steps: list, axes: list) -> str:
    vectors = (graph.constant(np.array(each, np.int64)) for each in (starts, ends, axes, steps))
    return graph.op("Slice", name, *vectors)


def _slice(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x,), params = eqn.outvars[0].aval, inputs, eqn.params
    steps = params["strides"] or (1,) * len(x.shape)
    cuts = []
    for axis, (dim, start, end, step) in enumerate(
        zip(x.shape, params["start_indices"], params["limit_indices"], steps, strict=True)
    ):
        whole = end is dim or end == dim
        if not (whole and step == 1 and is_static(start) and start == 0):
            cuts.append((start, WHOLE if whole else end, step, axis))
    if not cuts:
        return [x]
    return [made(sliced(graph, graph.name(x), *map(list, zip(*cuts, strict=True))), aval)]


def _pad(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x, value), config = eqn.outvars[0].aval, inputs, eqn.params["padding_config"]
    if any(between for *_, between in config):
        raise NotImplementedError("pad with gaps between values")
    name = graph.name(x)
    cut = [(axis, low, high) for axis, (low, high, _) in enumerate(config) if low < 0 or high < 0]
    if cut:
        ends = [min(high, 0) or WHOLE for _, _, high in cut]
        starts = [max(-low, 0) for _, low, _ in cut]
        name = sliced(graph, name, starts, ends, [1] * len(cut), [axis for axis, *_ in cut])
    pads = [max(low, 0) for low, *_ in config] + [max(high, 0) for _, high, _ in config]
    if not any(pads):
        return [made(name, aval)]
    fill = graph.reshaped(graph.name(value), ())
    if x.dtype == bool:
        name, fill = (graph.cast(each, np.int32) for each in (name, fill))
    found = graph.op("Pad", name, graph.constant(pads, np.int64), fill)
    return [made(graph.cast(found, bool) if x.dtype == bool else found, aval)]


def _reverse(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x,), axes = eqn.outvars[0].aval, inputs, list(eqn.params["dimensions"])
    count = len(axes)
    return [made(sliced(graph, graph.name(x), [-1] * count, [-WHOLE] * count, [-1] * count, axes), aval)]


def _split(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    (x,), sizes = inputs, eqn.params["sizes"]
    if len(sizes) == 1:
        return [x]
    lengths = graph.constant(np.array(sizes, np.int64))
    found = graph.op("Split", graph.name(x), lengths, outputs=len(sizes), axis=eqn.params["axis"])
    return [made(name, var.aval) for name, var in zip(found, eqn.outvars, strict=True)]


def counted(graph: Graph, length: Any, dtype: Any) -> str:
    """0, 1, ... along an axis of `length`, a vector."""
    if is_static(length):
        return graph.constant(np.arange(length, dtype=dtype))
    end = graph.reshaped(graph.dim(length), ())
    found = graph.op("Range", graph.constant(0, np.int64), end, graph.constant(1, np.int64))
    return found if np.dtype(dtype) == np.int64 else graph.cast(found, dtype)


def _iota(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, axis = eqn.outvars[0].aval, eqn.params["dimension"]
    small = tuple(dim if position == axis else 1 for position, dim in enumerate(aval.shape))
    line = counted(graph, aval.shape[axis], internal(aval.dtype))
    narrow = Value(small, internal(aval.dtype), graph.reshaped(line, small) if len(small) > 1 else line)
    return [narrow if small == aval.shape else Value(aval.shape, narrow.dtype, narrow=narrow)]


RULES: dict[str, Rule] = {
    **{
        name: plain(kind)
        for name, kind in {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "min": "Min"}.items()
    },
    **{
        name: plain(name.capitalize()) for name in ("exp", "log", "tanh", "sqrt", "abs", "neg", "sign", "floor", "ceil")
    },
    **{name: plain(name.capitalize()) for name in ("erf", "sin", "cos")},
    "add_any": plain("Add"),
    "max": _maximum,
    "pow": plain("Pow"),
    "logistic": plain("Sigmoid"),
    "rsqrt": elementwise(lambda graph, x: graph.op("Reciprocal", graph.op("Sqrt", x))),
    "square": elementwise(lambda graph, x: graph.op("Mul", x, x)),
    "exp2": elementwise(lambda graph, x: graph.op("Pow", graph.constant(2, np.float32), x)),
    "log1p": lambda graph, eqn, inputs: [
        made(graph.op("Log", _plus(graph, eqn, graph.name(inputs[0]), 1)), eqn.outvars[0].aval)
    ],
    "expm1": lambda graph, eqn, inputs: [
        made(_plus(graph, eqn, graph.op("Exp", graph.name(inputs[0])), -1), eqn.outvars[0].aval)
    ],
    "round": plain("Round"),
    "rem": plain("Mod", fmod=1),
    "integer_pow": _integer_pow,
    "is_finite": elementwise(_is_finite),
    "and": _logical("And", "BitwiseAnd"),
    "or": _logical("Or", "BitwiseOr"),
    "xor": _logical("Xor", "BitwiseXor"),
    "not": _logical("Not", "BitwiseNot"),
    "eq": _compared("Equal"),
    "ne": _compared("Equal", negated=True),
    "lt": _compared("Less"),
    "le": _compared("LessOrEqual"),
    "gt": _compared("Greater"),
    "ge": _compared("GreaterOrEqual"),
    "select_n": _select,
    "clamp": elementwise(_clamp),
    "convert_element_type": _cast,
    **dict.fromkeys(("copy", "copy_p", "stop_gradient", "reduce_precision", "optimization_barrier"), same),
    "broadcast_in_dim": broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "dim_as_value": _dim_as_value,
    "slice": _slice,
    "pad": _pad,
    "rev": _reverse,
    "split": _split,
    "iota": _iota,
}
