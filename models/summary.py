"""A summary of a model: its layers with output shapes, parameters and multiply-accumulates, and the totals."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphism.models import cost


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module with parameters or statistics of its own.

    name, kind: its path joined with dots, and its class.
    output: shape for one image, of the first call if there are several.
    calls: number of calls.
    parameters: trained ones.
    multiply_accumulates: of all calls.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    calls: int
    parameters: int
    multiply_accumulates: int


def layers(model: nn.Module, variables: Any, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers in the order in which an image [H, W, 3] passes through them; only shapes are computed."""
    outputs: dict[str, list[tuple[str, tuple[int, ...]]]] = {}

    def record(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if context.method_name == "__call__" and _own(variables, context.module.path):
            path = "/".join(context.module.path)
            outputs.setdefault(path, []).append((type(context.module).__name__, _shape(result)))
        return result

    with nn.intercept_methods(record):
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(lambda variables, image: model.apply(variables, image, train=False), variables, image)

    work = dict.fromkeys(outputs, 0)
    for scope, count in cost.by_scope(model, variables, image_shape).items():
        path = scope.partition("/")[2]  # the first name is the model's own
        while path and path not in work:
            path = path.rpartition("/")[0]
        if path:
            work[path] += count
    return [
        Layer(
            name=path.replace("/", "."),
            kind=calls[0][0],
            output=calls[0][1],
            calls=len(calls),
            parameters=cost.parameters(_own({"params": variables["params"]}, path.split("/"))),
            multiply_accumulates=work[path],
        )
        for path, calls in outputs.items()
    ]


def _own(variables: Any, path: list[str] | tuple[str, ...]) -> list[Any]:
    """The arrays of the module at `path` itself, without those of its submodules."""
    found = []
    for node in variables.values():
        for name in path:
            node = node.get(name, {})
        found += [leaf for leaf in node.values() if not hasattr(leaf, "items")]
    return found


def _shape(result: Any) -> tuple[int, ...]:
    return tuple(jax.tree.leaves(result)[0].shape[1:])


def table(found: list[Layer], parameters: int, multiply_accumulates: int) -> str:
    """A table with a line per layer and one for the totals."""
    lines = [("layer", "kind", "output", "parameters", "MACs")]
    for layer in found:
        output = "x".join(map(str, layer.output)) + (f", {layer.calls} calls" if layer.calls > 1 else "")
        lines.append((layer.name, layer.kind, output, f"{layer.parameters:,}", f"{layer.multiply_accumulates:,}"))
    lines.append(("total", "", "", f"{parameters:,}", f"{multiply_accumulates:,}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column > 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
