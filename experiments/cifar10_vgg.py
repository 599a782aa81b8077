"""VGG with batch norm for the 32x32 images of CIFAR-10: dense layers of 512 on maps of one pixel.

    morphism prepare tfds:cifar10
    python train.py --config experiments/cifar10_vgg.py:16 --workdir runs/cifar_vgg16

Data and augmentation are those of `cifar10_resnet`; 200 epochs with a cosine. Other depths are 11, 13 and 19.
Published: 93.25 % for VGG-16 with batch norm in a similar variant (Li et al. 2016, "Pruning filters for efficient
ConvNets", table 1). Not trained here.
"""

from ml_collections import ConfigDict

from morphism.experiments import cifar10_resnet


def get_config(variant: str = "16"):
    config = cifar10_resnet.get_config()
    config.duration = "200ep"
    config.model.name = f"vgg{variant}_bn"
    config.model.options = ConfigDict(dict(pooled=1, hidden=512))
    config.optimizer.update(learning_rate=0.05, weight_decay=5e-4)
    config.schedule.update(name="cosine", warmup="1ep")
    return config
