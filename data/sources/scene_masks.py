"""`scene_masks:<count>[x<size>]`: the pictures of `scenes:` with a class a pixel.

The ten garments are of five kinds, which small pictures tell apart: shirts, pullovers and coats are tops, sandals,
sneakers and boots are shoes.
"""

from dataclasses import dataclass

import numpy as np

from data.sources import Record, scenes
from data.sources.scenes import splits

__all__ = ["classes", "load", "splits"]

CLASSES = ("background", "top", "trouser", "dress", "shoe", "bag")
KINDS = np.array([0, 1, 2, 1, 3, 1, 4, 1, 4, 5, 4], np.uint8)  # of the classes of scenes:, 0 being background


@dataclass(frozen=True)
class SceneMasks:
    scenes: scenes.Scenes
    classes = CLASSES
    oddities = ""

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def image_ids(self) -> range:
        return self.scenes.image_ids

    @property
    def sizes(self) -> np.ndarray:
        return self.scenes.sizes

    def __getitem__(self, index: int) -> Record:
        record = self.scenes[index]
        return {"image": record["image"], "name": record["name"], "segmentation": KINDS[record["segmentation"]]}


def classes(argument: str, data_dir: str) -> tuple[str, ...]:
    return CLASSES


def load(argument: str, split: str, data_dir: str) -> SceneMasks:
    return SceneMasks(scenes.load(argument, split, data_dir))
