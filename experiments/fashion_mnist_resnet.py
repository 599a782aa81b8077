"""ResNet-20 on the whole of Fashion-MNIST from TensorFlow Datasets; a tenth of train is held out for validation.

    morphism prepare tfds:fashion_mnist
    python train.py --config experiments/fashion_mnist_resnet.py --workdir runs/fashion_resnet

The network for small images of He et al. 2015, section 4.2. Other depths are 8, 14, 32, 44, 56 and 110.
Published test accuracy: 94.9 % for a ResNet-18 (the dataset's own list). Measured here: see docs/results.md.
"""

from morphism.experiments.base import get_base


def get_config(variant: str = "20"):
    config = get_base("classification")
    config.duration = "20ep"
    config.model.name = f"cifar_resnet{variant}"
    config.data.source = "tfds:fashion_mnist"
    config.data.val_fraction = 0.1
    config.data.image_size = config.data.resize_size = 28
    config.data.train_crop = "center"
    config.augment.update(mean=(0.2860,) * 3, std=(0.3530,) * 3, crop_padding=2)
    config.optimizer.update(name="nesterov", learning_rate=0.1, weight_decay=5e-4, decay="kernels")
    config.schedule.update(name="cosine", warmup="1ep")
    return config
