"""AlexNet for the 32x32 images of CIFAR-10: a 5x5 stem with stride 2, and dense layers of 512.

    morphism prepare tfds:cifar10
    python train.py --config experiments/cifar10_alexnet.py --workdir runs/cifar_alexnet

Data and augmentation are those of `cifar10_resnet`; 100 epochs with a cosine.
Published: none for this variant. Measured here: see docs/results.md.
"""

from ml_collections import ConfigDict

from morphism.experiments import cifar10_resnet


def get_config():
    config = cifar10_resnet.get_config()
    config.duration = "100ep"
    config.model.name = "alexnet"
    config.model.options = ConfigDict(dict(stem=(5, 2, 2), pooled=1, hidden=512))
    config.optimizer.update(learning_rate=0.02, weight_decay=5e-4)
    config.schedule.update(name="cosine", warmup="1ep")
    return config
