"""Calls, branches and loops: their bodies are functions of JAX's, which become parts of the graph or subgraphs."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend import core

from morphism.evaluation.onnx import indexing, products, simple
from morphism.evaluation.onnx.graph import (
    Graph,
    Rule,
    Scope,
    Value,
    dim_name,
    element_type,
    internal,
    is_static,
    known,
    made,
)
from morphism.evaluation.onnx.simple import where

BODIES = ("jaxpr", "call_jaxpr")  # the parameters of a call that hold its function
MOST_FOLDED = 2**22  # values of a result that is computed while the graph is made, unless its inputs have more


def run(graph: Graph, closed: Any, inputs: Sequence[Value]) -> list[Value]:
    """Adds a function of JAX's to the graph. Raises NotImplementedError naming an operation that has no rule."""
    jaxpr = closed.jaxpr
    values: dict[Any, Value] = {}
    values |= zip(jaxpr.constvars, map(known, closed.consts), strict=True)
    values |= zip(jaxpr.invars, inputs, strict=True)

    def read(var: Any) -> Value:
        return known(np.asarray(var.val, var.aval.dtype)) if isinstance(var, core.Literal) else values[var]

    last = _last_uses(jaxpr)
    for number, eqn in enumerate(jaxpr.eqns):
        found = apply(graph, eqn, [read(var) for var in eqn.invars])
        values |= zip(eqn.outvars, found, strict=True)
        for var in last[number]:
            del values[var]
    return [read(var) for var in jaxpr.outvars]


def apply(graph: Graph, eqn: Any, inputs: list[Value]) -> Sequence[Value]:
    """The outputs of one operation; computed at once if all inputs are known."""
    name = eqn.primitive.name
    body = next((eqn.params[each] for each in BODIES if each in eqn.params), None)
    if body is not None and name not in RULES:
        return run(graph, _closed(body), inputs)
    if name in ("broadcast_in_dim", "dim_as_value"):
        return RULES[name](graph, eqn, inputs)
    if all(value.array is not None or _is_known(value) for value in inputs) and _is_small(eqn, inputs):
        arrays = [np.asarray(_content(value), var.aval.dtype) for value, var in zip(inputs, eqn.invars, strict=True)]
        with jax.default_device(jax.devices("cpu")[0]):
            found = eqn.primitive.bind(*map(jax.numpy.asarray, arrays), **eqn.params)
        return list(map(known, found if eqn.primitive.multiple_results else [found]))
    if name not in RULES:
        raise NotImplementedError(name)
    return RULES[name](graph, eqn, inputs)


def _is_known(value: Value) -> bool:
    return value.narrow is not None and value.narrow.array is not None and all(map(is_static, value.shape))


def _content(value: Value) -> np.ndarray:
    return value.array if value.array is not None else np.broadcast_to(value.narrow.array, value.shape)


def _is_small(eqn: Any, inputs: list[Value]) -> bool:
    """Whether the result has static shapes and is not much larger than what it is made of."""
    shapes = [var.aval.shape for var in eqn.outvars]
    if not all(is_static(dim) for shape in shapes for dim in shape):
        return False
    given = sum(value.array.size if value.array is not None else value.narrow.array.size for value in inputs)
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes) <= max(MOST_FOLDED, given)


def _closed(body: Any) -> Any:
    return body if hasattr(body, "consts") else core.ClosedJaxpr(body, ())


def _last_uses(jaxpr: Any) -> list[list[Any]]:
    """For each operation the variables that nothing reads after it."""
    seen = {var for var in jaxpr.outvars if not isinstance(var, core.Literal)}
    found = []
    for eqn in reversed(jaxpr.eqns):
        here = {var for var in (*eqn.invars, *eqn.outvars) if not isinstance(var, core.Literal)} - seen
        seen |= here
        found.append(list(here))
    return found[::-1]


def _subgraph(scope: Scope, name: str, inputs: list[Any], outputs: list[tuple[str, np.dtype, Any]]) -> onnx.GraphProto:
    """The subgraph of a scope; each output is a name of its own, with its type and shape."""
    infos = [
        onnx.helper.make_tensor_value_info(
            each, element_type(dtype), None if shape is None else [*map(dim_name, shape)]
        )
        for each, dtype, shape in outputs
    ]
    return onnx.helper.make_graph(scope.nodes, name, inputs, infos)


def _outputs(graph: Graph, values: Sequence[Value]) -> list[tuple[str, np.dtype, Any]]:
    """The outputs of a subgraph: new names, as ONNX does not let it return what it did not make."""
    return [(graph.op("Identity", graph.name(value)), value.dtype, None) for value in values]


