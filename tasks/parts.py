"""The parts of a task of tasks: what each sees of a source, of a batch and of the configuration."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool
from ml_collections import ConfigDict

from morphism.data import targets
from morphism.data.records import Record, Source
from morphism.errors import UserError
from morphism.experiments.base import FIELDS
from morphism.experiments.fields import flat
from morphism.models import multitask
from morphism.tasks.task import Batch, Task

RESERVED = (*multitask.RESERVED, "examples", "panoptic")  # names that no part can have; the last are keys of results


@runtime_checkable
class Network(Protocol):
    """A model of a composed task."""

    def reader(self, part: str) -> Any:
        """The model that the part's task gets: for Detection a Detector that interprets that part's outputs.

        In a linen module this is a method that is not wrapped (nn.nowrap).
        """


class Named:
    """Something of a `name`, which its values have in front of theirs where they are among those of others."""

    name: str

    def named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The task's `values`, with the part's name in front of theirs."""
        return {f"{self.name}/{name}": value for name, value in values.items()}

    def own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `named`: this part's values, by the task's own names."""
        front = f"{self.name}/"
        return {name.removeprefix(front): value for name, value in values.items() if name.startswith(front)}


@dataclass(frozen=True)
class Part(Named):
    """One of the tasks.

    weight: factor of its loss in the sum.
    keys: names of the task's targets -> names of this part's, so that two parts can have the same task:
    {"segmentation": "lanes"}.
    """

    name: str
    task: Task
    weight: float = 1.0
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.keys.get(target, target) for target in self.task.targets)

    @property
    def mains(self) -> tuple[str, ...]:
        """The targets without which an example does not count for this part."""
        return self.targets[:1]

    def source(self, source: Source) -> Source:
        """The split as the task knows it."""
        return Seen(source, source.targets[self.targets[0]], self.keys)

    def classes(self, classes: Mapping[str, Any]) -> Any:
        """Of names, or numbers, of classes by part: the task's."""
        return classes[self.name]

    def labelled(self, batch: Batch) -> Bool[Array, "b"]:
        """The examples that carry this part's first truth. What lacks another, as a mask, is ignored by the task."""
        return batch["valid"] & batch[f"has_{self.targets[0]}"]

    def batch(self, batch: Batch) -> Batch:
        """The batch as the task knows it: only examples with its truths are valid."""
        return _renamed(batch, self.keys) | {"valid": self.labelled(batch)}

    def config(self, config: ConfigDict) -> ConfigDict:
        """The configuration as the task knows it, with the part's own fields in place of the whole's."""
        own = ConfigDict(config.to_dict(), type_safe=False)
        own.update(config.parts[self.name].to_dict())
        return own

    @contextmanager
    def explained(self, config: ConfigDict) -> Iterator[None]:
        """Names the part in a UserError about one of its own fields."""
        own = "|".join(name for name, each in config.parts[self.name].items() if isinstance(each, ConfigDict))
        try:
            yield
        except UserError as error:
            raise UserError(re.sub(rf"\bconfig\.({own})\.", rf"config.parts.{self.name}.\1.", str(error))) from error


@dataclass(frozen=True)
class Seen:
    """A source with the classes and the targets of one part; everything else is the source's own."""

    source: Source
    classes: Any  # names, as the part's task takes them
    keys: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return _renamed(self.source[index], self.keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


def _renamed(values: dict[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    return values | {own: values[key] for own, key in keys.items() if key in values}


def check_together(parts: Sequence[Part], config: ConfigDict) -> None:
    """Raises UserError where the parts do not fit each other, or the images that they share."""
    _check_names(parts, config)
    data, first = config.data, parts[0]
    placed = [part for part in parts if any(targets.get(each).IS_PLACED for each in part.targets)]
    if placed and not targets.get(first.targets[0]).IS_PLACED:
        raise UserError(
            f"config.data.targets: {first.name} leads, and would flip and crop images without the truths of "
            f"{placed[0].name}; put {placed[0].targets[0]} first"
        )
    if placed and data.window_rule == "square":
        raise UserError(
            f"config.data.window_rule: square evaluates the middle of an image, {placed[0].name} needs the whole; set "
            'it to "canvas" or "crop"'
        )
    _check_augmentation(first, config.augment)
    wrong = {"canvas": ("none",), "crop": ("stretch", "fit"), "square": ()}[data.window_rule]
    if data.resize in wrong:
        raise UserError(f'config.data.resize: {data.window_rule} has no {data.resize!r}; set it to "shorter"')
    if first.targets[0] == "boxes" and config.augment.photometric and data.window_rule != "canvas":
        raise UserError(
            f"config.augment.photometric: that of {first.name} needs images on a canvas; set it to False, or "
            'config.data.window_rule to "canvas"'
        )


def _check_augmentation(first: Part, augment: ConfigDict) -> None:
    """Raises UserError for augmentation that only tasks have which do not lead, since it would not happen."""
    own, shared = (flat(FIELDS[task]["augment"]) for task in (first.task.name, "multitask"))
    for name, each in shared.items():
        if name in augment and name not in own and augment[name] != each.default:
            raise UserError(
                f"config.augment.{name}: {first.name} leads, and {first.task.name} has no such augmentation; set it to "
                f"{each.default!r}"
            )


def _check_names(parts: Sequence[Part], config: ConfigDict) -> None:
    """Raises UserError for a name that cannot be one, and for parts without a head, targets or boxes of their own."""
    for part in parts:
        if not part.name.isidentifier() or part.name in RESERVED:
            raise UserError(f"config.parts: a part cannot be called {part.name!r}; take a word, such as objects")
        for target in part.targets:
            if target not in config.data.targets:
                wanted = tuple(dict.fromkeys((*config.data.targets, *part.targets)))
                raise UserError(
                    f"config.data.targets has no {target}, which config.parts.{part.name} learns from; set it to "
                    f"{wanted}"
                )
        unknown = sorted(part.keys.keys() - set(part.task.targets))
        if unknown:
            raise UserError(
                f"config.parts.{part.name}.targets.{unknown[0]}: {part.task.name} has no such target, but "
                f"{' and '.join(part.task.targets)}"
            )
    heads, names = config.model.get("heads", {}), {part.name for part in parts}
    if heads and set(heads) != names:  # an architecture may have heads of its own
        lone = sorted(set(heads) ^ names)[0]
        has, lacks = ("config.parts", "config.model.heads") if lone in names else ("config.model.heads", "config.parts")
        raise UserError(f"{lacks}.{lone}: missing, {has} has it; each part has a head of its name")
