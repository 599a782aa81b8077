"""AlexNet for Fashion-MNIST, enlarged to 32x32: a 5x5 stem with stride 2, and dense layers of 512.

    morphism prepare tfds:fashion_mnist
    python train.py --config experiments/fashion_mnist_alexnet.py --workdir runs/fashion_alexnet

Data and preprocessing are those of `fashion_mnist_resnet`.
Published test accuracy: 89.9 % (the dataset's own list). Measured here: see docs/results.md.
"""

from ml_collections import ConfigDict

from morphism.experiments import fashion_mnist_resnet


def get_config():
    config = fashion_mnist_resnet.get_config()
    config.model.name = "alexnet"
    config.model.options = ConfigDict(dict(stem=(5, 2, 2), pooled=1, hidden=512))
    config.data.image_size = config.data.resize_size = 32
    config.optimizer.update(name="momentum", learning_rate=0.02, weight_decay=5e-4)
    return config
