"""Lists what is available.

    morphism list models          architectures, for config.model.name
    morphism list experiments     files for --config
    morphism list weights         public checkpoints, for --weights and config.init_from
    morphism list sources         formats of data, for config.data.source
    morphism list augmentations   fields of config.augment, per task

Prints one line each: the name, then what it is.
"""

import ast
import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path

from morphism.commands import cli
from morphism.errors import UserError, did_you_mean

COMMAND = cli.Command()

Rows = Iterable[tuple[str, str]]


def main(argv: list[str]) -> None:
    if len(argv) != 2 or argv[1] not in LISTS:
        hint = did_you_mean(argv[1], LISTS) if len(argv) > 1 else ""
        raise UserError(f"give one of {', '.join(LISTS)}{hint}")
    rows = list(LISTS[argv[1]]())
    width = max(len(name) for name, _ in rows)
    for name, meaning in rows:
        print(f"{name:<{width}}  {meaning}".rstrip())


def models() -> Rows:
    """Every architecture, with the first line of its file."""
    from morphism import models

    for module in pkgutil.iter_modules(models.__path__):
        file = importlib.import_module(f"morphism.models.{module.name}")
        for name in getattr(file, "MODELS", ()):
            yield name, summary(file.__doc__)


def experiments() -> Rows:
    from morphism import experiments

    folder = Path(experiments.__path__[0])
    for module in pkgutil.iter_modules(experiments.__path__):
        text = ast.get_docstring(ast.parse((folder / f"{module.name}.py").read_text()))
        if (text or "").count("Published"):  # the other files are parts of experiments
            yield f"experiments/{module.name}.py", summary(text)


def weights() -> Rows:
    """torchvision's checkpoints, with their published results."""
    from morphism.weights.public import CHECKPOINTS, DETECTORS, PREFIX, SEGMENTERS

    for name, public in CHECKPOINTS.items():
        top1 = "backbone only" if public.top1 is None else f"ImageNet top-1 {public.top1:g} %"
        yield PREFIX + name, top1
    for name, public in DETECTORS.items():
        masks = f", mask AP {public.mask_ap:g}" if public.mask_ap else ""
        yield PREFIX + name, f"COCO box AP {public.ap:g}{masks}"
    for name, public in SEGMENTERS.items():
        yield PREFIX + name, f"COCO with VOC's classes, mIoU {public.miou:g} %"


def sources() -> Rows:
    """Every format, from the first line of its file: `kind:<argument>`: meaning."""
    from morphism.data import sources

    for module in pkgutil.iter_modules(sources.__path__):
        text = summary(importlib.import_module(f"morphism.data.sources.{module.name}").__doc__)
        name, _, meaning = text.removeprefix("`").partition("`: ")
        yield name, meaning


def augmentations() -> Rows:
    """Every field of config.augment with its meaning, and with its tasks unless all have it."""
    from morphism.experiments.base import FIELDS

    tasks: dict[tuple[str, str], list[str]] = {}
    for task, fields in FIELDS.items():
        for name, field in fields["augment"].items():
            tasks.setdefault((f"augment.{name}", field.meaning), []).append(task)
    for (name, meaning), having in tasks.items():
        yield name, meaning if len(having) == len(FIELDS) else f"{meaning} ({', '.join(having)})"


def summary(documentation: str) -> str:
    """The first line of a docstring."""
    return documentation.partition("\n")[0]


LISTS = {
    "models": models,
    "experiments": experiments,
    "weights": weights,
    "sources": sources,
    "augmentations": augmentations,
}
