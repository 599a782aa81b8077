"""Convolutions, products, reductions and pooling."""

import string
from typing import Any

import numpy as np

from morphism.evaluation.onnx.graph import Graph, Rule, Value, internal, made

CHANNELS_FIRST = (0, 3, 1, 2)
CHANNELS_LAST = (0, 2, 3, 1)


def _convolution(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x, kernel), params = eqn.outvars[0].aval, inputs, eqn.params
    numbers, pads = params["dimension_numbers"], params["padding"]
    if any(each != 1 for each in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise NotImplementedError("a transposed convolution")
    if min(min(pair) for pair in pads) < 0:
        raise NotImplementedError("a convolution with negative padding")
    found = graph.op(
        "Conv",
        _moved(graph, x, numbers.lhs_spec),
        _moved(graph, kernel, numbers.rhs_spec),
        strides=params["window_strides"],
        pads=[low for low, _ in pads] + [high for _, high in pads],
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )
    return [made(graph.op("Transpose", found, perm=np.argsort(numbers.out_spec).tolist()), aval)]


def _moved(graph: Graph, x: Value, perm: tuple[int, ...]) -> str:
    if x.array is not None:
        return graph.constant(np.ascontiguousarray(x.array.transpose(perm)))
    return graph.op("Transpose", graph.name(x), perm=perm)


def _product(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """A matrix product where it is one, otherwise ONNX's Einsum."""
    aval, (x, y) = eqn.outvars[0].aval, inputs
    (summed_x, summed_y), (shared_x, shared_y) = eqn.params["dimension_numbers"]
    rank_x, rank_y = len(x.shape), len(y.shape)
    if not shared_x and summed_x == (rank_x - 1,) and rank_y == 2:
        y_name = _moved(graph, y, (1, 0)) if summed_y == (1,) else graph.name(y)
        return [_as(graph, graph.op("MatMul", graph.name(x), y_name), aval, x)]
    letters = iter(string.ascii_letters)
    of_x = [next(letters) for _ in range(rank_x)]
    of_y = [""] * rank_y
    for axes_x, axes_y in ((summed_x, summed_y), (shared_x, shared_y)):
        for axis_x, axis_y in zip(axes_x, axes_y, strict=True):
            of_y[axis_y] = of_x[axis_x]
    of_y = [each or next(letters) for each in of_y]
    out = [of_x[axis] for axis in shared_x]
    out += [each for axis, each in enumerate(of_x) if axis not in (*summed_x, *shared_x)]
    out += [each for axis, each in enumerate(of_y) if axis not in (*summed_y, *shared_y)]
    equation = f"{''.join(of_x)},{''.join(of_y)}->{''.join(out)}"
    return [_as(graph, graph.op("Einsum", graph.name(x), graph.name(y), equation=equation), aval, x)]


def _as(graph: Graph, name: str, aval: Any, x: Value) -> Value:
    """The result in the type that JAX gives it."""
    return made(name if x.dtype == internal(aval.dtype) else graph.cast(name, internal(aval.dtype)), aval)


def _reduction(kind: str) -> Rule:
    """Booleans are reduced as integers: "all" is a minimum, "any" a maximum."""

    def rule(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
        aval, (x,), axes = eqn.outvars[0].aval, inputs, eqn.params["axes"]
        if not axes:
            return [x]
        name = graph.cast(graph.name(x), np.int32) if x.dtype == bool else graph.name(x)
        found = graph.op(kind, name, graph.constant(axes, np.int64), keepdims=0)
        return [made(graph.cast(found, bool) if x.dtype == bool else found, aval)]

    return rule


def _position(kind: str) -> Rule:
    def rule(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
        aval, (x,), (axis,) = eqn.outvars[0].aval, inputs, eqn.params["axes"]
        name = graph.cast(graph.name(x), np.int32) if x.dtype == bool else graph.name(x)
        found = graph.op(kind, name, axis=axis, keepdims=0)
        dtype = internal(aval.dtype)
        return [made(found if dtype == np.int64 else graph.cast(found, dtype), aval)]

    return rule


def _cumulative(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x,), params = eqn.outvars[0].aval, inputs, eqn.params
    axis = graph.constant(params["axis"], np.int64)
    return [made(graph.op("CumSum", graph.name(x), axis, reverse=int(params["reverse"])), aval)]


def _max_pooling(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x,), params = eqn.outvars[0].aval, inputs, eqn.params
    found = graph.op("MaxPool", _channels_first(graph, x, params), **_windows(params), dilations=_dilations(params))
    return [made(graph.op("Transpose", found, perm=CHANNELS_LAST), aval)]


def _sum_pooling(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x,), params = eqn.outvars[0].aval, inputs, eqn.params
    if _dilations(params) != (1, 1):
        raise NotImplementedError("sums over windows with gaps")
    means = graph.op("AveragePool", _channels_first(graph, x, params), **_windows(params), count_include_pad=1)
    area = graph.constant(np.float32(np.prod(params["window_dimensions"])))
    return [made(graph.op("Transpose", graph.op("Mul", means, area), perm=CHANNELS_LAST), aval)]


def _channels_first(graph: Graph, x: Value, params: dict[str, Any]) -> str:
    window, strides = params["window_dimensions"], params["window_strides"]
    if len(window) != 4 or (window[0], window[3], strides[0], strides[3]) != (1, 1, 1, 1):
        raise NotImplementedError("windows over other axes than height and width")
    if any(each != 1 for each in params["base_dilation"]):
        raise NotImplementedError("windows over values with gaps")
    return graph.op("Transpose", graph.name(x), perm=CHANNELS_FIRST)


def _windows(params: dict[str, Any]) -> dict[str, Any]:
    pads = params["padding"][1:3]
    return {
        "kernel_shape": params["window_dimensions"][1:3],
        "strides": params["window_strides"][1:3],
        "pads": [low for low, _ in pads] + [high for _, high in pads],
    }


def _dilations(params: dict[str, Any]) -> tuple[int, int]:
    return tuple(params["window_dilation"][1:3])


RULES: dict[str, Rule] = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_and": _reduction("ReduceMin"),
    "reduce_or": _reduction("ReduceMax"),
    "argmax": _position("ArgMax"),
    "argmin": _position("ArgMin"),
    "cumsum": _cumulative,
    "reduce_window_max": _max_pooling,
    "reduce_window_sum": _sum_pooling,
}
