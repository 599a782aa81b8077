"""The layers of a model with output shapes, parameters and multiply-accumulates, and the totals.

    morphism summary experiments/imagenet_resnet.py:50 [--size 224] [--classes 1000] [--json]

`--json` prints the same for other programs.
"""

import dataclasses
import json
import math
import re
from typing import Any

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command(config="first")
_SIZE = COMMAND.string("size", None, "224, or 375x500 for height and width; the experiment's unless given.")
_CLASSES = COMMAND.integer("classes", None, "Number of classes; that of the experiment's data unless given.")
_JSON = COMMAND.boolean("json", False, "Print JSON instead of a table.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; the experiment comes first, then the flags")
    import jax

    from morphism import models, tasks
    from morphism.data import sources
    from morphism.models import cost
    from morphism.models.summary import layers, table
    from morphism.tasks.task import counted, counts

    config = COMMAND.config.value
    classes = _CLASSES.value
    if classes is None:
        classes = counts(tasks.of(config).class_names(sources.Classes(config.data)))
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
            f"{config.model.name}, {counted(classes)}, {size[0]}x{size[1]}: {totals['parameters']:,} parameters, "
            f"{totals['multiply_accumulates'] / 1e9:.3f} GMAC, {_megabytes(variables):.1f} MB in float32"
        )


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or "0" in (match[1], match[2]):
        raise UserError(f"--size is {text!r}; write 224, or 375x500 for height and width")
    return int(match[1]), int(match[2] or match[1])


def _megabytes(variables: Any) -> float:
    import jax

    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables)) / 1e6
