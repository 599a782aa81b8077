"""Writes views.npz: torchvision's ten crops of squares whose pixels are numbered.

python tests/goldens/make_views.py        needs torch 2.13 and torchvision 0.28, on CPU, seconds
"""

import contextlib
from pathlib import Path

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from torchvision.transforms import TenCrop

SIZES = ((12, 8), (11, 6), (8, 5), (7, 7))  # squares, and the crops cut out of them

if __name__ == "__main__":
    found = {}
    for square, size in SIZES:
        numbered = torch.arange(square**2).reshape(1, square, square)
        found[f"{square}/{size}"] = torch.cat(TenCrop(size)(numbered)).numpy().astype(np.uint8)
    np.savez_compressed(Path(__file__).parent / "views.npz", **found)
