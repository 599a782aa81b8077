"""The layers of a model with output shapes, parameters and multiply-accumulates, and the totals.

    morphism summary experiments/imagenet_resnet.py:50 [--size 224] [--classes 1000] [--json]
    morphism summary experiments/imagenet_resnet.py:50 --memory [--batch 64] [--devices 8]

`--memory` compiles the training and the evaluation step instead, without data or parameters, and prints the memory, the
floating-point operations and the time to compile of each. `--json` prints the same for other programs.
"""

import dataclasses
import json
import math
import re
from typing import TYPE_CHECKING, Any

from morphism.commands import cli
from morphism.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from morphism.tasks.task import Counts

COMMAND = cli.Command(config="first")
_SIZE = COMMAND.string("size", None, "224, or 375x500 for height and width; the experiment's unless given.")
_CLASSES = COMMAND.string("classes", None, "How many, of parts as ground=6,objects=5; those of the data unless given.")
_MEMORY = COMMAND.boolean("memory", False, "Compile the training and the evaluation step, and print what they cost.")
_BATCH = COMMAND.integer("batch", None, "--memory: config.batch_size.", least=1)
_DEVICES = COMMAND.integer("devices", None, "--memory: how many share the batch; all unless given.", least=1)
_JSON = COMMAND.boolean("json", False, "Print JSON instead of a table.")

SHOWN = 50_000  # bytes from which a kind of memory has a line of its own


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; the experiment comes first, then the flags")
    config = COMMAND.config.value
    if _MEMORY.value:
        memory(config)
        return
    for name in ("batch", "devices"):
        if COMMAND.flags[name].value is not None:
            raise UserError(f"--{name} goes with --memory")
    layers_of(config)


def layers_of(config: "ConfigDict") -> None:
    """Prints the layers of the model of `config`."""
    import jax

    from morphism import models
    from morphism.models import cost
    from morphism.models.summary import layers, table
    from morphism.tasks.task import counted

    classes = _classes(config)
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
        about = {"model": config.model.name, "classes": _plain(classes), "size": size, **totals}
        print(
            json.dumps({**about, "layers": [dataclasses.asdict(layer) for layer in found]}, indent=2, allow_nan=False)
        )
    else:
        print(table(found, **totals))
        print(
            f"{config.model.name}, {counted(classes)}, {size[0]}x{size[1]}: {totals['parameters']:,} parameters, "
            f"{totals['multiply_accumulates'] / 1e9:.3f} GMAC, {_megabytes(variables):.1f} MB in float32"
        )


def memory(config: "ConfigDict") -> None:
    """Prints what the two programs of `config` cost."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # or the second call would compile in no time
    if _DEVICES.value:
        jax.config.update("jax_num_cpu_devices", _DEVICES.value)  # other platforms ignore it
    from morphism.data.canvases import of_masks, presumed
    from morphism.runtime.mesh import make_mesh
    from morphism.runtime.validation import check_config
    from morphism.training.footprint import costs

    with config.unlocked():
        config.batch_size = _BATCH.value or config.batch_size
    check_config(config)
    mesh, classes = make_mesh(_DEVICES.value, config.mesh.fsdp), _classes(config)
    shapes = [presumed(config.data, training) for training in (True, False)]
    if _SIZE.value:
        size = _size(_SIZE.value)
        shapes = [size, of_masks(size, config.data)]
    found = costs(config, classes, mesh, *shapes)
    device = mesh.devices.flat[0]
    about = {
        "model": config.model.name,
        "classes": _plain(classes),
        "devices": mesh.size,
        "device": device.device_kind,
        "estimate": device.platform == "cpu",
    }
    if _JSON.value:
        parts = {name: getattr(found, name) for name in ("training", "evaluation")}
        each = {name: dataclasses.asdict(part) | {"total": part.total} for name, part in parts.items()}
        print(json.dumps({**about, "parameters": found.parameters, **each}, indent=2, allow_nan=False))
    else:
        print(_table(found, about))


def _table(found: Any, about: dict[str, Any]) -> str:
    from morphism.tasks.task import counted

    programs = (found.training, found.evaluation)
    rows = [
        ("", "training step", "evaluation step"),
        ("images", *(f"{each.images:,} of {each.shape[0]}x{each.shape[1]}" for each in programs)),
        ("GFLOP per image", *(f"{each.flops / each.images / 1e9:,.3f}" for each in programs)),
        ("GFLOP", *(f"{each.flops / 1e9:,.1f}" for each in programs)),
        ("MB per device", *(f"{each.total / 1e6:,.1f}" for each in programs)),
    ]
    kinds = {
        "parameters": "parameters",
        "statistics": "statistics of norms",
        "optimizer": "optimiser's state",
        "averages": "moving averages",
        "batch": "batch",
        "other": "hyper-parameters",
    }
    for kind, title in kinds.items():
        sizes = [each.arguments.get(kind, 0) for each in programs]
        if max(sizes) >= SHOWN:
            rows.append((f"  {title}", *(f"{size / 1e6:,.1f}" for size in sizes)))
    for name in ("outputs", "temporaries", "program"):
        sizes = [getattr(each, name) for each in programs]
        if max(sizes) >= SHOWN:
            rows.append((f"  {name}", *(f"{size / 1e6:,.1f}" for size in sizes)))
    rows.append(("seconds to trace", *(f"{each.trace_s:.1f}" for each in programs)))
    rows.append(("seconds to compile", *(f"{each.compile_s:.1f}" for each in programs)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    classes = counted(about["classes"])
    lines.append(
        f"{about['model']}, {classes}, {about['devices']} {about['device']} device(s): {found.parameters:,} parameters"
    )
    lines.append("GFLOP: two per multiply-accumulate of convolutions and matrix products, forward and backward")
    if about["estimate"]:
        lines.append(
            "Temporaries, program and seconds are those of XLA's compiler for CPU. On a GPU or TPU they differ: run "
            "this command there. The other rows are the same everywhere"
        )
    return "\n".join(lines)


def _classes(config: "ConfigDict") -> "Counts":
    """The number of classes that --classes gives, or that the data has."""
    from flax.core import FrozenDict

    from morphism import tasks
    from morphism.data import sources
    from morphism.tasks.task import counts

    text = _CLASSES.value
    if text is None:
        try:
            return counts(tasks.of(config).class_names(sources.Classes(config.data)))
        except UserError as error:
            form = ",".join(f"{part}=10" for part in config.parts) if "parts" in config else "10"
            raise UserError(f"{error}; or give the number of classes, as --classes {form}") from error
    if "parts" not in config and re.fullmatch(r"[1-9]\d*", text):
        return int(text)
    given = dict(re.findall(r"(?:^|,)(\w+)=([1-9]\d*)(?=,|$)", text))
    if "parts" in config and given.keys() == config.parts.keys():
        return FrozenDict({part: int(count) for part, count in given.items()})
    form = ",".join(f"{part}=10" for part in config.parts) if "parts" in config else "10"
    raise UserError(f"--classes is {text!r}; write {form}")


def _plain(classes: "Counts") -> Any:
    return classes if isinstance(classes, int) else dict(classes)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or "0" in (match[1], match[2]):
        raise UserError(f"--size is {text!r}; write 224, or 375x500 for height and width")
    return int(match[1]), int(match[2] or match[1])


def _megabytes(variables: Any) -> float:
    import jax

    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables)) / 1e6
