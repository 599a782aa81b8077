"""What a model is made of: its layers with output shapes, parameters and multiply-accumulates, and the totals.

python -m models.summary experiments/imagenet_resnet.py:50 [--size 224] [--classes 1000] [--json]
"""

import dataclasses
import json
import math
import re
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags

import cli
import models
from errors import UserError
from models import cost


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module with parameters or statistics of its own.

    `output` is the shape for one image, of the first call where a layer is called several times; `parameters` are those
    that are trained; `multiply_accumulates` are of all calls.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    calls: int
    parameters: int
    multiply_accumulates: int


def layers(model: nn.Module, variables: Any, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers in the order in which an image [H,W,3] passes them; only shapes are computed."""
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
    """The arrays that belong to the module at `path` itself, not to those inside it."""
    found = []
    for node in variables.values():
        for name in path:
            node = node.get(name, {})
        found += [leaf for leaf in node.values() if not hasattr(leaf, "items")]
    return found


def _shape(result: Any) -> tuple[int, ...]:
    return tuple(jax.tree.leaves(result)[0].shape[1:])


def table(found: list[Layer], parameters: int, multiply_accumulates: int) -> str:
    """A line a layer and one for the totals, in columns."""
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


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; the experiment comes first, then the flags")
    config = _CONFIG.value
    classes = _CLASSES.value
    if classes is None:
        from data import sources

        classes = len(sources.classes(config.data))
    size = _size(_SIZE.value) if _SIZE.value else (config.data.image_size,) * 2
    model = models.create(config.model, classes, axis="")
    variables = jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))
    shape = (*size, 3)
    found = layers(model, variables, shape)
    totals = {
        "parameters": cost.parameters(variables["params"]),
        "multiply_accumulates": cost.multiply_accumulates(model, variables, shape),
    }
    if _JSON.value:
        about = {"model": config.model.name, "classes": classes, "size": size, **totals}
        print(
            json.dumps({**about, "layers": [dataclasses.asdict(layer) for layer in found]}, indent=2, allow_nan=False)
        )
    else:
        print(table(found, **totals))
        print(
            f"{config.model.name}, {classes} classes, {size[0]}x{size[1]}: {totals['parameters']:,} parameters, "
            f"{totals['multiply_accumulates'] / 1e9:.3f} GMAC, {_megabytes(variables):.1f} MB in float32"
        )


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or "0" in (match[1], match[2]):
        raise UserError(f"--size is {text!r}; write 224, or 375x500 for height and width")
    return int(match[1]), int(match[2] or match[1])


def _megabytes(variables: Any) -> float:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables)) / 1e6


if __name__ == "__main__":
    _CONFIG = cli.ConfigFlag()
    _SIZE = flags.DEFINE_string("size", None, "224, or 375x500 for height and width; the experiment's by default.")
    _CLASSES = flags.DEFINE_integer("classes", None, "Number of classes; that of the experiment's data by default.")
    _JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"--config={sys.argv[1]}"
    cli.run(main, "models.summary")
