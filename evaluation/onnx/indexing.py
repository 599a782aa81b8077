"""Gather, scatter, slices at computed positions, and sorting.

JAX's gather takes slices at positions: `start_indices` [..., n] hold, for each slice, where it starts on n axes of the
operand (`start_index_map`). ONNX's GatherND looks up single positions and takes whole axes. A slice of several
positions on an axis is thus looked up position by position; axes that no index moves along stay whole, and are cut
afterwards.
"""

from typing import Any

import jax
import numpy as np

from morphism.evaluation.onnx.graph import Dim, Graph, Rule, Value, internal, made
from morphism.evaluation.onnx.simple import counted, sliced, where

Mode = jax.lax.GatherScatterMode


def _gather(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x, indices), params = eqn.outvars[0].aval, inputs, eqn.params
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    shared, moved = _ints(numbers.operand_batching_dims), _ints(numbers.start_index_map)
    whole = tuple(axis for axis in range(len(x.shape)) if axis not in (*shared, *moved))
    operand = graph.op("Transpose", graph.name(x), perm=[*shared, *moved, *whole])

    shared_indices = _ints(numbers.start_indices_batching_dims)
    at, rest = _starts(graph, indices, shared_indices)
    last = [x.shape[axis] - sizes[axis] for axis in moved]
    inside = _inside(graph, at, last) if params["mode"] == Mode.FILL_OR_DROP else None
    if params["mode"] != Mode.PROMISE_IN_BOUNDS:
        at = _clipped(graph, at, last)
    lead = [indices.shape[axis] for axis in (*shared_indices, *rest)]
    at = _spread(graph, at, len(lead), [sizes[axis] for axis in moved])
    found = graph.op("GatherND", operand, at, batch_dims=len(shared))  # axes: shared, rest, moved, whole

    cut = [position for position, axis in enumerate(whole) if sizes[axis] != x.shape[axis]]
    if cut:
        ends, first = [sizes[whole[position]] for position in cut], len(lead) + len(moved)
        found = sliced(graph, found, [0] * len(cut), ends, [1] * len(cut), [first + position for position in cut])
    if inside is not None:
        inside = graph.reshaped(inside, [*lead, *[1] * (len(moved) + len(whole))])
        fill = graph.constant(_fill(params["fill_value"], aval.dtype))
        found = where(graph, inside, found, fill, x.dtype)

    dropped = set(numbers.collapsed_slice_dims)  # of length 1
    slices = [axis for axis in (*moved, *whole) if axis not in dropped]
    found = graph.reshaped(found, [*lead, *(sizes[axis] for axis in slices)]) if dropped else found
    labels = [("index", axis) for axis in (*shared_indices, *rest)] + [("slice", axis) for axis in slices]
    order = _output_order(_ints(numbers.offset_dims), len(aval.shape), labels)
    return [made(graph.op("Transpose", found, perm=order), aval)]


def _ints(axes: Any) -> tuple[int, ...]:
    """JAX's numbers of axes may be NumPy's."""
    return tuple(map(int, axes))


def _output_order(offset_dims: tuple[int, ...], rank: int, labels: list[tuple[str, int]]) -> list[int]:
    """For each axis of the output its position in `labels`: slices' axes at `offset_dims`, indices' axes elsewhere."""
    of = {
        kind: sorted((axis, position) for position, (each, axis) in enumerate(labels) if each == kind)
        for kind in ("index", "slice")
    }
    iterators = {kind: iter(pairs) for kind, pairs in of.items()}
    return [next(iterators["slice" if axis in offset_dims else "index"])[1] for axis in range(rank)]


def _starts(graph: Graph, indices: Value, shared: tuple[int, ...]) -> tuple[str, list[int]]:
    """The indices as int64, shared axes first, and which axes the others are."""
    rest = [axis for axis in range(len(indices.shape) - 1) if axis not in shared]
    at = graph.op("Transpose", graph.name(indices), perm=[*shared, *rest, len(indices.shape) - 1])
    return (at if indices.dtype == np.int64 else graph.cast(at, np.int64)), rest


def _inside(graph: Graph, at: str, last: list[Dim]) -> str:
    """Which starts are possible."""
    low = graph.op("GreaterOrEqual", at, graph.constant(0, np.int64))
    both = graph.op("And", low, graph.op("LessOrEqual", at, graph.shape(last)))
    smallest = graph.op("ReduceMin", graph.cast(both, np.int32), graph.constant([-1], np.int64), keepdims=0)
    return graph.cast(smallest, bool)


