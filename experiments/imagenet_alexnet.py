"""AlexNet (torchvision's single column; Krizhevsky 2014) on ImageNet, by torchvision's recipe.

    morphism prepare tfds:imagenet2012 --manual_dir DIR
    python train.py --config experiments/imagenet_alexnet.py --workdir runs/alexnet
    python eval.py --workdir runs/alexnet --views ten_crop

90 epochs of batches of 256, SGD with momentum 0.9, learning rate 0.01 divided by 10 after 30 and 60 epochs, weight
decay 1e-4, random crops and flips. `:lighting` adds noise along the principal components of colour (Krizhevsky et al.
2012, section 4.1).
Published top-1: 56.522 % (torchvision IMAGENET1K_V1, one central crop).
Not trained here. Estimate: 0.714 GMAC are 0.4 of those of a ResNet-18, with which an RTX 3090 trains 3,482 images per
second (timm), so 115 M images take 4 hours if the input supplies 8,800 images per second, and 9 hours at 3,500.
"""

from morphism.experiments.base import get_base


def get_config(variant: str = ""):
    if variant not in ("", "lighting"):
        raise ValueError(f"imagenet_alexnet has no variant {variant!r}; it has 'lighting'")
    config = get_base("classification")
    config.batch_size = 256
    config.duration = "90ep"
    config.model.name = "alexnet"
    config.data.source = "tfds:imagenet2012"
    config.data.workers = 8
    config.optimizer.update(name="momentum", learning_rate=0.01, reference_batch=256, weight_decay=1e-4)
    config.schedule.update(name="step", boundaries=("30ep", "60ep"), factor=0.1)
    if variant == "lighting":
        config.augment.lighting = 0.1
    return config
