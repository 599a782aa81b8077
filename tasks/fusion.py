"""Fuses the results of two parts of a task of tasks: the objects of one and the classes of pixels of another.

Each pixel gets an object or a class of stuff, by the rule of Panoptic FPN (ops/panoptic.py), on the device. A class of
pixels is stuff unless it is called as a class of objects, or "things". Objects without masks are made of the pixels in
their box whose class has their name.

    config.fusion.things, stuff    the names of the two parts; things = "" fuses nothing
    config.fusion.score, overlap, stuff_area    as in ops/panoptic.py
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt16

from morphism.data.records import Record, Source
from morphism.ops import panoptic
from morphism.ops.platform import per_example
from morphism.tasks.panoptic import Categories, Panoptic
from morphism.tasks.parts import Part

BORROWED = {"things": ("boxes", "scores", "classes"), "stuff": ("true", "original_size")}


@dataclass(frozen=True)
class Fusion:
    """The fused result, which is judged and shown as the parts are, under the name "panoptic".

    things, stuff: the parts that find objects and classes of pixels.
    categories: their classes, which `predict` needs.
    """

    things: Part
    stuff: Part
    score: float = 0.5
    overlap: float = 0.5
    stuff_area: int = 4096
    categories: Categories | None = None
    name: ClassVar[str] = "panoptic"
    task: ClassVar[Panoptic] = Panoptic()

    def predict(self, found: dict[str, Array]) -> dict[str, Array]:
        """The fused maps of the parts' predictions, and the examples that carry the truths of both parts."""
        things, stuff = self.things.own(found), self.stuff.own(found)
        scores = jnp.where(things["classes"] >= 0, things["scores"], -1)
        masks = things.get("masks", things["boxes"][..., None, None])  # unread without a mask head
        fused = per_example(self._fused if "masks" in things else self._fused_boxes)
        return {
            "panoptic/segments": fused(scores, things["boxes"], masks, things["classes"], stuff["classes"]),
            "panoptic/labelled": things["labelled"] & stuff["labelled"],
        }
