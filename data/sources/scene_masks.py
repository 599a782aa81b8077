"""`scene_masks:<count>[x<size>]`: the images of `scenes:` with their masks alone."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from morphism.data.records import Record
from morphism.data.sources import scenes
from morphism.data.sources.scenes import splits

__all__ = ["classes", "load", "splits"]

CLASSES = scenes.PIXEL_CLASSES


@dataclass(frozen=True)
class SceneMasks:
    scenes: scenes.Scenes
    classes = CLASSES
    targets: ClassVar = {"segmentation": CLASSES}
    oddities = ""

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def image_ids(self) -> range:
        return self.scenes.image_ids

    @property
    def sizes(self) -> np.ndarray:
        return self.scenes.sizes

    def segmentation(self, index: int) -> UInt8[np.ndarray, "s s"]:
        return self.scenes.segmentation(index)

    def __getitem__(self, index: int) -> Record:
        return self.scenes.masked(index)


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return CLASSES


def load(argument: str, split: str, data_dir: str) -> SceneMasks:
    return SceneMasks(scenes.load(argument, split, data_dir))
