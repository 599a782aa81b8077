"""ResNet-18/34/50/101/152 on ImageNet: torchvision's V1 recipe, with Goyal et al. 2017's rule for any batch size.

    python -m data.prepare tfds:imagenet2012 --manual_dir DIR
    python train.py --config experiments/imagenet_resnet.py:50 --workdir runs/r50
    python train.py --config experiments/imagenet_resnet.py:50 --config.data.source=folder:/data/imagenet --workdir ...

90 epochs, SGD with momentum 0.9, 0.1 for a batch of 256 and linear in it, divided by 10 after 30, 60 and 80 epochs
(torchvision: 30 and 60), 5 epochs of warm-up (Goyal et al., section 2.2), weight decay 1e-4 on everything.
Published top-1 of torchvision's IMAGENET1K_V1: 69.758, 73.314, 76.130, 77.374, 78.312 %. Not trained here: it takes
90 x 1.281 M pictures, 13 hours on a GPU that trains 2,500 a second.
"""

from experiments.base import get_base


def get_config(variant: str = "50"):
    config = get_base("classification")
    config.batch_size = 256
    config.duration = "90ep"
    config.model.name = f"resnet{variant}"
    config.data.source = "tfds:imagenet2012"
    config.data.workers = 8
    config.optimizer.update(name="momentum", learning_rate=0.1, reference_batch=256, weight_decay=1e-4)
    config.schedule.update(name="step", boundaries=("30ep", "60ep", "80ep"), factor=0.1, warmup="5ep")
    return config
