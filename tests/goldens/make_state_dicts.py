"""What torchvision saves its networks as: a SHA-256 over the names and shapes of each state dict, by name.

pip install torch==2.13.0 torchvision==0.28.0; python tests/goldens/make_state_dicts.py
"""

import contextlib
import hashlib
import json
from pathlib import Path

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  where torchvision's compiled extension cannot load
import torch
import torchvision

NAMES = (
    *("alexnet", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
)

DETECTORS = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2")
SEGMENTERS = ("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101")


def make(name):
    if name in SEGMENTERS:
        options = {"weights": None, "weights_backbone": None, "num_classes": 1000, "aux_loss": True}
        return getattr(torchvision.models.segmentation, name)(**options)
    if name in DETECTORS:
        options = {"weights": None, "weights_backbone": None, "num_classes": 1001}  # with the background
        return getattr(torchvision.models.detection, name)(**options)
    return getattr(torchvision.models, name)()


if __name__ == "__main__":
    found = {}
    for name in NAMES + SEGMENTERS + DETECTORS:
        with torch.device("meta"):
            tensors = make(name).state_dict()
        lines = "".join(f"{key} {tuple(value.shape)}\n" for key, value in sorted(tensors.items()))
        found[name] = hashlib.sha256(lines.encode()).hexdigest()
    (Path(__file__).parent / "state_dicts.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
