"""Writes classifiers.npz: what torchvision's classifiers compute with weights drawn by name.

    python tests/goldens/make_classifiers.py        needs torch 2.13 and torchvision 0.28, on CPU, 2 minutes

Of every architecture the logits at an odd size, of one of each kind also at 224x224; of some the features at every
stride, also dilated; and one training step of SGD (loss, gradients, running statistics, parameters) of ResNet-18 and
VGG-11-BN in float64.
"""

import contextlib
from pathlib import Path

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from drawn import drawn, random_image, sample
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

NAMES = (
    *("alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
)
SIZES = ((224, 224), (139, 181))
SQUARE = ("alexnet", "vgg11", "resnet18")  # that are looked at in both
STAGES = ["relu", "layer1", "layer2", "layer3", "layer4"]
FEATURES = {  # case -> architecture, torchvision's options, nodes
    "alexnet": ("alexnet", {}, [f"features.{i}" for i in (1, 4, 11, 12)]),
    "vgg16": ("vgg16", {}, [f"features.{i}" for i in (3, 8, 15, 22, 29, 30)]),
    "vgg11_bn": ("vgg11_bn", {}, [f"features.{i}" for i in (2, 6, 13, 20, 27, 28)]),
    "resnet18": ("resnet18", {}, STAGES),
    "resnet50": ("resnet50", {}, STAGES),
    "resnet50:16": ("resnet50", {"replace_stride_with_dilation": [False, False, True]}, STAGES),
    "resnet50:8": ("resnet50", {"replace_stride_with_dilation": [False, True, True]}, STAGES),
}
STEPPED = ("resnet18", "vgg11_bn")
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-2


def build(name, **options):
    model = getattr(models, name)(**options)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.ndim or "num_batches" not in key:
                value.copy_(torch.from_numpy(drawn(key, tuple(value.shape))))
    return model.eval()


def to_torch(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def logits(found):
    for name in NAMES:
        model = build(name)
        for size in SIZES if name in SQUARE else SIZES[1:]:
            with torch.no_grad():
                found[f"logits/{name}/{size[0]}x{size[1]}"] = model(to_torch(random_image(*size)))[0].numpy()
        print(name, flush=True)


def features(found):
    height, width = SIZES[1]
    for case, (name, options, nodes) in FEATURES.items():
        extractor = create_feature_extractor(build(name, **options), nodes)
        with torch.no_grad():
            for node, value in extractor(to_torch(random_image(height, width))).items():
                found[f"features/{case}/{node}"] = sample(value, 64)
                found[f"shape/{case}/{node}"] = np.array(value.shape)[[0, 2, 3, 1]]


def steps(found):
    """Two steps: the second has the first's momentum."""
    for name in STEPPED:
        model = build(name, num_classes=10).double().train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        images, labels = to_torch(random_image(64, 64, batch=8)).double(), torch.arange(8)
        for step in (0, 1):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            found[f"step/{name}/{step}/loss"] = loss.detach().numpy()
            for key, parameter in model.named_parameters():
                found[f"step/{name}/{step}/gradient/{key}"] = sample(parameter.grad, 8).astype(np.float32)
            optimizer.step()
        for key, value in model.state_dict().items():
            if value.ndim:
                found[f"step/{name}/state/{key}"] = sample(value, 8).astype(np.float32)


if __name__ == "__main__":
    found: dict[str, np.ndarray] = {}
    logits(found)
    features(found)
    steps(found)
    np.savez_compressed(Path(__file__).parent / "classifiers.npz", **found)
