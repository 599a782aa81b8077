"""ResNet-20/32/44/56/110 on CIFAR-10 (He et al. 2015, section 4.2).

    morphism prepare tfds:cifar10
    python train.py --config experiments/cifar10_resnet.py:20 --workdir runs/cifar20
    python train.py --config experiments/cifar10_resnet.py:20 --config.data.source=folder:/data/cifar10 --workdir ...

64k steps of 128 on 45k images, 5k held out; the learning rate is divided by 10 at 32k and 48k. ResNet-110 has a tenth
of the learning rate for its first 400 steps.
Published test error: 8.75, 7.51, 7.17, 6.97, 6.43 % (the last: best of five). Measured here: see docs/results.md.
"""

from morphism.experiments.base import get_base


def get_config(variant: str = "20"):
    config = get_base("classification")
    config.batch_size = 128
    config.duration = "64k"
    config.model.name = f"cifar_resnet{variant}"
    config.data.source = "tfds:cifar10"
    config.data.val_fraction = 0.1
    config.data.image_size = config.data.resize_size = 32
    config.data.train_crop = "center"
    config.augment.update(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), crop_padding=4)
    config.optimizer.update(name="momentum", learning_rate=0.1, weight_decay=1e-4)
    config.schedule.update(name="step", boundaries=("32k", "48k"), factor=0.1)
    if variant == "110":
        config.schedule.update(warmup="400", warmup_method="constant", warmup_factor=0.1)
    return config