def _cond(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """branches[index]; several branches become a chain."""
    index, *operands = inputs
    avals = [var.aval for var in eqn.outvars]

    def branch(closed: Any) -> onnx.GraphProto:
        with graph.subgraph() as scope:
            outputs = _outputs(graph, run(graph, closed, operands))
        return _subgraph(scope, graph.fresh("branch"), [], outputs)

    def chain(branches: Sequence[Any], number: int) -> list[str]:
        here = graph.op("Equal", graph.cast(graph.name(index), np.int32), graph.constant(number, np.int32))
        if len(branches) > 2:
            with graph.subgraph() as scope:
                others = [
                    (name, internal(aval.dtype), None)
                    for name, aval in zip(chain(branches[1:], number + 1), avals, strict=True)
                ]
            otherwise = _subgraph(scope, graph.fresh("branch"), [], others)
        else:
            otherwise = branch(branches[1])
        found = graph.op("If", here, outputs=len(avals), then_branch=branch(branches[0]), else_branch=otherwise)
        return [found] if len(avals) == 1 else found

    return [made(name, aval) for name, aval in zip(chain(eqn.params["branches"], 0), avals, strict=True)]


def _loop(
    graph: Graph, most: str, running: str, carried: Sequence[Value], body: Any, stacked: Sequence[Any]
) -> list[str]:
    """ONNX's Loop. body(step, carried) -> whether to go on (""  for always), the next carried, what is stacked."""
    names = [graph.fresh("carried") for _ in carried]
    step, condition = graph.fresh("step"), graph.fresh("running")
    inputs = [
        onnx.helper.make_tensor_value_info(step, onnx.TensorProto.INT64, []),
        onnx.helper.make_tensor_value_info(condition, onnx.TensorProto.BOOL, []),
    ]
    for name, value in zip(names, carried, strict=True):
        shape = list(map(dim_name, value.shape))
        inputs.append(onnx.helper.make_tensor_value_info(name, element_type(value.dtype), shape))
    with graph.subgraph() as scope:
        here = [Value(value.shape, value.dtype, name) for name, value in zip(names, carried, strict=True)]
        onward, following, more = body(step, here)
        outputs = [(graph.op("Identity", onward or condition), np.dtype(bool), ())]
        outputs += _outputs(graph, [*following, *more])
    subgraph = _subgraph(scope, graph.fresh("body"), inputs, outputs)
    count = len(carried) + len(stacked)
    found = graph.op("Loop", most, running, *map(graph.name, carried), outputs=count, body=subgraph)
    return [found] if count == 1 else found


def _while(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Under vmap the condition has an axis of examples: the loop goes on for any, and only those it holds for change.

    The condition is carried from step to step.
    """
    params = eqn.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_condition, of_body, carried = inputs[:first], inputs[first:second], inputs[second:]

    def condition(values: list[Value]) -> Value:
        return run(graph, params["cond_jaxpr"], [*of_condition, *values])[0]

    def body(step: str, values: list[Value]) -> tuple[str, list[Value], list[Value]]:
        holds, *before = values
        after = run(graph, params["body_jaxpr"], [*of_body, *before])
        if holds.shape:
            after = [_chosen(graph, holds, new, old) for new, old in zip(after, before, strict=True)]
        holds = condition(after)
        return _any(graph, holds), [holds, *after], []

    holds = condition(carried)
    _, *found = _loop(graph, "", _any(graph, holds), [holds, *carried], body, [])
    return [made(name, var.aval) for name, var in zip(found, eqn.outvars, strict=True)]


def _any(graph: Graph, holds: Value) -> str:
    if not holds.shape:
        return graph.name(holds)
    return graph.cast(graph.op("ReduceMax", graph.cast(graph.name(holds), np.int32), keepdims=0), bool)


def _chosen(graph: Graph, holds: Value, new: Value, old: Value) -> Value:
    """`new` for the examples that `holds` is true for, `old` for the others."""
    which = graph.reshaped(graph.name(holds), [*holds.shape, *[1] * (len(new.shape) - len(holds.shape))])
    return Value(new.shape, new.dtype, where(graph, which, graph.name(new), graph.name(old), new.dtype))


def _scan(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    params = eqn.params
    first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
    constants, carried, rows = inputs[:first], inputs[first:second], inputs[second:]
    length, closed = params["length"], _closed(params["jaxpr"])
    if params["reverse"]:
        raise NotImplementedError("scan in reverse")

    def body(step: str, values: list[Value]) -> tuple[str, list[Value], list[Value]]:
        each = [Value(row.shape[1:], row.dtype, graph.op("Gather", graph.name(row), step, axis=0)) for row in rows]
        found = run(graph, closed, [*constants, *values, *each])
        return "", found[: len(carried)], found[len(carried) :]

    most = graph.reshaped(graph.dim(length), ())
    found = _loop(graph, most, graph.constant(True), carried, body, eqn.outvars[len(carried) :])
    return [made(name, var.aval) for name, var in zip(found, eqn.outvars, strict=True)]


RULES: dict[str, Rule] = {
    **simple.RULES,
    **products.RULES,
    **indexing.RULES,
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
