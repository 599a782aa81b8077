"""Writes paste.npz: masks pasted into images by torchvision's paste_masks_in_image, and which pixels are above 0.5.

PYTHONPATH=tests python tests/goldens/make_paste.py        needs torch 2.13 and torchvision 0.28, on CPU, seconds
"""

import contextlib
from pathlib import Path

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from pasted import SIZES, masks_in_boxes
from torchvision.models.detection.roi_heads import paste_masks_in_image

found = {}
for height, width, cells in SIZES:
    masks, boxes = masks_in_boxes(height, width, cells)
    values = paste_masks_in_image(torch.tensor(masks[:, None]), torch.tensor(boxes), (height, width))[:, 0].numpy()
    found[f"{height}x{width}"] = np.packbits(values > 0.5)
np.savez_compressed(Path(__file__).with_name("paste.npz"), **found)