def _clipped(graph: Graph, at: str, last: list[Dim]) -> str:
    return graph.op("Min", graph.op("Max", at, graph.constant(0, np.int64)), graph.shape(last))


def _spread(graph: Graph, at: str, lead: int, sizes: list[Dim]) -> str:
    """Of starts [lead..., n] the positions of whole slices, [lead..., size of 1, ..., size of n, n]."""
    count = len(sizes)
    offsets = np.stack(np.meshgrid(*map(np.arange, map(int, sizes)), indexing="ij"), axis=-1) if count else np.zeros(0)
    axes = graph.constant(lead + np.arange(count), np.int64)
    at = graph.op("Unsqueeze", at, axes) if count else at
    return graph.op("Add", at, graph.constant(offsets, np.int64)) if offsets.any() else at


def _fill(value: Any, dtype: Any) -> np.ndarray:
    """What JAX fills in for a position outside; by default NaN, or the type's smallest, or for unsigned its largest."""
    dtype, kept = np.dtype(dtype), internal(dtype)
    if value is None:
        kind = dtype.kind
        value = (
            np.nan
            if kept.kind == "f"
            else True
            if kind == "b"
            else getattr(np.iinfo(dtype), "max" if kind == "u" else "min")
        )
    return np.array(value, kept)


def _scatter(reduction: str) -> Rule:
    """ScatterND on an operand with one more position per axis, for updates that fall outside and are dropped."""

    def rule(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
        aval, (x, indices, updates), params = eqn.outvars[0].aval, inputs, eqn.params
        numbers = params["dimension_numbers"]
        shared, moved = _ints(numbers.operand_batching_dims), _ints(numbers.scatter_dims_to_operand_dims)
        shared_indices, window = _ints(numbers.scatter_indices_batching_dims), _ints(numbers.update_window_dims)
        inserted = set(numbers.inserted_window_dims)
        window_axes = [axis for axis in range(len(x.shape)) if axis not in inserted and axis not in shared]
        sizes = dict(zip(window_axes, (updates.shape[axis] for axis in window), strict=True))
        whole = [axis for axis in range(len(x.shape)) if axis not in (*shared, *moved)]
        if any(sizes.get(axis, 1) != x.shape[axis] for axis in whole):
            raise NotImplementedError("a scatter of parts of axes at fixed positions")

        order = [*shared, *moved, *whole]
        operand = graph.op("Transpose", graph.name(x), perm=order)
        at, rest = _starts(graph, indices, shared_indices)
        index_axes = (*shared_indices, *rest)
        lead = [indices.shape[axis] for axis in index_axes]
        lengths = [x.shape[axis] for axis in moved]
        spans = [sizes.get(axis, 1) for axis in moved]
        last = [length - span for length, span in zip(lengths, spans, strict=True)]
        drop = params["mode"] == Mode.FILL_OR_DROP
        if drop:
            inside = graph.reshaped(_inside(graph, at, last), [*lead, 1])
            at = graph.op("Where", inside, at, graph.shape(lengths))
        elif params["mode"] == Mode.CLIP:
            at = _clipped(graph, at, last)
        at = _spread(graph, at, len(lead), spans)
        if drop:
            pads = [0] * len(shared) + list(np.maximum(spans, 1)) + [0] * len(whole)
            operand = graph.op("Pad", operand, graph.constant([0] * len(order) + pads, np.int64))
        for position in reversed(range(len(shared))):
            at = _with_own_position(graph, at, position, lead, len(spans))

        labels = _update_labels(window, len(updates.shape), index_axes, sizes)
        perm = [labels.index(("index", axis)) for axis in index_axes]
        perm += [labels.index(("slice", axis)) for axis in (*moved, *whole) if axis in sizes]
        values = graph.op("Transpose", graph.name(updates), perm=perm)
        values = graph.reshaped(values, [*lead, *spans, *(x.shape[axis] for axis in whole)])
        found = graph.op("ScatterND", operand, at, values, reduction=reduction)
        if drop:
            axes = [len(shared) + number for number in range(len(moved))]
            ends = graph.shape(lengths)
            starts, steps = (graph.constant([each] * len(axes), np.int64) for each in (0, 1))
            found = graph.op("Slice", found, starts, ends, graph.constant(axes, np.int64), steps)
        return [made(graph.op("Transpose", found, perm=np.argsort(order).tolist()), aval)]

    return rule


def _update_labels(
    window: tuple[int, ...], rank: int, index_axes: tuple[int, ...], sizes: dict[int, Dim]
) -> list[tuple[str, int]]:
    """For each axis of the updates whether it is one of the indices or of the slices, and which."""
    slices, indexed = iter(sizes), iter(sorted(index_axes))
    return [("slice", next(slices)) if axis in window else ("index", next(indexed)) for axis in range(rank)]


def _with_own_position(graph: Graph, at: str, position: int, lead: list[Dim], spans: int) -> str:
    """`at` [lead..., spans..., n] with the position along the lead axis `position` in front of the n."""
    line = graph.reshaped(
        counted(graph, lead[position], np.int64),
        [dim if axis == position else 1 for axis, dim in enumerate([*lead, *[1] * spans, 1])],
    )
    shape = graph.op("Shape", at, end=-1)
    whole = graph.op("Concat", shape, graph.constant([1], np.int64), axis=0)
    return graph.op("Concat", graph.op("Expand", line, whole), at, axis=-1)


def _positions(graph: Graph, starts: list[Value], last: list[Dim]) -> str:
    """An int64 vector of clipped starts, one per axis."""
    each = [graph.reshaped(graph.cast(graph.name(start), np.int64), [1]) for start in starts]
    return _clipped(graph, graph.op("Concat", *each, axis=0) if len(each) > 1 else each[0], last)


def _dynamic_slice(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    aval, (x, *starts), sizes = eqn.outvars[0].aval, inputs, eqn.params["slice_sizes"]
    axes = [axis for axis, size in enumerate(sizes) if size != x.shape[axis]]
    if not axes:
        return [x]
    last = [x.shape[axis] - sizes[axis] for axis in axes]
    at = _positions(graph, [starts[axis] for axis in axes], last)
    ends = graph.op("Add", at, graph.shape([sizes[axis] for axis in axes]))
    return [made(graph.op("Slice", graph.name(x), at, ends, graph.constant(axes, np.int64)), aval)]


def _dynamic_update_slice(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The update, and ones in its place, are padded to the operand's size."""
    aval, (x, update, *starts) = eqn.outvars[0].aval, inputs
    last = [dim - size for dim, size in zip(x.shape, update.shape, strict=True)]
    before = _positions(graph, starts, last)
    pads = graph.op("Concat", before, graph.op("Sub", graph.shape(last), before), axis=0)
    name = graph.cast(graph.name(update), np.int32) if x.dtype == bool else graph.name(update)
    moved = graph.op("Pad", name, pads)
    ones = graph.op("Expand", graph.constant(1, np.int32), graph.shape(update.shape))
    here = graph.cast(graph.op("Pad", ones, pads), bool)
    moved = graph.cast(moved, bool) if x.dtype == bool else moved
    return [made(where(graph, here, moved, graph.name(x), x.dtype), aval)]


def _top_k(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    (x,), params = inputs, eqn.params
    axis = params.get("axis", -1)
    values, positions = graph.op(
        "TopK", graph.name(x), graph.constant([params["k"]], np.int64), outputs=2, axis=axis, largest=1, sorted=1
    )
    first, second = (var.aval for var in eqn.outvars)
    return [made(values, first), made(graph.cast(positions, internal(second.dtype)), second)]


def _sort(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """By TopK, which of equal keys takes the first: it is stable."""
    params = eqn.params
    if params["num_keys"] != 1:
        raise NotImplementedError("sort by several keys")
    axis, key = params["dimension"], inputs[0]
    name = graph.cast(graph.name(key), np.int32) if key.dtype == bool else graph.name(key)
    length = graph.dim(key.shape[axis])
    _, order = graph.op("TopK", name, length, outputs=2, axis=axis, largest=0, sorted=1)
    return [
        made(graph.op("GatherElements", graph.name(x), order, axis=axis), var.aval)
        for x, var in zip(inputs, eqn.outvars, strict=True)
    ]


RULES: dict[str, Rule] = {
    "gather": _gather,
    "scatter": _scatter("none"),
    "scatter-add": _scatter("add"),
    "scatter_add": _scatter("add"),
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "top_k": _top_k,
    "sort": _sort,
}
