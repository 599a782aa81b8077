"""A ResNet-50 trained on ImageNet, fine-tuned on 3,000 images of CIFAR-10 at 64 pixels.

    morphism prepare tfds:cifar10
    python train.py --config experiments/cifar10_finetune.py --workdir runs/finetune
    python train.py --config experiments/cifar10_finetune.py:scratch --workdir runs/scratch

The stem and the first stage are frozen, batch norms keep ImageNet's statistics, and the learning rate of the new head
is ten times that of the rest. `scratch` is the same run from random weights: all of them are trained, and batch norms
use the statistics of batches.
Published: none for this protocol. Measured here: see docs/results.md.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base


def get_config(variant: str = ""):
    if variant not in ("", "scratch"):
        raise ValueError(f"cifar10_finetune has no variant {variant!r}; it has 'scratch'")
    config = get_base("classification")
    config.batch_size = 64
    config.duration = "10ep"
    config.model.name = "resnet50"
    config.model.options = ConfigDict(dict(stride_in_1x1=False))  # True for weights of the original network
    config.data.update(source="tfds:cifar10", train_split="train[:6%]", val_split="train[90%:]")
    config.data.update(image_size=64, resize_size=64, crop_scale=(0.5, 1.0))
    config.optimizer.update(name="momentum", learning_rate=0.003, weight_decay=1e-4)
    config.schedule.update(name="cosine", warmup="1ep")
    if variant == "scratch":
        config.optimizer.learning_rate = 0.1
        return config
    config.init_from = "torchvision:resnet50/IMAGENET1K_V2"
    config.model.frozen_bn = True
    config.optimizer.freeze = ("conv1.*", "layer1.*")
    config.optimizer.lr_multipliers = (("fc.*", 10.0),)
    return config
