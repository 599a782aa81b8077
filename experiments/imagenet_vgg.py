"""VGG-11, 13, 16 and 19, without and with batch norm, on ImageNet, by torchvision's recipe.

    morphism prepare tfds:imagenet2012 --manual_dir DIR
    python train.py --config experiments/imagenet_vgg.py:16 --workdir runs/vgg16
    python eval.py --config experiments/imagenet_vgg.py:16 --weights torchvision:vgg16/IMAGENET1K_V1

Variants: 11, 13, 16, 19, and 11_bn to 19_bn. 90 epochs of batches of 256, SGD with momentum 0.9, weight decay 1e-4,
random crops and flips; the learning rate is 0.01, with batch norm 0.1, divided by 10 after 30 and 60 epochs (Simonyan &
Zisserman 2014 divide when validation stalls, and have weight decay 5e-4).
Published top-1 of torchvision's IMAGENET1K_V1: 69.020, 69.928, 71.592 and 72.376 %; with batch norm 70.370, 71.586,
73.360 and 74.218 %.
Not trained here. Estimate: an RTX 3090 trains 546 images per second through VGG-16 (timm, mixed precision), so 115 M
images take 59 hours; VGG-11, 13 and 19, in proportion to their multiply-accumulates, 29, 43 and 75.
"""

from morphism.experiments.base import get_base


def get_config(variant: str = "16"):
    config = get_base("classification")
    config.batch_size = 256
    config.duration = "90ep"
    config.model.name = f"vgg{variant}"
    config.data.source = "tfds:imagenet2012"
    config.data.workers = 8
    learning_rate = 0.1 if variant.endswith("_bn") else 0.01
    config.optimizer.update(name="momentum", learning_rate=learning_rate, reference_batch=256, weight_decay=1e-4)
    config.schedule.update(name="step", boundaries=("30ep", "60ep"), factor=0.1)
    return config
