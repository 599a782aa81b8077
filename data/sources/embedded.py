"""`embedded`: 8,000 + 2,000 Fashion-MNIST images that ship with the code, so that everything runs offline.

Both splits are drawn from the dataset's training file (`data/embedded/draw.py`), balanced by class; its test file is
not used. Xiao et al. 2017, MIT licence: data/embedded/LICENSE.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from morphism.data.records import Record
from morphism.errors import UserError

ALONE = True
FILE = Path(__file__).parent.parent / "embedded" / "fashion_mnist_10k.npz"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class Embedded:
    split: str
    classes = CLASSES
    targets: ClassVar = {"label": CLASSES}

    @property
    def labels(self) -> Int[np.ndarray, "records"]:
        return _arrays()[f"{self.split}_labels"].astype(np.int32)

    def __len__(self) -> int:
        return len(_arrays()[f"{self.split}_labels"])

    def __getitem__(self, index: int) -> Record:
        return {
            "image": _arrays()[f"{self.split}_images"][index],
            "label": int(_arrays()[f"{self.split}_labels"][index]),
            "name": f"embedded/{self.split}/{index}",
        }


@cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return dict(file)


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    if argument:
        raise UserError(f"config.data.source is 'embedded:{argument}': embedded takes no argument")
    return ("train", "val")


def load(argument: str, split: str, data_dir: str) -> Embedded:
    return Embedded(split)
