"""Fuses the results of two parts of a task of tasks: the objects of one and the classes of pixels of another.

Each pixel gets an object or a class of stuff, by the rule of Panoptic FPN (ops/panoptic.py), on the device. A class of
pixels is stuff unless it is called as a class of objects, or "things". Objects without masks are made of the pixels in
their box whose class has their name.

    config.fusion.things, stuff    the names of the two parts; things = "" fuses nothing
    config.fusion.score, overlap, stuff_area    as in ops/panoptic.py
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt16
from ml_collections import ConfigDict

from morphism.data.records import Source
from morphism.errors import UserError, check_choice
from morphism.ops import panoptic as ops
from morphism.ops.platform import per_example
from morphism.tasks.detection import Detection
from morphism.tasks.panoptic import Categories, Panoptic
from morphism.tasks.parts import Named, Part, Seen
from morphism.tasks.segmentation import Segmentation

Classes = Mapping[str, Sequence[str]]  # names by part

BORROWED = {  # predictions of the parts -> what Panoptic calls them
    "things": {"boxes": "boxes", "scores": "scores", "classes": "classes"},
    "stuff": {"classes": "pixels", "true": "true", "original_size": "original_size"},
}


@dataclass(frozen=True)
class Fusion(Named):
    """The fused result, which is judged and shown as the parts are, by the name "panoptic".

    things, stuff: the parts that find objects and classes of pixels.
    categories: their classes, which only `predict` needs.
    """

    things: Part
    stuff: Part
    score: float = 0.5
    overlap: float = 0.5
    stuff_area: int = 4096
    categories: Categories | None = None
    name: ClassVar[str] = "panoptic"
    task: ClassVar[Panoptic] = Panoptic()

    @classmethod
    def of(cls, config: ConfigDict, parts: Sequence[Part], classes: Classes | None) -> "Fusion | None":
        """The fusion that `config`, config.fusion, describes. Raises UserError if a part does not exist.

        classes: names by part; None for those that `resolved` has put into `config`, if it has.
        """
        if not config.things:
            return None
        named = {part.name: part for part in parts}
        for field in ("things", "stuff"):
            check_choice(f"config.fusion.{field}", config[field], named)
        found = cls(named[config.things], named[config.stuff], config.score, config.overlap, config.stuff_area)
        known = config.get("classes") if classes is None else found.resolved(classes)["classes"]
        return replace(found, categories=Categories(*map(tuple, known))) if known else found

    def resolved(self, classes: Classes) -> dict[str, Any]:
        """Further fields of config.fusion. `classes` are names by part."""
        return {"classes": (tuple(classes[self.things.name]), tuple(classes[self.stuff.name]))}

    def check(self) -> None:
        """Raises UserError if a part has not what is fused of it."""
        if not isinstance(self.things.task, Detection):
            raise UserError(f"config.fusion.things: {self.things.name} finds no objects; name a part of detection")
        if not isinstance(self.stuff.task, Segmentation):
            raise UserError(f"config.fusion.stuff: {self.stuff.name} is not of pixels; name a part of segmentation")

    def check_classes(self, classes: Classes) -> None:
        """Raises UserError for objects without masks none of which is called as a class of pixels."""
        categories = self.classes(classes)
        if "masks" not in self.things.targets and max(categories.same) < 0:
            raise UserError(
                f"config.fusion: {self.things.name} finds no masks, and none of its classes "
                f"({', '.join(categories.things)}) is one of {self.stuff.name} ({', '.join(categories.pixels)}), whose "
                'pixels it would get; set things to ""'
            )

    @property
    def exports(self) -> Mapping[str, str]:
        return self.named(
            {"segments": "[B,H,W], 0 void, 1 + d for detection d of D, 1 + D + k for class k of the pixels"}
        )

    def predict(self, found: dict[str, Array]) -> dict[str, Array]:
        """The fused maps of the parts' predictions, and which examples carry the truths of both parts."""
        labelled = self.things.own(found)["labelled"] & self.stuff.own(found)["labelled"]
        return self.exported(found) | {f"{self.name}/labelled": labelled}

    def exported(self, found: dict[str, Array]) -> dict[str, Array]:
        """The fused maps of the parts' results."""
        things, stuff = self.things.own(found), self.stuff.own(found)
        scores = jnp.where(things["classes"] >= 0, things["scores"], -1)
        shapes = things["masks"] if "masks" in things else jnp.asarray(self.categories.same)[things["classes"]]
        own = self._masked if "masks" in things else self._boxed
        fused = per_example(partial(self._fused, own))(scores, things["boxes"], shapes, stuff["classes"])
        return {f"{self.name}/segments": fused}

    def _fused(
        self,
        pixels_of: Callable,
        scores: Float[Array, "d"],
        boxes: Float[Array, "d 4"],
        shapes: Array,
        classes: UInt8[Array, "h w"],
    ) -> UInt16[Array, "h w"]:
        return ops.fuse(
            scores,
            lambda index: pixels_of(boxes[index], shapes[index], classes),
            classes,
            self.categories.stuff,
            score=self.score,
            overlap=self.overlap,
            stuff_area=self.stuff_area,
        )

    @staticmethod
    def _masked(box: Float[Array, "4"], mask: Float[Array, "s s"], classes: UInt8[Array, "h w"]) -> Bool[Array, "h w"]:
        return ops.pasted(mask, box, *classes.shape)

    @staticmethod
    def _boxed(box: Float[Array, "4"], of: Int[Array, ""], classes: UInt8[Array, "h w"]) -> Bool[Array, "h w"]:
        """The pixels of class `of` in a box."""
        return ops.within(box, *classes.shape) & (classes == of)

    # What a Part has for its task

    @property
    def targets(self) -> tuple[str, ...]:
        return self.things.targets + self.stuff.targets

    @property
    def mains(self) -> tuple[str, ...]:
        return self.things.mains + self.stuff.mains

    def source(self, source: Source) -> Source:
        """The split as Panoptic knows it: that of the things, with the categories of all segments as its classes."""
        things, stuff = (part.source(source) for part in (self.things, self.stuff))
        return Seen(things, Categories(tuple(things.classes), tuple(stuff.classes)), {})

    def classes(self, classes: Classes) -> Categories:
        return Categories(*self.resolved(classes)["classes"])

    def own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """This part's values, by Panoptic's names, with those predictions of the parts that it reads."""
        found = super().own(values)
        for part, names in ((self.things, BORROWED["things"]), (self.stuff, BORROWED["stuff"])):
            own = part.own(values)
            found |= {to: own[name] for name, to in names.items() if name in own}
        return found
