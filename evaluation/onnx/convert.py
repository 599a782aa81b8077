"""A pure JAX function and its inputs -> an ONNX model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx

from morphism.evaluation.onnx.control import run
from morphism.evaluation.onnx.graph import BATCH, OPSET, Graph, Value, dim_name, element_type, internal, known

IR_VERSION = 8  # that of the first release with opset 18


def convert(
    function: Callable[..., dict[str, jax.Array]],
    weights: Mapping[str, Any],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    name: str,
) -> onnx.ModelProto:
    """The graph of function(weights, *inputs), whose outputs have the names of its results.

    Args:
      function: is traced as it is; its first argument becomes constants of the graph.
      inputs: by name; their first axis may be a symbol, which then is the length "batch".

    Raises NotImplementedError naming an operation that cannot be written.
    """
    like = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(like, *inputs.values())
    graph = Graph()
    infos = [_info(each, x.shape, x.dtype) for each, x in inputs.items()]
    first = next(iter(inputs))
    graph.batch = graph.op("Shape", first, start=0, end=1)
    given = [known(x) for x in jax.tree.leaves(dict(weights))]
    given += [
        Value(x.shape, internal(x.dtype), each if x.dtype == internal(x.dtype) else graph.cast(each, internal(x.dtype)))
        for each, x in inputs.items()
    ]
    found = run(graph, closed, given)
    outputs = _named(graph, found, jax.tree_util.tree_leaves_with_path(shapes))
    nodes = _used(graph.scopes[0].nodes, outputs)
    made = onnx.helper.make_graph(nodes, name, infos, outputs, _read(graph.initialisers, nodes, outputs))
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="morphism")


def _named(graph: Graph, found: Sequence[Value], leaves: Sequence[Any]) -> list[onnx.ValueInfoProto]:
    """The outputs, in the types that JAX gives them."""
    infos = []
    for value, (path, shape) in zip(found, leaves, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        node = onnx.helper.make_node("Cast", [graph.name(value)], [name], to=element_type(shape.dtype))
        graph.scopes[0].nodes.append(node)
        infos.append(_info(name, shape.shape, shape.dtype))
    return infos


def _info(name: str, shape: Sequence[Any], dtype: Any) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, element_type(np.dtype(dtype)), list(map(dim_name, shape)))


def _used(nodes: list[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto]) -> list[onnx.NodeProto]:
    """The nodes on which the outputs depend."""
    needed, kept = {each.name for each in outputs}, []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= _reads(node)
            kept.append(node)
    return kept[::-1]


def _reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node and its subgraphs read, their own among them."""
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return set(node.input).union(*(_reads(each) for graph in inner for each in graph.node))


def _read(
    initialisers: list[onnx.TensorProto], nodes: list[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto]
) -> list[onnx.TensorProto]:
    needed = set().union(*map(_reads, nodes)) | {each.name for each in outputs}
    return [each for each in initialisers if each.name in needed]


__all__ = ["BATCH", "OPSET", "convert"]
